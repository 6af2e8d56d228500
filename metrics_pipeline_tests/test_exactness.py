"""Whole days from logs to stored metrics, equal to the oracle: real ones, generated ones and ones made by hand."""

from datetime import date, timedelta
from pathlib import Path

import pytest

from metrics_pipeline.log_files.loading import load_log_files
from metrics_pipeline.log_files.sample_logs import store_sample
from metrics_pipeline.metrics.windows import day_window
from metrics_pipeline.postgres.database import Database
from metrics_pipeline.sample.agents import SampleSpec
from metrics_pipeline_tests.days import (
    WINDOW,
    Log,
    aggregate,
    assert_exact,
    assert_exact_twice,
    column,
    execute,
    query,
    store_agents,
    store_logs,
)
from metrics_pipeline_tests.examples import variants


def test_the_real_executions_of_all_days_are_exact(database: Database, real_logs: Path) -> None:
    with database.engine.begin() as connection:
        load_log_files(connection, [real_logs], time_zone="UTC", register_unknown=True)
    days = [
        row[0] for row in query(database, """SELECT DISTINCT "timestamp"::date FROM agent_execution_logs ORDER BY 1""")
    ]
    assert len(days) == 15
    for day in days:
        assert_exact_twice(database, day_window(day, "UTC"))
    totals = "SELECT sum(total_executions), count(*) FROM agent_performance_metrics"
    assert query(database, totals) == [(3124, 15 * 8)]


@pytest.mark.parametrize(
    ("time_zone", "day"),
    [("UTC", date(2025, 3, 4)), ("Europe/Berlin", date(2025, 3, 30)), ("America/New_York", date(2025, 11, 2))],
)
def test_generated_days_are_exact(database: Database, time_zone: str, day: date) -> None:
    days = [day - timedelta(days=1), day, day + timedelta(days=1)]
    store_sample(database, SampleSpec(agents=30, logs_per_day=8_000), days, time_zone, lambda *_: None)
    for each in days:
        assert_exact_twice(database, day_window(each, time_zone))
    [(sources,)] = query(database, "SELECT sum(source_logs) FROM metric_day_ledger")
    assert query(database, "SELECT count(*) FROM agent_execution_logs") == [(sources,)]


def test_inactive_agents_are_included_on_request_only(database: Database) -> None:
    store_agents(database, {"active": "active", "inactive": "inactive", "odd": "Active"})
    store_logs(database, [Log("active"), *[Log("inactive")] * 2, *[Log("odd")] * 3, *[Log("unregistered")] * 4])
    day = assert_exact_twice(database).computed.metrics
    assert day.metrics["agent_id"].to_list() == ["active"]
    assert day.skipped.rows() == [("unregistered", 4), ("odd", 3), ("inactive", 2)]
    aggregate(database, include_inactive=True)
    assert_exact(database, include_inactive=True)
    assert column(database, "agent_id") == ["active", "inactive", "odd"]


def test_an_agent_retired_after_its_day_keeps_its_row_which_follows_late_logs(database: Database) -> None:
    store_agents(database, {"a": "active", "b": "active", "never": "inactive"})
    store_logs(database, [Log("a", latency_ms=10), Log("b", latency_ms=20)])
    assert_exact_twice(database)
    execute(database, "UPDATE agent_registry SET status = 'inactive' WHERE id = 'a'")
    aggregate(database)
    assert_exact(database, retired=["a"])
    store_logs(database, [Log("a", latency_ms=30), Log("never")])
    aggregate(database)
    assert_exact(database, retired=["a"])
    assert column(database, "avg_latency_ms") == [20, 20]


def test_an_agent_deleted_from_the_registry_keeps_its_row(database: Database) -> None:
    store_agents(database, {"a": "active", "b": "active"})
    store_logs(database, [Log("a", latency_ms=10), Log("b", latency_ms=20)])
    aggregate(database)
    execute(database, "DELETE FROM agent_registry WHERE id = 'a'")
    aggregate(database)
    assert column(database, "agent_id") == ["a", "b"]
    assert column(database, "avg_latency_ms") == [10, 20]


