"""kill -9 of the daemon, the code server and the webserver of a production, during a backfill and under the sensor."""

import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.execution.backfill import BulkActionStatus
from dagster._core.storage.tags import ASSET_PARTITION_RANGE_END_TAG, ASSET_PARTITION_RANGE_START_TAG, RUN_KEY_TAG
from sqlalchemy import text

from metrics_pipeline.log_files.sample_logs import store_sample
from metrics_pipeline.metrics.windows import day_window, days_between, last_due_day
from metrics_pipeline.names import PARTITION_TAG
from metrics_pipeline.orchestration.processes import is_claimed_here
from metrics_pipeline.postgres.database import Database
from metrics_pipeline.sample.agents import SampleSpec
from metrics_pipeline_tests.cli.ui import launch_backfill, launch_run
from metrics_pipeline_tests.databases import scratch_database
from metrics_pipeline_tests.days import aggregate, assert_exact, query
from metrics_pipeline_tests.homes import scratch_home
from metrics_pipeline_tests.processes import processes, wait_until

from .days import correct
from .judge import (
    UNFINISHED,
    assert_exact_or_not_done,
    assert_no_unfinished_run,
    assert_nothing_half_published,
    assert_nothing_left_behind,
)
from .services import (
    CODE_SERVER,
    DAEMON,
    WEBSERVER,
    Services,
    assert_no_pool_slot_is_taken,
    let_the_interval_of_the_sensors_pass,
    running_services,
    write_impatient_instance,
)
from .stage import Play, Stage

_NEWEST = last_due_day(datetime.now(UTC), "UTC")
_DAYS = days_between(_NEWEST - timedelta(days=3), _NEWEST)
_ASSET = {"path": ["agent_performance_metrics"]}
_ASKED = {"assetSelection": [_ASSET], "partitionNames": [str(day) for day in _DAYS]}
_RANGE = {ASSET_PARTITION_RANGE_START_TAG: str(_DAYS[0]), ASSET_PARTITION_RANGE_END_TAG: str(_DAYS[-1])}

_FAULTS = 3
#: Seconds between the launch of the backfill, or the previous fault, and a fault: a run takes some seconds to begin.
_UP_TO_SECONDS = 6.0
_UNDER_WAY = (BulkActionStatus.REQUESTED, BulkActionStatus.FAILING, BulkActionStatus.CANCELING)
#: Seconds that the code server stays away after Dagster has given the killed run up.
_AWAY_SECONDS = 10.0


@pytest.fixture
def production(server_uri: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, dict[str, str]]]:
    """A home whose neighbour is the folder of an instance with a Dagster storage of its own, and its environment."""
    with scratch_home() as home, scratch_database(server_uri, "template0") as url:
        storage = url.replace("postgresql://", "postgresql+psycopg2://", 1)
        monkeypatch.setenv("DAGSTER_POSTGRES_URL", storage)
        folder = home.parent / "dagster"
        write_impatient_instance(folder)
        yield (
            home,
            {
                "DAGSTER_HOME": str(folder),
                "DAGSTER_POSTGRES_URL": storage,
                "DAGSTER_BACKFILL_RETRY_DEFINITION_CHANGED_ERROR": "1",
            },
        )


def _store_days(database: Database) -> None:
    spec = SampleSpec(seed=29, agents=9, logs_per_day=200)
    store_sample(database, spec, _DAYS, "UTC", lambda *_: None)
    aggregate(database, day_window(_DAYS[1], "UTC"), run_id="long ago")


def _disturb(database: Database, pauses: list[float], ends: threading.Event) -> None:
    """Logs arrive late and are corrected, each time while the table of metrics is locked, so that runs take longer."""
    for number, seconds in enumerate(pauses):
        with database.engine.begin() as connection:
            connection.execute(text("LOCK TABLE agent_performance_metrics"))
            correct(database, _DAYS[number % len(_DAYS)], number=number + 1)
            time.sleep(seconds)
        if ends.wait(seconds):
            return


def _ended(instance: dg.DagsterInstance, services: Services, backfill_id: str) -> BulkActionStatus:
    """How the backfill ended, once no run is under way either."""

    def is_over() -> bool:
        backfill = instance.get_backfill(backfill_id)
        assert backfill is not None
        is_under_way = backfill.status in _UNDER_WAY
        return not is_under_way and not instance.get_runs(dg.RunsFilter(statuses=UNFINISHED))

    try:
        wait_until(is_over)
    except AssertionError:
        runs = [(run.status, dict(run.tags)) for run in instance.get_runs()]
        raise AssertionError(f"{backfill_id} or a run does not end: {runs}\n{services.output()}") from None
    backfill = instance.get_backfill(backfill_id)
    assert backfill is not None
    return backfill.status


