"""Checks within runs: when they are evaluated, and that neither a verdict nor an error changes the state of a day."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from metrics_pipeline.definitions import build_defs
from metrics_pipeline.orchestration import failures
from metrics_pipeline.postgres.database import Database
from metrics_pipeline_tests.orchestration.nights import waiting_run
from metrics_pipeline_tests.orchestration.runs import DAYS, KEY, Ended, Run, assert_equal_to_oracle, execute, partitions

FRIDAY, SATURDAY, SUNDAY = DAYS
KEYS = {day.isoformat() for day in DAYS}
OF_METRICS = {
    "stored_rows_equal_ledger",
    "distributions_equal_metrics",
    "breakdowns_add_up",
    "freshness",
    "no_missing_or_dirty_days",
    "active_agents_have_rows",
    "no_unusual_changes",
}
OF_LOGS = {"no_skipped_logs", "no_suspicious_values"}


def verdicts(ended: Ended) -> dict[str, bool]:
    evaluations = [
        event.asset_check_evaluation_data for event in ended.of_type(dg.DagsterEventType.ASSET_CHECK_EVALUATION)
    ]
    found = {evaluation.check_name: evaluation.passed for evaluation in evaluations}
    assert len(found) == len(evaluations)
    return found


def test_a_run_over_several_days_evaluates_each_check_of_the_asset_once_when_all_are_stored(
    run: Run, logs: None, instance: dg.DagsterInstance
) -> None:
    ended = run(FRIDAY, SUNDAY)
    assert ended.succeeded
    assert set(verdicts(ended)) == OF_METRICS
    # Years later, by the clock of the test, nothing of the look-back window is stored.
    assert {name for name, passed in verdicts(ended).items() if not passed} == {"freshness", "no_missing_or_dirty_days"}
    kinds = [event.event_type for event in ended.events if event.step_key != "agent_overview"]
    first_check = kinds.index(dg.DagsterEventType.ASSET_CHECK_EVALUATION)
    assert kinds[:first_check].count(dg.DagsterEventType.ASSET_MATERIALIZATION) == 3
    assert dg.DagsterEventType.ASSET_MATERIALIZATION not in kinds[first_check:]
    assert partitions(instance) == (KEYS, set())


def test_a_red_check_leaves_its_days_materialised_and_its_run_successful(
    run: Run, logs: None, database: Database, instance: dg.DagsterInstance
) -> None:
    run(FRIDAY)
    execute(database, "UPDATE agent_performance_metrics SET total_cost_usd = total_cost_usd + 1")
    ended = run(SATURDAY)
    assert ended.succeeded
    assert not verdicts(ended)["stored_rows_equal_ledger"]
    assert partitions(instance) == (KEYS - {SUNDAY.isoformat()}, set())
    again = run(FRIDAY)
    assert verdicts(again)["stored_rows_equal_ledger"]


def test_an_error_of_a_check_is_no_verdict_and_takes_nothing_from_the_days(
    run: Run, logs: None, database: Database, instance: dg.DagsterInstance
) -> None:
    run(FRIDAY, SATURDAY)
    # The check's cast to a number fails. The day is sealed, because aggregating it again would repair the row.
    execute(
        database,
        "ALTER TABLE agent_performance_metrics DROP CONSTRAINT agent_performance_metrics_error_distribution_check",
    )
    execute(
        database,
        """UPDATE agent_performance_metrics SET error_distribution = '{"timeout": "many"}' WHERE metric_date = :day""",
        day=FRIDAY,
    )
    execute(
        database,
        "UPDATE metric_day_ledger SET raw_pruned_at = now(), raw_pruned_logs = 1 WHERE metric_date = :day",
        day=FRIDAY,
    )
    ended = run(SATURDAY, SUNDAY)
    assert not ended.succeeded
    assert set(verdicts(ended)) == OF_METRICS - {"stored_rows_equal_ledger"}
    assert ended.failure.startswith(
        "The check stored_rows_equal_ledger could not be evaluated; what is stored stays as it is. "
        "PostgreSQL refused a statement in"
    )
    assert ended.retries == 0
    assert partitions(instance) == (KEYS, set())
    assert_equal_to_oracle(database, SATURDAY, SUNDAY)


def test_a_failed_day_stays_failed_and_gets_no_verdict(
    run: Run, logs: None, database: Database, instance: dg.DagsterInstance
) -> None:
    run(SATURDAY)
    execute(database, "UPDATE metric_day_ledger SET time_zone = 'Asia/Tokyo', window_end = window_end - interval '9 h'")
    ended = run(FRIDAY, SUNDAY)
    assert not ended.succeeded
    assert verdicts(ended) == {}
    assert partitions(instance) == (KEYS, {SATURDAY.isoformat()})


@pytest.mark.parametrize(
    ("name", "end"), [("checks_after_failure_sensor", "failed"), ("checks_after_cancellation_sensor", "canceled")]
)
def test_after_a_run_that_ended_before_its_checks_they_are_evaluated(name: str, end: str, tmp_path: Path) -> None:
    defs = build_defs()
    sensor = defs.resolve_sensor_def(name)
    assert sensor.default_status is dg.DefaultSensorStatus.RUNNING
    assert [job.name for job in sensor.jobs] == ["daily_checks_job"]
    cursor = None
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:

        def asked(end: str = "", **run: Any) -> bool:
            nonlocal cursor
            started = instance.add_run(dg.DagsterRun(**run, status=dg.DagsterRunStatus.STARTED))
            if end:
                getattr(instance, f"report_run_{end}")(started)
            with dg.build_sensor_context(
                instance, cursor=cursor, repository_def=defs.get_repository_def(), sensor_name=name
            ) as context:
                tick = sensor.evaluate_tick(context)
            cursor = tick.cursor
            return [request.run_key for request in tick.run_requests] == [started.run_id]

        assert not asked(job_name="daily_metrics_job")
        assert asked(end, job_name="daily_metrics_job")
        assert asked(end, job_name="__ASSET_JOB", asset_selection=frozenset([KEY]))
        assert not asked(end, job_name="__ASSET_JOB", asset_selection=frozenset([dg.AssetKey("data_retention")]))
        assert not asked(end, job_name="daily_checks_job")
        assert not asked(end, job_name="data_retention_job")
        origin = waiting_run(instance, dg.DagsterRunStatus.STARTED, {}).remote_job_origin
        instance.add_run(
            dg.DagsterRun(job_name="daily_checks_job", status=dg.DagsterRunStatus.QUEUED, remote_job_origin=origin)
        )
        assert not asked(end, job_name="daily_metrics_job")


def test_a_passing_fault_of_a_check_is_tried_again(
    run: Run, logs: None, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Once the day is stored, reading the registry is too slow until somebody waits for it.
    execute(database, "CREATE TABLE trouble (); INSERT INTO trouble DEFAULT VALUES")
    execute(
        database,
        """CREATE FUNCTION fault() RETURNS boolean LANGUAGE plpgsql AS $$
           BEGIN
               IF EXISTS (SELECT FROM metric_day_ledger) AND EXISTS (SELECT FROM trouble) THEN
                   RAISE EXCEPTION 'too slow' USING ERRCODE = '57014';
               END IF;
               RETURN true;
           END $$""",
    )
    execute(database, "ALTER TABLE agent_registry RENAME TO registered")
    execute(database, "CREATE VIEW agent_registry AS SELECT * FROM registered WHERE fault()")
    monkeypatch.setattr(
        failures.time, "sleep", lambda _seconds: execute(database, "DROP TABLE trouble; CREATE TABLE trouble ()")
    )
    ended = run(FRIDAY)
    assert ended.succeeded
    assert ended.retries == 1
    assert ended.days == [FRIDAY.isoformat()]
    assert set(verdicts(ended)) == OF_METRICS


def test_the_nightly_job_evaluates_every_check_reads_all_logs_and_materialises_nothing(
    run: Run, logs: None, database: Database, instance: dg.DagsterInstance
) -> None:
    readings = [
        evaluation.asset_check_evaluation_data.metadata["oldest_reading"].value
        for ended in (run(FRIDAY), run(SATURDAY, SUNDAY))
        for evaluation in ended.of_type(dg.DagsterEventType.ASSET_CHECK_EVALUATION)
        if evaluation.asset_check_evaluation_data.check_name == "no_missing_or_dirty_days"
    ]
    # The first run had to read the look-back window, which nobody had looked at.
    assert readings[0] == readings[1]
    result = (
        build_defs()
        .resolve_job_def("daily_checks_job")
        .execute_in_process(instance=instance, resources={"database": database})
    )
    assert result.success
    assert {evaluation.check_name for evaluation in result.get_asset_check_evaluations()} == OF_METRICS | OF_LOGS
    assert result.get_asset_materialization_events() == []
    (completeness,) = [
        evaluation
        for evaluation in result.get_asset_check_evaluations()
        if evaluation.check_name == "no_missing_or_dirty_days"
    ]
    assert completeness.metadata["oldest_reading"].value > readings[1]


@pytest.mark.parametrize("name", sorted(OF_METRICS | OF_LOGS))
def test_each_check_can_be_evaluated_by_itself_and_says_what_to_do(
    run_check: Callable[..., dg.ExecuteInProcessResult], name: str
) -> None:
    assert run_check(name).success
    graph = build_defs().resolve_asset_graph()
    (node,) = [graph.get(key) for key in graph.asset_check_keys if key.name == name]
    assert node.description is not None
    assert "**When it is " in node.description
    assert node.key.asset_key == (KEY if name in OF_METRICS else dg.AssetKey("agent_execution_logs"))
    assert not node.blocking