def test_a_day_without_any_log_has_a_row_for_each_active_agent(database: Database) -> None:
    store_agents(database, {"a": "active", "b": "active", "c": "inactive"})
    assert_exact_twice(database)
    assert query(
        database,
        "SELECT agent_id, total_executions, success_rate, p99_latency_ms, total_cost_usd, error_distribution"
        " FROM agent_performance_metrics ORDER BY 1",
    ) == [("a", 0, 1, 0, 0, {}), ("b", 0, 1, 0, 0, {})]


def test_a_day_without_any_agent_is_all_skipped(database: Database) -> None:
    store_logs(database, [Log(), Log("b")])
    day = assert_exact_twice(database)
    assert day.computed.metrics.skipped_logs == 2


def test_logs_belong_to_the_day_from_its_first_microsecond_to_its_last(database: Database) -> None:
    store_agents(database, {"a": "active"})
    microsecond = timedelta(microseconds=1)
    for number, moment in enumerate((WINDOW.start - microsecond, WINDOW.start, WINDOW.end - microsecond, WINDOW.end)):
        store_logs(database, [Log(timestamp=moment, token_count=10**number)])
    assert_exact_twice(database)
    assert column(database, "total_tokens") == [110]


# The hours of the day, and the instants of its logs: hand-made from the zones' published changes.
@pytest.mark.parametrize(
    ("time_zone", "day", "hours"),
    variants(
        [
            ("Europe/Berlin", date(2025, 3, 30), 23),
            ("Europe/Berlin", date(2025, 10, 26), 25),
            ("America/New_York", date(2025, 3, 9), 23),
            ("America/New_York", date(2025, 11, 2), 25),
            ("Africa/Cairo", date(2025, 4, 25), 23),  # 00:00 does not exist
            ("Africa/Cairo", date(2025, 10, 30), 25),
            ("America/Sao_Paulo", date(2018, 11, 4), 23),  # 00:00 does not exist
            ("America/Sao_Paulo", date(2018, 2, 17), 25),
            ("Asia/Beirut", date(2025, 3, 30), 23),  # 00:00 does not exist
            ("America/Havana", date(2025, 11, 2), 25),  # 00:00 comes twice
            ("Australia/Lord_Howe", date(2025, 4, 6), 24.5),
            ("Asia/Kathmandu", date(2025, 4, 6), 24),
        ]
    ),
)
def test_days_of_all_lengths_count_each_of_their_hours_once(
    database: Database, time_zone: str, day: date, hours: float
) -> None:
    store_agents(database, {"a": "active"})
    before = day_window(day - timedelta(days=1), time_zone)
    window = day_window(day, time_zone)
    after = day_window(day + timedelta(days=1), time_zone)
    half_hours = (after.end - before.start) // timedelta(minutes=30)
    store_logs(database, [Log(timestamp=before.start + number * timedelta(minutes=30)) for number in range(half_hours)])
    for each in (before, window, after):
        assert_exact_twice(database, each)
    stored = query(database, "SELECT total_executions FROM agent_performance_metrics ORDER BY metric_date")
    assert stored[1] == (2 * hours,)
    assert sum(row[0] for row in stored) == half_hours
    assert (
        query(
            database,
            "SELECT count(*) FROM agent_execution_logs"
            f""" WHERE ("timestamp" AT TIME ZONE '{time_zone}')::date = '{day}'""",
        )
        == stored[1:2]
    )


def test_logs_at_infinity_and_before_christ_belong_to_no_day(database: Database) -> None:
    store_agents(database, {"a": "active"})
    execute(
        database,
        """INSERT INTO agent_execution_logs (agent_id, "timestamp", status)
           VALUES ('a', '-infinity', 'success'), ('a', 'infinity', 'success'), ('a', '4713-01-01 BC', 'success')""",
    )
    assert_exact_twice(database)
    assert column(database, "total_executions") == [0]
