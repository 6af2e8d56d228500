"""Missing, dirty and overdue days, and the moment from which a day is overdue."""

from datetime import datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.storage.tags import PARTITION_NAME_TAG

from metrics_pipeline.metrics.windows import day_window, last_due_day
from metrics_pipeline.orchestration.assets import build_metrics_asset
from metrics_pipeline.orchestration.checks.assembly import build_checks
from metrics_pipeline.orchestration.jobs import build_daily_metrics_job
from metrics_pipeline.orchestration.overview import build_overview_asset
from metrics_pipeline.orchestration.partitions import build_daily_partitions
from metrics_pipeline.orchestration.upstream import upstream_assets
from metrics_pipeline.postgres.database import Database
from metrics_pipeline.settings import Settings
from metrics_pipeline_tests.days import DAY, Log, aggregate, execute, store_agents, store_logs
from metrics_pipeline_tests.orchestration.nights import waiting_run

from .evaluations import TOMORROW, Evaluate, values

NAME = "no_missing_or_dirty_days"
DAYS = [DAY - timedelta(days=n) for n in (2, 1, 0)]
THREE_DAYS = {"start_date": DAYS[0]}


def store(database: Database) -> None:
    """Three days of one agent."""
    store_agents(database, {"a": "active"})
    for day in DAYS:
        store_logs(database, [Log("a", timestamp=day_window(day, "UTC").start)])
        aggregate(database, day_window(day, "UTC"))


def test_days_that_are_stored_and_equal_their_logs_pass(stored: Database, evaluate: Evaluate) -> None:
    verdict = evaluate(NAME, **THREE_DAYS)
    assert verdict.passed
    assert verdict.description == "All days are stored and equal their logs (3)."
    assert values(verdict) | {"oldest_reading": 0} == {
        "oldest_reading": 0,
        "days": "2025-03-02 to 2025-03-04",
        "days_checked": 3,
        "logs_of": "agent_execution_logs",
        "days_before_the_first_log": 0,
        "days_aggregated": 3,
        "days_no_activity": 0,
        "days_missing": 0,
        "days_dirty": 0,
        "days_damaged": 0,
        "days_shrunk": 0,
        "days_unreadable": 0,
        "days_sealed": 0,
        "days_expired": 0,
        "days_running": 0,
        "days_other_zone": 0,
        "days_judged_by_content": 3,
        "days_judged_by_counters": 0,
        "days_judged_by_feed": 0,
        "days_judged_by_tables": 0,
        "days_judged_by_inserts": 0,
        "days_judged_by_snapshot": 0,
        "days_judged_by_count": 0,
        "days_of_older_definition": 0,
        "unfinished_days": "None.",
    }


def test_missing_and_dirty_days_are_named_with_the_reason(stored: Database, evaluate: Evaluate) -> None:
    execute(stored, "DELETE FROM metric_day_ledger WHERE metric_date = '2025-03-02'")
    store_logs(stored, [Log("a", latency_ms=7, timestamp=day_window(DAYS[1], "UTC").start)])
    verdict = evaluate(NAME, **THREE_DAYS)
    assert not verdict.passed
    assert verdict.severity is dg.AssetCheckSeverity.ERROR
    assert verdict.description == "2 of 3 days are not right: 2025-03-02 is missing, 2025-03-03 is dirty."
    assert "| 2025-03-02 | missing | never aggregated, 1 log |" in values(verdict)["unfinished_days"]
    assert (
        "| 2025-03-03 | dirty | logs &#43;1, successful &#43;1, latency &#43;7 ms |"
        in values(verdict)["unfinished_days"]
    )


def test_a_day_that_nothing_asks_for_leads_to_the_run_that_failed(
    stored: Database, evaluate: Evaluate, instance: dg.DagsterInstance
) -> None:
    execute(stored, "DELETE FROM agent_execution_logs WHERE timestamp < '2025-03-03'")
    run = waiting_run(instance, dg.DagsterRunStatus.STARTED, {PARTITION_NAME_TAG: "2025-03-02"})
    instance.report_run_failed(run)
    found = values(evaluate(NAME, **THREE_DAYS))
    assert found["last_failed_run_of_2025-03-02"] == run.run_id
    assert "| 2025-03-02 | shrunk |" in found["unfinished_days"]
    assert found["unfinished_days"].rstrip().endswith("| nothing, until an operator decides |")


