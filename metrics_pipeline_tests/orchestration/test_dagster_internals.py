"""What we rely on in Dagster's private names: a red test here says what an upgrade of Dagster would break.

The rest of dagster_internals.py is proved where it is used: the configuration of a storage and its kept connections in
test_instance.py, run health and the code server's answer in test_run_launcher.py, signals amid a day in
cli/test_runs.py.
"""

import signal
from collections.abc import Iterator
from uuid import UUID

import dagster as dg
import pytest
from dagster._core.definitions.data_version import CachingStaleStatusResolver, StaleStatus
from dagster._core.loader import LoadingContextForTest
from dagster._daemon.auto_run_reexecution.event_log_consumer import (
    DAGSTER_EVENT_TYPES,
    EventLogConsumerDaemon,
    _fetch_persisted_cursors,
)

from metrics_pipeline.names import PARTITION_RANGE_END_TAG, PARTITION_RANGE_START_TAG
from metrics_pipeline.orchestration.dagster_internals import (
    is_interrupted,
    quieten_first_start,
    run_in_this_process,
    signals_held_back,
    silent_output,
    version_tags,
)

KEY = dg.AssetKey("daily")
UPSTREAM = dg.AssetKey("upstream")
DAYS = ["2025-07-01", "2025-07-02", "2025-07-03"]
FIRST, SECOND, THIRD = (str(UUID(int=number)) for number in range(3))
RANGE = {PARTITION_RANGE_START_TAG: DAYS[0], PARTITION_RANGE_END_TAG: DAYS[-1]}


def definitions(code_version: str) -> dg.Definitions:
    @dg.asset(
        key=KEY,
        deps=[UPSTREAM],
        partitions_def=dg.DailyPartitionsDefinition("2025-07-01", end_date="2025-07-04"),
        backfill_policy=dg.BackfillPolicy.single_run(),
        code_version=code_version,
        config_schema={"fails": bool},
        dagster_type=dg.Nothing,
    )
    def daily(context: dg.AssetExecutionContext) -> Iterator[dg.AssetMaterialization | dg.Output[None]]:
        for number, key in enumerate(context.partition_keys):
            if number == 1 and context.op_execution_context.op_config["fails"]:
                raise dg.Failure(description="as asked for")
            tags = version_tags(f"logs of {key}", code_version, {UPSTREAM: None})
            yield dg.AssetMaterialization(KEY, partition=key, metadata={"number": number}, tags=tags)
        yield silent_output()

    @dg.asset_check(asset=KEY)
    def check() -> dg.AssetCheckResult:
        return dg.AssetCheckResult(passed=True)

    return dg.Definitions(
        assets=[dg.AssetSpec(UPSTREAM), daily],
        asset_checks=[check],
        jobs=[dg.define_asset_job("job", selection=dg.AssetSelection.assets(KEY))],
        executor=dg.in_process_executor,
    )


# In filterwarnings, "error" would make of this one an error of the import.
with pytest.warns(dg.BetaWarning, match="backfill_policy"):
    defs = definitions("1")


def events_of(
    instance: dg.DagsterInstance, run_id: str, *, parent: dg.DagsterRun | None = None, fails: bool = False
) -> Iterator[dg.DagsterEvent]:
    run_config = {"ops": {"daily": {"config": {"fails": fails}}}}
    return run_in_this_process(
        instance, __name__, "job", run_id=run_id, parent=parent, run_config=run_config, tags=RANGE
    )


def test_a_silent_output_adds_no_event_to_those_of_the_body_and_lets_the_checks_begin(
    instance: dg.DagsterInstance,
) -> None:
    events = list(events_of(instance, FIRST))
    reported = [event.step_materialization_data.materialization for event in events if event.is_step_materialization]
    numbers = [(each.partition, each.metadata["number"].value) for each in reported]
    assert numbers == [(DAYS[0], 0), (DAYS[1], 1), (DAYS[2], 2)]
    evaluated = [event for event in events if event.event_type is dg.DagsterEventType.ASSET_CHECK_EVALUATION]
    assert len(evaluated) == 1


@pytest.mark.parametrize(("code_version", "status"), [("1", StaleStatus.FRESH), ("2", StaleStatus.STALE)])
def test_a_day_is_in_sync_without_events_of_its_upstream_until_its_definition_changes(
    instance: dg.DagsterInstance, code_version: str, status: StaleStatus
) -> None:
    list(events_of(instance, FIRST))
    with pytest.warns(dg.BetaWarning, match="backfill_policy"):
        graph = definitions(code_version).resolve_asset_graph()
    resolver = CachingStaleStatusResolver(instance, graph, LoadingContextForTest(instance))
    assert [resolver.get_status(KEY, day) for day in DAYS] == [status] * 3
    assert resolver.get_current_data_version(KEY, DAYS[1]) == dg.DataVersion("logs of 2025-07-02")


def test_a_run_in_this_process_belongs_to_its_job_and_parent_and_gives_its_events_as_they_happen(
    instance: dg.DagsterInstance,
) -> None:
    list(events_of(instance, FIRST, fails=True))
    list(events_of(instance, SECOND, parent=instance.get_run_by_id(FIRST), fails=True))
    events = events_of(instance, THIRD, parent=instance.get_run_by_id(SECOND))
    next(event for event in events if event.is_step_materialization)
    run = instance.get_run_by_id(THIRD)
    assert run.status is dg.DagsterRunStatus.STARTED
    assert (run.job_name, run.parent_run_id, run.root_run_id) == ("job", SECOND, FIRST)
    assert run.tags.items() >= RANGE.items()
    list(events)
    statuses = [instance.get_run_by_id(run_id).status.value for run_id in (FIRST, SECOND, THIRD)]
    assert statuses == ["FAILURE", "FAILURE", "SUCCESS"]


def test_a_signal_just_before_a_run_ends_it_as_interrupted(instance: dg.DagsterInstance) -> None:
    with signals_held_back():
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            pytest.fail("The signal was not held back.")
        *_, last = events_of(instance, FIRST)
    assert last.is_run_failure
    assert is_interrupted(last)
    assert instance.get_run_by_id(FIRST).status is dg.DagsterRunStatus.FAILURE


def test_a_run_whose_step_failed_is_not_taken_for_an_interrupted_one(instance: dg.DagsterInstance) -> None:
    *_, last = events_of(instance, FIRST, fails=True)
    assert last.is_run_failure
    assert not is_interrupted(last)


def test_a_daemon_that_has_not_read_any_events_says_nothing_and_other_warnings_are_kept(
    caplog: pytest.LogCaptureFixture,
) -> None:
    quieten_first_start()
    logger = EventLogConsumerDaemon()._logger
    with dg.DagsterInstance.ephemeral() as instance:
        assert set(_fetch_persisted_cursors(instance, DAGSTER_EVENT_TYPES, logger).values()) == {None}
    logger.warning("No cursor")
    assert caplog.messages == ["No cursor"]
