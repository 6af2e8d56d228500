"""data_retention through Dagster: the schedule's request, the run, what it reports and checks."""

from collections.abc import Mapping
from datetime import date, datetime
from typing import Any

import dagster as dg
import pytest
from dagster._core.definitions.schedule_definition import ScheduleExecutionData

from metrics_pipeline.definitions import build_defs
from metrics_pipeline.metrics.retention import RetentionPolicy
from metrics_pipeline.names import SCHEDULED_AT_TAG
from metrics_pipeline.orchestration.asset_keys import METRICS_ASSET_KEY, RETENTION_ASSET_KEY
from metrics_pipeline.postgres.database import Database
from metrics_pipeline_tests.days import DAY, aggregate, execute, query
from metrics_pipeline_tests.examples import variants
from metrics_pipeline_tests.retention.runs import NIGHT, contents, logs_by_day, sealed, store_days, window

#: Every key that a run's metadata has, whatever there was to do.
KEYS = {
    "agent_execution_logs_deleted",
    "agent_performance_metrics_deleted",
    "metric_restatements_deleted",
    "alert_history_deleted",
    "alert_history_held_back",
    "days_sealed",
    "days_expired",
    "partitions_dropped",
    "days_held_back",
    "logs_held_back",
    "held_back",
    "logs_left_before_cutoff",
    "is_out_of_time",
    "keeps_raw_logs_from",
    "keeps_metrics_from",
    "keeps_resolved_alerts_from",
    "days",
    "seconds",
    "logs_per_second",
}
#: What a dry run calls them.
WOULD = {
    "agent_execution_logs_deleted": "would_delete_logs",
    "agent_performance_metrics_deleted": "would_delete_metrics",
    "metric_restatements_deleted": "would_delete_restatements",
    "alert_history_deleted": "would_delete_alerts",
    "days_sealed": "would_seal_days",
    "days_expired": "would_expire_days",
    "partitions_dropped": "would_drop_partitions",
}


def tick(at: str, **settings: Any) -> ScheduleExecutionData:
    defs = build_defs(**settings)
    with (
        dg.DagsterInstance.ephemeral() as instance,
        dg.build_schedule_context(
            instance,
            scheduled_execution_time=datetime.fromisoformat(at),
            repository_def=defs.get_repository_def(),
        ) as context,
    ):
        return defs.resolve_schedule_def("data_retention_schedule").evaluate_tick(context)


def run(
    database_url: str,
    instance: dg.DagsterInstance,
    config: Mapping[str, Any] | None = None,
    tags: Mapping[str, str] | None = None,
    **settings: Any,
) -> dg.ExecuteInProcessResult:
    return (
        build_defs(database_url=database_url, **settings)
        .resolve_job_def("data_retention_job")
        .execute_in_process(
            instance=instance,
            run_config={"ops": {"data_retention": {"config": {"dry_run": False} | dict(config or {})}}},
            tags={SCHEDULED_AT_TAG: NIGHT} if tags is None else tags,
            raise_on_error=False,
        )
    )


def metadata(result: dg.ExecuteInProcessResult) -> dict[str, Any]:
    [event] = result.get_asset_materialization_events()
    return {key: value.value for key, value in event.step_materialization_data.materialization.metadata.items()}


def failure(result: dg.ExecuteInProcessResult) -> str:
    [event] = [event for event in result.all_events if event.is_step_failure]
    return event.step_failure_data.user_failure_data.description


def test_it_is_asked_for_every_night_at_half_past_three_for_that_night() -> None:
    defs = build_defs(time_zone="Europe/Berlin")
    schedule = defs.resolve_schedule_def("data_retention_schedule")
    assert (schedule.cron_schedule, schedule.execution_timezone) == ("30 3 * * *", "Europe/Berlin")
    assert schedule.default_status is dg.DefaultScheduleStatus.RUNNING
    [request] = tick("2025-04-04T03:30:00+02:00", time_zone="Europe/Berlin").run_requests
    assert request.tags[SCHEDULED_AT_TAG] == "2025-04-04T03:30:00+02:00"
    # Dagster starts one run per key: a tick that is evaluated twice prunes once.
    assert request.run_key == "2025-04-04"
    assert request.run_config == {"ops": {"data_retention": {"config": {"dry_run": False}}}}