@pytest.mark.parametrize("naive", [False, True], ids=["timestamptz", "timestamp"])
def test_days_before_the_first_log_are_not_missed(stored: Database, evaluate: Evaluate, naive: bool) -> None:
    if naive:
        execute(stored, 'ALTER TABLE agent_execution_logs ALTER "timestamp" TYPE timestamp')
    verdict = evaluate(NAME)
    assert verdict.passed
    assert (values(verdict)["days_checked"], values(verdict)["days_before_the_first_log"]) == (3, 11)
    # In Tokyo the first log, at midnight in London, belongs to the same date; in New York, to the day before.
    execute(stored, "DELETE FROM metric_day_ledger", "DELETE FROM agent_performance_metrics")
    for zone, missing in (("UTC", 3), ("Asia/Tokyo", 3), ("America/New_York", 4)):
        assert values(evaluate(NAME, time_zone=zone))["days_missing"] == missing
    # A day that was stored before its logs were pruned is a beginning as well.
    aggregate(stored, day_window(DAYS[0] - timedelta(days=1), "UTC"))
    assert values(evaluate(NAME))["days_missing"] == 3
    assert values(evaluate(NAME))["days_no_activity"] == 1


@pytest.mark.parametrize("naive", [False, True], ids=["timestamptz", "timestamp"])
def test_logs_at_infinity_and_before_christ_are_no_beginning(
    database: Database, evaluate: Evaluate, naive: bool
) -> None:
    if naive:
        execute(database, 'ALTER TABLE agent_execution_logs ALTER "timestamp" TYPE timestamp')
    for moment in ("-infinity", "infinity", "0044-03-15 BC", "294276-12-31"):
        execute(
            database,
            f"""INSERT INTO agent_execution_logs (agent_id, "timestamp", status) VALUES ('a', '{moment}', 'x')""",
        )
    assert values(evaluate(NAME))["days_before_the_first_log"] == 14
    store_logs(database, [Log("a")])
    assert values(evaluate(NAME))["days_before_the_first_log"] == 13


def test_a_day_that_another_run_writes_is_left_to_it(
    stored: Database, evaluate: Evaluate, instance: dg.DagsterInstance
) -> None:
    execute(stored, "DELETE FROM metric_day_ledger WHERE metric_date = '2025-03-04'")
    run = waiting_run(instance, dg.DagsterRunStatus.STARTED, {PARTITION_NAME_TAG: "2025-03-04"})
    verdict = evaluate(NAME, **THREE_DAYS)
    assert verdict.passed
    assert values(verdict)["days_running"] == 1
    instance.report_run_canceled(run)
    assert not evaluate(NAME, **THREE_DAYS).passed


def test_the_days_of_its_own_run_are_judged(database: Database, instance: dg.DagsterInstance) -> None:
    store_agents(database, {"a": "active"})
    store_logs(database, [Log("a")])
    settings = Settings(Path("/nowhere"), start_date=DAY)
    defs = dg.Definitions(
        assets=[
            *upstream_assets(settings.retention, build_daily_partitions(settings)),
            build_metrics_asset(build_daily_partitions(settings), settings),
            build_overview_asset(settings),
        ],
        asset_checks=build_checks(settings, now=lambda: TOMORROW),
        jobs=[build_daily_metrics_job()],
        resources={"database": database},
    )
    result = defs.resolve_job_def("daily_metrics_job").execute_in_process(
        instance=instance, partition_key=DAY.isoformat()
    )
    (verdict,) = [found for found in result.get_asset_check_evaluations() if found.check_name == NAME]
    assert verdict.passed
    assert values(verdict)["days_aggregated"] == 1


