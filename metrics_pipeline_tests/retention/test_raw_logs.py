"""Which raw logs go, how many at once and how fast, on a plain table."""

import tracemalloc
from datetime import UTC, date, datetime, timedelta
from time import monotonic

import pytest

from metrics_pipeline.errors import PermanentError
from metrics_pipeline.metrics.retention import RetentionPolicy
from metrics_pipeline.metrics.windows import day_window
from metrics_pipeline.postgres.database import Database
from metrics_pipeline_tests.days import (
    DAY,
    NOON,
    WINDOW,
    Log,
    aggregate,
    execute,
    query,
    store_agents,
    store_logs,
    written_rows,
)

from .runs import NIGHT, contents, day, held_back, logs_by_day, prune, sealed, store_days, window


def test_a_day_goes_when_it_is_older_than_the_policy_keeps_and_not_a_day_earlier(database: Database) -> None:
    store_days(database, 0, 1)
    assert prune(database, "2025-04-03T23:59:59+00:00").pruned_logs == {}
    assert logs_by_day(database) == {DAY: 3, day(1): 3}
    report = prune(database, "2025-04-04T00:00:00+00:00")
    assert report.pruned_logs == {DAY: 3}
    assert report.sealed_days == [DAY]
    assert (report.held_back, report.logs_left, report.is_out_of_time) == ([], 0, False)
    assert logs_by_day(database) == {day(1): 3}
    assert sealed(database) == {DAY: 3}


def test_the_days_kept_may_be_as_few_as_one(database: Database) -> None:
    store_days(database, 0, 1)
    report = prune(database, "2025-03-06T00:00:00+00:00", policy=RetentionPolicy(raw_log_days=1))
    assert report.pruned_logs == {DAY: 3}


def test_the_metrics_of_a_pruned_day_stay_as_they_were(database: Database) -> None:
    store_days(database, 0)
    before = written_rows(database, "agent_performance_metrics", "metric_restatements")
    prune(database)
    assert written_rows(database, "agent_performance_metrics", "metric_restatements") == before


def test_a_second_run_finds_nothing_to_do(database: Database) -> None:
    store_days(database, 0, 1)
    prune(database)
    before = contents(database)
    report = prune(database)
    assert (report.pruned_logs, report.sealed_days, report.held_back) == ({}, [], [])
    assert contents(database) == before


def test_a_day_is_that_of_the_zone(database: Database) -> None:
    # 4 March in Tokyo ends at 15:00 UTC.
    store_agents(database, {"a": "active"})
    store_logs(database, [Log(timestamp=datetime(2025, 3, 4, hour, tzinfo=UTC)) for hour in (14, 15)])
    for offset in (0, 1):
        aggregate(database, window(offset, "Asia/Tokyo"))
    # In Tokyo this is 4 April, in UTC still the 3rd.
    report = prune(database, "2025-04-03T18:30:00+00:00", time_zone="Asia/Tokyo")
    assert report.pruned_logs == {DAY: 1}
    assert query(database, 'SELECT "timestamp" FROM agent_execution_logs') == [(datetime(2025, 3, 4, 15, tzinfo=UTC),)]


def test_days_of_23_and_25_hours_go_as_a_whole(database: Database) -> None:
    store_agents(database, {"a": "active"})
    zone = "Europe/Berlin"
    spring, autumn = date(2025, 3, 30), date(2025, 10, 26)
    hour = timedelta(hours=1)
    for changed in (spring, autumn):
        whole = day_window(changed, zone)
        store_logs(database, [Log(timestamp=moment) for moment in (whole.start, whole.end - hour, whole.end)])
        aggregate(database, whole)
    report = prune(database, "2025-12-01T03:30:00+00:00", time_zone=zone)
    assert report.pruned_logs == {spring: 2, autumn: 2}
    assert [logs for logs, _ in held_back(report).values()] == [1, 1]


@pytest.mark.parametrize("batch_rows", [1, 2, 3, 7, 100])
def test_slices_of_any_size_delete_each_log_once(database: Database, batch_rows: int) -> None:
    store_days(database, -1, 0, logs=7)
    # All at one instant, so that no slice divides them, and some at both ends of a day.
    execute(
        database,
        """UPDATE agent_execution_logs SET "timestamp" = '2025-03-04 12:00Z' WHERE "timestamp" >= '2025-03-04'""",
    )
    store_logs(database, [Log(timestamp=moment) for moment in (WINDOW.start, WINDOW.end - timedelta(microseconds=1))])
    aggregate(database)
    report = prune(database, batch_rows=batch_rows)
    assert report.pruned_logs == {day(-1): 7, DAY: 9}
    assert logs_by_day(database) == {}
    assert sealed(database) == {day(-1): 7, DAY: 9}