# A case takes a minute and a half, most of which is Dagster's own waiting.
@pytest.mark.few_seeds
@pytest.mark.long
def test_a_backfill_in_production_survives_the_death_of_every_service(
    stage: Stage, production: tuple[Path, dict[str, str]]
) -> None:
    home, environment = production
    url, database = stage.prepared(Play((), _store_days))
    environment |= {
        "METRICS_DATABASE_URL": url,
        "METRICS_START_DATE": str(_DAYS[0]),
        "METRICS_LOOKBACK_DAYS": "2",
    }
    faults = [
        (stage.random.uniform(0, _UP_TO_SECONDS), stage.random.choice([CODE_SERVER, CODE_SERVER, DAEMON, WEBSERVER]))
        for _ in range(_FAULTS)
    ]
    print("faults (seconds to wait, service):", faults)
    folder = Path(environment["DAGSTER_HOME"])
    ends = threading.Event()
    pauses = [stage.random.uniform(0.1, 1.5) for _ in range(20)]
    with (
        dg.DagsterInstance.from_config(str(folder)) as instance,
        running_services(home, folder, environment) as services,
    ):
        disturber = threading.Thread(target=_disturb, args=[database, pauses, ends])
        disturber.start()
        try:
            backfill_id = launch_backfill(services.ui, **_ASKED)
            for seconds, service in faults:
                time.sleep(seconds)
                services.kill(service)
                services.start(service)
            services.wait_for_the_webserver()
        finally:
            ends.set()
            disturber.join()
        first = _ended(instance, services, backfill_id)
        # A run is repeated twice. If it is killed once more, the backfill reports the failure.
        assert first in (BulkActionStatus.COMPLETED_SUCCESS, BulkActionStatus.COMPLETED_FAILED)
        assert_exact_or_not_done(database, [], before=_DAYS)
        assert_no_pool_slot_is_taken(instance)

        # A day whose logs were corrected after it was read is repaired when it is asked for again.
        again = launch_run(services.ui, "daily_metrics_job", **_RANGE)
        wait_until(lambda: not instance.get_runs(dg.RunsFilter(statuses=UNFINISHED)))
        run = instance.get_run_by_id(again)
        assert run is not None
        assert run.status is dg.DagsterRunStatus.SUCCESS
        services.stop()
        wait_until(lambda: not processes(home), seconds=30)
        assert_nothing_half_published(database)
        for day in _DAYS:
            assert_exact(database, day_window(day, "UTC"))
        assert_nothing_left_behind(database)
        assert_no_unfinished_run(instance, "daily_metrics_job")
        assert_no_pool_slot_is_taken(instance)


def _make_the_newest_day_dirty(database: Database) -> None:
    _store_days(database)
    aggregate(database, day_window(_NEWEST, "UTC"), run_id="long ago")
    correct(database, _NEWEST)


def _is_given_up(instance: dg.DagsterInstance, run: dg.DagsterRun) -> bool:
    """Whether the daemon has passed over the run's failure, after which it never tries to repeat the run again.

    The tag will_retry does not say so. The daemon looks for new failures every 5 s. Rarely it finds one before the
    status and the tag of the run are written. Then it passes over it, and the tag says "true" forever.
    """
    failures = instance.get_records_for_run(run.run_id, of_type=dg.DagsterEventType.RUN_FAILURE).records
    key = f"EVENT_LOG_CONSUMER_CURSOR-{dg.DagsterEventType.RUN_FAILURE.value}"
    cursor = int(instance.daemon_cursor_storage.get_cursor_values({key}).get(key, 0))
    return bool(failures) and cursor >= failures[-1].storage_id


@pytest.mark.few_seeds
@pytest.mark.long
def test_a_day_whose_run_died_with_its_code_server_is_asked_for_again_by_the_sensor(
    stage: Stage, production: tuple[Path, dict[str, str]]
) -> None:
    """Dagster's own repetition of the run is lost, because no code server is there to start it."""
    home, environment = production
    url, database = stage.prepared(Play((), _make_the_newest_day_dirty))
    environment |= {
        "METRICS_DATABASE_URL": url,
        "METRICS_START_DATE": str(_DAYS[0]),
        "METRICS_LOOKBACK_DAYS": "2",
    }
    killed_after, away = stage.random.uniform(0, _UP_TO_SECONDS), stage.random.uniform(0, _AWAY_SECONDS)
    print(f"killed after {killed_after} s, away for {away} s")
    asked = dg.RunsFilter(tags={PARTITION_TAG: str(_NEWEST)})
    with (
        dg.DagsterInstance.from_config(environment["DAGSTER_HOME"]) as instance,
        running_services(home, Path(environment["DAGSTER_HOME"]), environment) as services,
    ):
        # The run can read the day, and cannot store it.
        with database.engine.begin() as connection:
            connection.execute(text("LOCK TABLE agent_performance_metrics IN SHARE MODE"))
            services.ui.wait_for(lambda: any(map(is_claimed_here, instance.get_runs(asked))))
            time.sleep(killed_after)
            services.kill(CODE_SERVER)
        services.ui.wait_for(
            lambda: [(run.status, _is_given_up(instance, run)) for run in instance.get_runs(asked)],
            lambda runs: runs == [(dg.DagsterRunStatus.FAILURE, True)],
        )
        time.sleep(away)
        services.start(CODE_SERVER)
        services.wait_for_the_webserver()

        def is_healed() -> bool:
            if not instance.get_runs(dg.RunsFilter(statuses=UNFINISHED)):
                let_the_interval_of_the_sensors_pass(instance)
            return (_NEWEST, "long ago") not in query(database, "SELECT metric_date, run_id FROM metric_day_ledger")

        services.ui.wait_for(is_healed)
        services.ui.wait_for(lambda: not instance.get_runs(dg.RunsFilter(statuses=UNFINISHED)))
        healing, killed = instance.get_runs(asked)
        assert (killed.status, healing.status) == (dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.SUCCESS)
        assert healing.tags[RUN_KEY_TAG] == f"{killed.tags[RUN_KEY_TAG]}#1"
        services.stop()
        wait_until(lambda: not processes(home), seconds=30)
        assert_nothing_half_published(database)
        assert_exact(database, day_window(_NEWEST, "UTC"))
        assert_nothing_left_behind(database)
        assert_no_unfinished_run(instance, "daily_metrics_job")
        assert_no_pool_slot_is_taken(instance)