def test_a_day_that_is_not_due_is_not_missing(stored: Database, evaluate: Evaluate) -> None:
    execute(stored, "DELETE FROM metric_day_ledger WHERE metric_date = '2025-03-04'")
    before, after = (datetime.fromisoformat(f"2025-03-05T0{time}+00:00") for time in ("2:59:59", "3:00:00"))
    assert values(evaluate(NAME, now=before, **THREE_DAYS))["days"] == "2025-03-02 to 2025-03-03"
    assert evaluate(NAME, now=before, **THREE_DAYS).passed
    assert not evaluate(NAME, now=after, **THREE_DAYS).passed


def test_before_the_first_day_is_due_there_is_nothing_to_miss(database: Database, evaluate: Evaluate) -> None:
    for name in (NAME, "freshness"):
        verdict = evaluate(name, start_date=DAY + timedelta(days=1))
        assert verdict.passed, verdict
    assert values(evaluate(NAME, start_date=DAY + timedelta(days=1)))["days_checked"] == 0


@pytest.mark.parametrize(
    ("zone", "just_before", "from_then_on"),
    [
        ("UTC", "2025-03-05T02:59:59+00:00", "2025-03-05T03:00:00+00:00"),
        ("Asia/Tokyo", "2025-03-04T17:59:59+00:00", "2025-03-04T18:00:00+00:00"),
        ("America/New_York", "2025-03-05T07:59:59+00:00", "2025-03-05T08:00:00+00:00"),
    ],
)
def test_yesterday_is_overdue_from_three_on_the_wall(
    stored: Database, evaluate: Evaluate, zone: str, just_before: str, from_then_on: str
) -> None:
    execute(stored, "DELETE FROM metric_day_ledger WHERE metric_date = '2025-03-04'")
    before = evaluate("freshness", now=datetime.fromisoformat(just_before), time_zone=zone)
    assert before.passed
    assert before.description == "2025-03-03 is stored."
    after = evaluate("freshness", now=datetime.fromisoformat(from_then_on), time_zone=zone)
    assert not after.passed
    assert after.severity is dg.AssetCheckSeverity.ERROR
    assert f"2025-03-04 was due at 03:00 {zone} of the next day and is not stored." in after.description
    assert values(after)["newest_stored_day"] == "2025-03-03"
    assert values(after)["days_behind"] == 1
    assert list(before.metadata) == list(after.metadata)


@pytest.mark.parametrize(
    ("at", "day"),
    [
        # Clocks go from 2:00 to 3:00: at that instant the day is due.
        ("2025-03-30T01:59:59+01:00", "2025-03-28"),
        ("2025-03-30T03:00:00+02:00", "2025-03-29"),
        # Clocks go from 3:00 back to 2:00: there is one 3:00, four hours after midnight.
        ("2025-10-26T02:59:59+02:00", "2025-10-24"),
        ("2025-10-26T02:59:59+01:00", "2025-10-24"),
        ("2025-10-26T03:00:00+01:00", "2025-10-25"),
    ],
)
def test_where_clocks_change_three_on_the_wall_decides(at: str, day: str) -> None:
    assert last_due_day(datetime.fromisoformat(at), "Europe/Berlin").isoformat() == day


def test_an_overdue_day_leads_to_the_run_that_failed(
    stored: Database, evaluate: Evaluate, instance: dg.DagsterInstance
) -> None:
    execute(stored, "DELETE FROM metric_day_ledger WHERE metric_date = '2025-03-04'")
    assert "last_failed_run" not in values(evaluate("freshness"))
    last = ""
    for day in ("2025-03-04", "2025-03-04", "2025-03-03"):
        run = waiting_run(instance, dg.DagsterRunStatus.STARTED, {PARTITION_NAME_TAG: day})
        instance.report_run_failed(run)
        last = run.run_id if day == "2025-03-04" else last
    assert values(evaluate("freshness"))["last_failed_run"] == last


def test_storing_an_older_day_leaves_an_overdue_one_red(stored: Database, evaluate: Evaluate) -> None:
    execute(stored, "DELETE FROM metric_day_ledger WHERE metric_date >= '2025-03-03'")
    assert not evaluate("freshness").passed
    aggregate(stored, day_window(DAYS[1], "UTC"))
    assert not evaluate("freshness").passed
    aggregate(stored, day_window(DAY, "UTC"))
    assert evaluate("freshness").passed
    assert not evaluate("freshness", now=TOMORROW + timedelta(days=1)).passed