def test_the_night_comes_from_the_schedule_and_not_from_the_clock(
    database: Database, database_url: str, instance: dg.DagsterInstance
) -> None:
    store_days(database, 0, 1)
    for at, left in ((tick("2025-04-03T03:30:00+00:00"), 6), (tick("2025-04-04T03:30:00+00:00"), 3)):
        [request] = at.run_requests
        assert run(database_url, instance, tags=request.tags).success
        assert sum(logs_by_day(database).values()) == left
    # By hand, today is the day of the run, years later.
    assert run(database_url, instance, tags={}).success
    assert logs_by_day(database) == {}


def test_a_run_reports_what_went_and_its_check_passes(
    database: Database, database_url: str, instance: dg.DagsterInstance
) -> None:
    store_days(database, -1, 0)
    result = run(database_url, instance)
    said = metadata(result)
    assert set(said) == KEYS
    assert said["agent_execution_logs_deleted"] == 6
    assert (said["days_sealed"], said["days_held_back"], said["logs_held_back"]) == (2, 0, 0)
    assert (said["keeps_raw_logs_from"], said["keeps_metrics_from"]) == ("2025-03-05", "2024-04-04")
    assert said["held_back"] == "Nothing is held back."
    empty = {"metrics_deleted": 0, "logs_held_back": 0, "reason": ""}
    assert said["days"] == [{"day": f"2025-03-0{n}", "logs_deleted": 3, **empty} for n in (3, 4)]
    [check] = result.get_asset_check_evaluations()
    assert (check.check_name, check.passed) == ("no_logs_held_back", True)
    assert check.description == "Every raw log that is old enough to go is in the metrics."


def test_a_run_without_anything_to_do_reports_the_same_keys(database_url: str, instance: dg.DagsterInstance) -> None:
    said = metadata(run(database_url, instance))
    assert set(said) == KEYS
    assert (said["agent_execution_logs_deleted"], said["days"], said["logs_per_second"]) == (0, [], 0.0)


def test_days_held_back_are_named_and_the_check_warns(
    database: Database, database_url: str, instance: dg.DagsterInstance
) -> None:
    store_days(database, -1)
    store_days(database, 0, is_aggregated=False)
    result = run(database_url, instance)
    assert result.success
    said = metadata(result)
    assert (said["days_held_back"], said["logs_held_back"], said["logs_left_before_cutoff"]) == (1, 3, 3)
    assert said["held_back"].splitlines()[-1] == "| 2025-03-04 | 3 | never aggregated: backfill the day |"
    assert said["days"][1]["reason"] == "never aggregated: backfill the day"
    [check] = result.get_asset_check_evaluations()
    assert (check.passed, check.severity) == (False, dg.AssetCheckSeverity.WARN)
    # The remedy that it names works.
    aggregate(database, window(0))
    [check] = run(database_url, instance).get_asset_check_evaluations()
    assert check.passed
    assert logs_by_day(database) == {}