def test_the_time_budget_ends_a_run_between_two_days_and_metrics_and_alerts_expire_all_the_same(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    store_days(database, -400, -1, 0, logs=6)
    execute(
        database,
        "UPDATE metric_day_ledger SET raw_pruned_at = now(), raw_pruned_logs = 6 WHERE metric_date < '2025-03-01'",
    )
    execute(database, "DELETE FROM agent_execution_logs WHERE \"timestamp\" < '2025-03-01'")
    seconds = [monotonic()]
    monkeypatch.setattr("metrics_pipeline.retention.raw_logs.monotonic", lambda: seconds[0])
    messages: list[str] = []

    def take_an_hour(message: str) -> None:
        messages.append(message)
        seconds[0] += 3601

    report = prune(database, on_progress=take_an_hour)
    monkeypatch.undo()
    assert report.is_out_of_time
    assert messages[-1] == "The time budget of 60 minutes is used up; the next run goes on."
    assert report.pruned_logs == {day(-1): 6}
    assert report.expired_metrics == {day(-400): 1}
    assert report.logs_left == 6 == sum(logs_by_day(database).values())
    # What was not reached is not sealed, so its late logs are still aggregated.
    assert sealed(database) == {day(-400): 6, day(-1): 6}
    assert prune(database).pruned_logs == {DAY: 6}


def test_a_run_pauses_in_proportion_to_its_work(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    store_days(database, -1, 0)
    pauses: list[float] = []
    # At the start, then before and after each day.
    seconds = iter([0.0, 1.0, 2.0, 100.0, 103.0])
    monkeypatch.setattr("metrics_pipeline.retention.raw_logs.monotonic", lambda: next(seconds))
    monkeypatch.setattr("metrics_pipeline.retention.raw_logs.sleep", pauses.append)
    prune(database, pause_ms=2_500)
    assert pauses == [2.5, 7.5]


def test_a_day_of_200000_logs_goes_without_a_temporary_file_and_in_constant_memory(database: Database) -> None:
    store_agents(database, {"a": "active"})
    execute(
        database,
        """INSERT INTO agent_execution_logs (agent_id, "timestamp", status, latency_ms, token_count, cost_usd, metadata)
           SELECT 'a', '2025-03-04'::timestamptz + i * interval '0.43 s', 'success', i % 1000, i % 77, 0.001,
                  jsonb_build_object('user_id', 'user-' || i, 'padding', repeat('x', 200))
             FROM generate_series(0, 199999) AS i""",
    )
    aggregate(database)
    temp_bytes = (
        "SELECT pg_stat_force_next_flush(), temp_bytes FROM pg_stat_database WHERE datname = current_database()"
    )
    [(_, before)] = query(database, temp_bytes)
    tracemalloc.start()
    report = prune(database)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert report.pruned_logs == {DAY: 200_000}
    assert logs_by_day(database) == {}
    assert query(database, temp_bytes)[0][1] == before
    assert peak < 5_000_000


def test_a_dry_run_counts_what_the_real_run_does_and_changes_nothing(database: Database) -> None:
    store_days(database, -3, -1, 0, 5)
    store_days(database, -2, is_aggregated=False)
    store_logs(database, [Log(timestamp=NOON - timedelta(days=1))])
    execute(
        database,
        "UPDATE metric_day_ledger SET raw_pruned_at = now(), raw_pruned_logs = 0 WHERE metric_date = '2025-03-01'",
    )
    before = contents(database)
    dry = prune(database, is_dry_run=True)
    assert contents(database) == before
    real = prune(database)
    assert dry.is_dry_run
    assert not real.is_dry_run
    assert (dry.pruned_logs, dry.sealed_days, dry.held_back) == (real.pruned_logs, real.sealed_days, real.held_back)
    assert dry.logs_left == real.logs_left == 10
    assert real.pruned_logs == {DAY: 3}
    assert list(held_back(real)) == [day(-3), day(-2), day(-1)]


def test_a_clock_that_is_ahead_deletes_nothing(database: Database) -> None:
    store_days(database, 0)
    before = contents(database)
    with pytest.raises(PermanentError, match=r"counts from 2225-04-04, and by the database's clock it is 20"):
        prune(database, NIGHT.replace("2025", "2225"))
    assert contents(database) == before
