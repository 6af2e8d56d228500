"""notifications_sensor: what it finds wrong with days, runs, ticks and checks, and that everybody is told once."""

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.remote_origin import (
    RegisteredCodeLocationOrigin,
    RemoteInstigatorOrigin,
    RemoteRepositoryOrigin,
)
from dagster._core.scheduler.instigation import (
    InstigatorState,
    InstigatorStatus,
    SensorInstigatorData,
    TickData,
    TickStatus,
)
from dagster._utils.error import SerializableErrorInfo

from metrics_pipeline.definitions import build_defs
from metrics_pipeline.errors import TransientError
from metrics_pipeline.metrics.windows import day_window
from metrics_pipeline.orchestration import notifications
from metrics_pipeline.orchestration.asset_keys import METRICS_ASSET_KEY, RETENTION_ASSET_KEY
from metrics_pipeline.orchestration.notifications import build_notifications_sensor
from metrics_pipeline.orchestration.notifications_findings import conditions_of_dagster
from metrics_pipeline.postgres.database import Database
from metrics_pipeline.settings import Settings
from metrics_pipeline_tests.days import Log, aggregate, execute, judged, query, store_agents, store_logs
from metrics_pipeline_tests.receivers import Inbox, receivers, web_server

SATURDAY, SUNDAY, MONDAY = DAYS = [date(2025, 7, 12), date(2025, 7, 13), date(2025, 7, 14)]
TUESDAY_NOON = datetime(2025, 7, 15, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
ALERTS = "SELECT rule, severity, opened_on, last_seen_on, days, resolved_on FROM metric_alerts ORDER BY rule"
TRANSITIONS = "SELECT rule, transition FROM metric_alert_transitions ORDER BY transition_id"


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        yield instance


@pytest.fixture
def webhook() -> Iterator[Inbox]:
    with web_server() as inbox:
        yield inbox


def store(database: Database) -> None:
    """Three days of an agent, all of which are stored."""
    store_agents(database, {"a": "active"})
    for day in DAYS:
        store_logs(database, [Log(timestamp=day_window(day, "UTC").start + timedelta(hours=5))])
        aggregate(database, day_window(day, "UTC"))


JOB = build_defs().resolve_job_def("daily_metrics_job")


class Ticks:
    """The ticks of the sensor, one after another, each with the cursor of the last."""

    def __init__(self, database: Database, instance: dg.DagsterInstance, *inboxes: Inbox) -> None:
        self.database, self.instance, self.cursor = database, instance, None
        urls = [f"json://127.0.0.1:{inbox.port}" for inbox in inboxes]
        self.settings = Settings(Path("/nowhere"), notify=receivers(*urls) if urls else (), start_date=SATURDAY)

    def __call__(self, at: datetime = TUESDAY_NOON) -> str:
        sensor = build_notifications_sensor(self.settings, now=lambda: at)
        resources = {"database": self.database}
        with dg.build_sensor_context(self.instance, cursor=self.cursor, resources=resources) as context:
            tick = sensor.evaluate_tick(context)
        self.cursor = tick.cursor
        assert tick.skip_message is not None
        return tick.skip_message


def test_it_runs_every_minute_by_default() -> None:
    sensor = build_defs().resolve_sensor_def("notifications_sensor")
    assert sensor.default_status is dg.DefaultSensorStatus.RUNNING
    assert sensor.minimum_interval_seconds == 60


def test_it_says_that_there_is_nothing_to_tell(stored: Database, instance: dg.DagsterInstance, webhook: Inbox) -> None:
    assert Ticks(stored, instance, webhook)() == "There is nothing to tell."
    assert query(stored, ALERTS) == []


@pytest.mark.parametrize("table", ["metric_alerts", "metric_alert_deliveries"])
def test_the_error_of_a_tick_names_who_holds_the_lock_that_it_waited_for(
    table: str, stored: Database, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notifications, "_LOCK_SECONDS", 0.1)
    with stored.begin() as holder:
        holder.exec_driver_sql(f"LOCK TABLE {table}")
        with pytest.raises(TransientError, match=rf"Held now: process \d+ \(postgres, .*\) holds {table}: LOCK"):
            Ticks(stored, instance)()


def test_a_missing_day_is_told_once_a_second_one_again_and_that_they_were_stored(
    stored: Database, instance: dg.DagsterInstance, webhook: Inbox
) -> None:
    tick = Ticks(stored, instance, webhook)
    # Not due before 03:00.
    assert tick(datetime(2025, 7, 16, 2, 59, tzinfo=UTC)) == "There is nothing to tell."
    assert "was told of 1 transition" in tick(datetime(2025, 7, 16, 3, 0, tzinfo=UTC))
    assert tick(datetime(2025, 7, 16, 3, 1, tzinfo=UTC)) == "There is nothing to tell."
    assert query(stored, ALERTS) == [("day_missing", "warning", date(2025, 7, 15), date(2025, 7, 15), 1, None)]
    tick(datetime(2025, 7, 17, 3, 0, tzinfo=UTC))
    assert query(stored, ALERTS) == [("day_missing", "critical", date(2025, 7, 15), date(2025, 7, 16), 2, None)]
    for day in (date(2025, 7, 15), date(2025, 7, 16)):
        aggregate(stored, day_window(day, "UTC"))
    tick(datetime(2025, 7, 17, 3, 1, tzinfo=UTC))
    assert query(stored, ALERTS) == [
        ("day_missing", "critical", date(2025, 7, 15), date(2025, 7, 16), 2, date(2025, 7, 17))
    ]
    assert [message["title"] for message in webhook.messages] == [
        "Opened: day missing of the pipeline",
        "Changed: day missing of the pipeline",
        "Resolved: day missing of the pipeline",
    ]
    assert "2025-07-15 is missing (" in webhook.messages[0]["message"]


def test_days_before_the_first_log_are_not_missing(database: Database, instance: dg.DagsterInstance) -> None:
    tick = Ticks(database, instance)
    tick.settings = Settings(Path("/nowhere"))
    tick()
    # Without any log nothing is known about the first day.
    assert query(database, ALERTS) != []
    store_agents(database, {"a": "active"})
    store_logs(database, [Log(timestamp=day_window(MONDAY, "UTC").start)])
    aggregate(database, day_window(MONDAY, "UTC"))
    tick()
    assert {row[-1] for row in query(database, ALERTS)} == {date(2025, 7, 15)}


def test_a_day_that_shrank_is_told_at_once_and_one_that_stays_dirty_after_six_hours(
    stored: Database, instance: dg.DagsterInstance, webhook: Inbox
) -> None:
    execute(stored, """DELETE FROM agent_execution_logs WHERE "timestamp"::date = '2025-07-12'""")
    store_logs(stored, [Log(timestamp=day_window(SUNDAY, "UTC").start)])
    judged(stored, *DAYS)
    tick = Ticks(stored, instance, webhook)
    tick()
    assert query(stored, ALERTS) == [("day_shrunk", "critical", SATURDAY, SATURDAY, 1, None)]
    tick(TUESDAY_NOON + timedelta(hours=5, minutes=59))
    assert len(query(stored, ALERTS)) == 1
    tick(TUESDAY_NOON + timedelta(hours=6))
    assert query(stored, ALERTS)[0] == ("day_dirty_long", "warning", SUNDAY, SUNDAY, 1, None)
    # Somebody wrote into the cursor in the UI.
    tick.cursor = "x"
    tick(TUESDAY_NOON + timedelta(hours=6, minutes=1))
    assert query(stored, ALERTS)[0][-1] == date(2025, 7, 15)
    aggregate(stored, day_window(SUNDAY, "UTC"))
    tick(TUESDAY_NOON + timedelta(hours=13))
    assert query(stored, TRANSITIONS) == [
        ("day_shrunk", "opened"),
        ("day_dirty_long", "opened"),
        ("day_dirty_long", "resolved"),
    ]


def run_of(
    instance: dg.DagsterInstance, status: dg.DagsterRunStatus, day: date, error: str = "", **tags: str
) -> dg.DagsterRun:
    """A run of daily_metrics_job that ended with an error of its step, or without one."""
    run = instance.create_run_for_job(JOB, tags={"dagster/partition": str(day), **tags})
    if error:
        instance.handle_new_event(
            dg.EventLogEntry(
                error_info=None,
                user_message="",
                level="error",
                run_id=run.run_id,
                timestamp=datetime.now(UTC).timestamp(),
                job_name=run.job_name,
                dagster_event=step_failure(run, error),
            )
        )
    kind = dg.DagsterEventType.RUN_FAILURE if status is dg.DagsterRunStatus.FAILURE else dg.DagsterEventType.RUN_SUCCESS
    instance.report_dagster_event(dg.DagsterEvent(kind.value, run.job_name, message="It failed."), run.run_id)
    return run


def step_failure(run: dg.DagsterRun, error: str) -> dg.DagsterEvent:
    from dagster._core.execution.plan.objects import StepFailureData, UserFailureData

    return dg.DagsterEvent(
        dg.DagsterEventType.STEP_FAILURE.value,
        run.job_name,
        step_key="agent_performance_metrics",
        event_specific_data=StepFailureData(None, UserFailureData("failure", error)),
    )


def found(instance: dg.DagsterInstance) -> dict[str, tuple[str, str]]:
    return {
        rule: (condition.severity, condition.said)
        for rule, condition in conditions_of_dagster(instance, datetime.now(UTC), "UTC").items()
        if condition is not None
    }


def test_a_failed_run_is_told_with_its_error_until_a_later_run_of_its_job_succeeds(
    stored: Database, instance: dg.DagsterInstance, webhook: Inbox
) -> None:
    now = datetime.now(UTC)
    tick = Ticks(stored, instance, webhook)
    tick.settings = Settings(Path("/nowhere"), notify=tick.settings.notify, start_date=now.date())
    failed = run_of(instance, dg.DagsterRunStatus.FAILURE, MONDAY, "2025-07-14 has shrunk.\nSecond line")
    tick(now + MINUTE)
    tick(now + 2 * MINUTE)
    (message,) = webhook.messages
    lines = message["message"].splitlines()
    assert lines[1].endswith(
        f": Run {failed.run_id} of daily_metrics_job for 2025-07-14 failed: 2025-07-14 has shrunk."
    )
    assert lines[2] == f"  http://127.0.0.1:3000/runs/{failed.run_id}"
    another = run_of(instance, dg.DagsterRunStatus.FAILURE, SUNDAY)
    tick(now + 3 * MINUTE)
    assert f"Run {another.run_id} of daily_metrics_job for 2025-07-13 failed: " in webhook.messages[1]["message"]
    run_of(instance, dg.DagsterRunStatus.SUCCESS, SATURDAY)
    tick(now + 4 * MINUTE)
    assert query(stored, TRANSITIONS) == [("run_failed", change) for change in ("opened", "changed", "resolved")]


def test_a_killed_run_that_the_daemon_repeats_and_other_teams_runs_are_not_told(instance: dg.DagsterInstance) -> None:
    run_of(instance, dg.DagsterRunStatus.FAILURE, MONDAY, **{"dagster/will_retry": "true"})

    @dg.op(name="other")
    def op() -> None:
        raise ValueError

    @dg.job(name="of_another_team")
    def job() -> None:
        op()

    job.execute_in_process(instance=instance, raise_on_error=False)
    assert found(instance) == {}


def tick_of(instance: dg.DagsterInstance, name: str, status: TickStatus, at: int) -> None:
    location = RemoteRepositoryOrigin(RegisteredCodeLocationOrigin("metrics_pipeline"), "__repository__")
    origin = RemoteInstigatorOrigin(location, name)
    data = SensorInstigatorData(min_interval=60, sensor_type=None)
    state = InstigatorState(origin, InstigatorType.SENSOR, InstigatorStatus.DECLARED_IN_CODE, data)
    if instance.get_instigator_state(state.instigator_origin_id, state.selector_id) is None:
        instance.add_instigator_state(state)
    error = SerializableErrorInfo("The server is gone.\nmore", [], "TransientError")
    instance.create_tick(
        TickData(
            instigator_origin_id=state.instigator_origin_id,
            instigator_name=name,
            instigator_type=InstigatorType.SENSOR,
            status=status,
            timestamp=float(at),
            selector_id=state.selector_id,
            run_ids=[],
            error=error if status is TickStatus.FAILURE else None,
        )
    )


def test_a_sensor_whose_last_two_ticks_failed_is_told_and_a_schedule_whose_last_one_did(
    instance: dg.DagsterInstance,
) -> None:
    tick_of(instance, "late_logs_sensor", TickStatus.SUCCESS, 1)
    tick_of(instance, "late_logs_sensor", TickStatus.FAILURE, 2)
    tick_of(instance, "of_another_team", TickStatus.FAILURE, 2)
    assert found(instance) == {}
    tick_of(instance, "late_logs_sensor", TickStatus.FAILURE, 3)
    tick_of(instance, "late_logs_sensor", TickStatus.STARTED, 4)
    said = "The ticks of late_logs_sensor fail: The server is gone."
    assert found(instance) == {"tick_failed": ("critical", said)}
    tick_of(instance, "daily_metrics_schedule", TickStatus.FAILURE, 5)
    assert found(instance)["tick_failed"][1].endswith("the ticks of daily_metrics_schedule fail: The server is gone.")
    for name in ("late_logs_sensor", "daily_metrics_schedule"):
        tick_of(instance, name, TickStatus.SKIPPED, 6)
    assert found(instance) == {}


def test_failed_checks_and_logs_that_are_held_back_are_told_until_they_pass(instance: dg.DagsterInstance) -> None:
    def evaluate(key: dg.AssetKey, name: str, *, passed: bool, **metadata: int) -> None:
        instance.report_runless_asset_event(
            dg.AssetCheckEvaluation(
                asset_key=key, check_name=name, passed=passed, severity=dg.AssetCheckSeverity.WARN, metadata=metadata
            )
        )

    evaluate(METRICS_ASSET_KEY, "breakdowns_add_up", passed=False)
    evaluate(METRICS_ASSET_KEY, "freshness", passed=False)
    evaluate(RETENTION_ASSET_KEY, "no_logs_held_back", passed=False, days_held_back=2, logs_held_back=70)
    assert found(instance) == {
        "check_failed": ("warning", "The last evaluation failed of breakdowns_add_up: see the checks of the asset."),
        "retention_held_back": (
            "warning",
            "Retention holds back 70 raw logs of 2 days: see the asset data_retention.",
        ),
    }
    evaluate(METRICS_ASSET_KEY, "breakdowns_add_up", passed=True)
    evaluate(RETENTION_ASSET_KEY, "no_logs_held_back", passed=True)
    assert found(instance) == {}