def test_a_dry_run_is_an_observation_and_changes_nothing(
    database: Database, database_url: str, instance: dg.DagsterInstance
) -> None:
    store_days(database, 0)
    before = contents(database)
    job = build_defs(database_url=database_url).resolve_job_def("data_retention_job")
    # What a click on Materialize does.
    result = job.execute_in_process(instance=instance, tags={SCHEDULED_AT_TAG: NIGHT})
    assert result.get_asset_materialization_events() == []
    [observation] = result.get_asset_observation_events()
    said = observation.asset_observation_data.asset_observation.metadata
    assert next(iter(said)) == "dry_run"
    assert (said["dry_run"].value, said["would_delete_logs"].value) == (True, 3)
    assert said["days"].value == [
        {"day": "2025-03-04", "would_delete_logs": 3, "would_delete_metrics": 0, "logs_held_back": 0, "reason": ""}
    ]
    assert said.keys() == {WOULD.get(key, key) for key in KEYS} | {"dry_run"}
    log = [entry.user_message for entry in instance.all_logs(result.run_id) if not entry.is_dagster_event]
    assert log == [
        "2025-03-04: 3 verified logs would be deleted, and the day sealed",
        "Nothing was deleted: this was a dry run. To delete, launch it with dry_run: false.",
    ]
    assert contents(database) == before
    assert not instance.get_latest_materialization_event(RETENTION_ASSET_KEY)


def test_days_kept_come_from_the_run_config_then_from_the_settings(
    database: Database, database_url: str, instance: dg.DagsterInstance
) -> None:
    store_days(database, 0)
    forty = RetentionPolicy(raw_log_days=40, metric_days=50)
    assert metadata(run(database_url, instance, retention=forty))["keeps_raw_logs_from"] == "2025-02-23"
    said = metadata(run(database_url, instance, {"raw_log_days": 31, "alert_days": 1}, retention=forty))
    assert (said["keeps_raw_logs_from"], said["keeps_metrics_from"]) == ("2025-03-04", "2025-02-13")
    assert said["keeps_resolved_alerts_from"] == "2025-04-03"
    assert logs_by_day(database) == {DAY: 3}


def test_the_ui_shows_the_days_of_the_settings() -> None:
    defs = build_defs(retention=RetentionPolicy(raw_log_days=1, metric_days=1400, alert_days=2000))
    launchpad = defs.resolve_assets_def(RETENTION_ASSET_KEY).op.config_schema.config_type.fields
    assert {name: field.default_value for name, field in launchpad.items()} == {
        "dry_run": True,
        "raw_log_days": 1,
        "metric_days": 1400,
        "alert_days": 2000,
        "batch_rows": 10_000,
        "pause_ms": 1_000,
        "time_budget_minutes": 60,
    }
    assert launchpad["metric_days"].description == (
        "Keep the metrics of this many days before today. null: keep them forever."
    )
    graph = defs.resolve_asset_graph()
    assert "Raw logs are kept for 1 day." in graph.get(dg.AssetKey("agent_execution_logs")).description
    assert "Resolved ones are kept for 2,000 days," in graph.get(dg.AssetKey("alert_history")).description


def test_what_is_kept_for_ever_stays_and_metrics_without_logs_expire_all_the_same(
    database: Database, database_url: str, instance: dg.DagsterInstance
) -> None:
    store_days(database, 0, 1)
    # The platform prunes its logs itself.
    execute(database, "DELETE FROM agent_execution_logs WHERE timestamp::date = '2025-03-04'")
    never = build_defs(retention=RetentionPolicy(raw_log_days=None, alert_days=None)).resolve_asset_graph()
    assert "Raw logs are kept forever." in never.get(dg.AssetKey("agent_execution_logs")).description
    result = run(database_url, instance, {"raw_log_days": None, "metric_days": 1, "alert_days": None})
    said = {
        key: value.value
        for key, value in result.get_asset_materialization_events()[-1].materialization.metadata.items()
    }
    assert (said["keeps_raw_logs_from"], said["keeps_metrics_from"]) == ("never deleted", "2025-04-03")
    assert (said["agent_execution_logs_deleted"], said["days_held_back"], said["days_expired"]) == (0, 0, 1)
    assert (logs_by_day(database), sealed(database)) == ({date(2025, 3, 5): 3}, {DAY: 0})


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"raw_log_days": 0}, "raw_log_days is 0"),
        ({"raw_log_days": 400}, "raw_log_days is 400, more than metric_days, 365"),
        ({"batch_rows": 0}, "batch_rows is 0. Choose a number from 1 to 1,000,000."),
        ({"time_budget_minutes": 100_000}, "time_budget_minutes is 100000"),
    ],
)
def test_a_run_config_that_could_do_harm_is_refused_at_once(
    database: Database, database_url: str, instance: dg.DagsterInstance, config: dict[str, int], said: str
) -> None:
    store_days(database, 0)
    result = run(database_url, instance, config)
    assert said in failure(result)
    assert not [event for event in result.all_events if event.is_step_up_for_retry]
    assert (logs_by_day(database), sealed(database)) == ({DAY: 3}, {})


def test_each_day_is_told_in_the_log_of_the_run(
    database: Database, database_url: str, instance: dg.DagsterInstance
) -> None:
    store_days(database, 0, logs=5)
    result = run(database_url, instance, {"batch_rows": 2, "pause_ms": 0})
    log = [entry.user_message for entry in instance.all_logs(result.run_id) if not entry.is_dagster_event]
    assert log == [
        "2025-03-04: 5 verified logs deleted, the day is sealed",
    ]


def test_a_missing_table_ends_the_run_with_the_remedy(
    database: Database, bare_database_url: str, instance: dg.DagsterInstance
) -> None:
    assert "table agent_execution_logs is missing" in failure(run(bare_database_url, instance))
    assert query(database, "SELECT 1") == [(1,)]


@pytest.mark.parametrize("tag", ["tonight", "", "2025-02-30T03:30:00+00:00", "0001-01-01T00:00:00+14:00"])
def test_an_instant_that_is_none_fails_the_run_in_a_sentence_and_deletes_nothing(
    database: Database, database_url: str, instance: dg.DagsterInstance, tag: str
) -> None:
    store_days(database, 0)
    before = contents(database)
    said = failure(run(database_url, instance, tags={SCHEDULED_AT_TAG: tag}))
    assert f"The tag .dagster/metrics_scheduled_at is {tag!r}, which is not an instant in ISO 8601." in said
    assert contents(database) == before


@pytest.mark.parametrize("value", variants([-1, 2_000_000, 10**30]))
@pytest.mark.parametrize("name", ["raw_log_days", "metric_days", "batch_rows", "pause_ms", "time_budget_minutes"])
def test_a_number_out_of_range_in_the_launchpad_fails_the_run_in_a_sentence_and_deletes_nothing(
    database: Database, database_url: str, instance: dg.DagsterInstance, name: str, value: int
) -> None:
    store_days(database, 0)
    before = contents(database)
    said = failure(run(database_url, instance, config={name: value}))
    assert f"{name} is {value}" in said
    assert said.endswith(".")
    assert contents(database) == before


@pytest.mark.parametrize("value", ["30", 1.5, [], "1; DROP TABLE x"])
def test_what_is_no_number_in_the_launchpad_starts_no_run(
    database: Database, database_url: str, instance: dg.DagsterInstance, value: object
) -> None:
    with pytest.raises(dg.DagsterInvalidConfigError, match="raw_log_days"):
        run(database_url, instance, config={"raw_log_days": value})
    assert instance.get_runs() == []


def test_the_partition_of_an_expired_day_says_so_instead_of_its_old_numbers(
    database: Database, database_url: str, instance: dg.DagsterInstance
) -> None:
    store_days(database, 0)
    result = run(database_url, instance, {"raw_log_days": 1, "metric_days": 1})
    day, retention = result.get_asset_materialization_events()
    assert (day.asset_key, day.partition, retention.asset_key) == (METRICS_ASSET_KEY, "2025-03-04", RETENTION_ASSET_KEY)
    said = day.step_materialization_data.materialization.metadata
    assert (said["state"].value, said["agents"].value, said["rows_deleted"].value) == ("expired", 0, 1)
