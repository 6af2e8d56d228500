"""Days that the version before pruned in part, and runs of retention at the same time."""

import threading
from datetime import timedelta

import pytest

from metrics_pipeline.errors import DayRefusedError
from metrics_pipeline.postgres.database import Database
from metrics_pipeline_tests.days import DAY, Log, aggregate, execute, query, store_logs

from .runs import (
    DELETED,
    KilledError,
    at,
    contents,
    held_back,
    interfering,
    kill,
    logs_by_day,
    prune,
    prune_in_part,
    sealed,
    store_days,
)

FINGERPRINT = "SELECT source_fingerprint::jsonb ? 'pruned' FROM metric_day_ledger"


@pytest.fixture
def half_pruned(database: Database) -> Database:
    store_days(database, 0, logs=9)
    prune_in_part(database, "latency_ms < 4")
    return database


def test_the_rest_of_a_half_pruned_day_goes_at_once_and_the_account_is_closed(half_pruned: Database) -> None:
    with pytest.raises(DayRefusedError, match="4 of its raw logs were pruned"):
        aggregate(half_pruned)
    dry = prune(half_pruned, is_dry_run=True)
    assert query(half_pruned, FINGERPRINT) == [(True,)]
    report = prune(half_pruned, batch_rows=2)
    assert report.pruned_logs == dry.pruned_logs == {DAY: 5}
    assert report.sealed_days == dry.sealed_days == []
    assert (report.held_back, logs_by_day(half_pruned), sealed(half_pruned)) == ([], {}, {DAY: 9})
    assert query(half_pruned, FINGERPRINT) == [(False,)]
    store_logs(half_pruned, [Log()])
    assert held_back(prune(half_pruned))[DAY][1].startswith("arrived after the day was sealed on ")


def test_a_half_pruned_day_that_is_cut_off_again_stays_as_it_was(half_pruned: Database) -> None:
    before = contents(half_pruned)
    with interfering(half_pruned, DELETED, at(2, kill)), pytest.raises(KilledError):
        prune(half_pruned, batch_rows=2)
    assert contents(half_pruned) == before
    assert prune(half_pruned).pruned_logs == {DAY: 5}


@pytest.mark.parametrize(
    ("statement", "logs", "difference"),
    [
        ("DELETE FROM agent_execution_logs WHERE latency_ms = 8", 4, "logs -1, successful -1, latency -8 ms"),
        ("UPDATE agent_execution_logs SET token_count = 3 WHERE latency_ms = 8", 5, "tokens +3"),
        (
            "INSERT INTO agent_execution_logs (agent_id, timestamp, status) VALUES ('a', '2025-03-04 23:00Z', 'x')",
            6,
            "logs +1",
        ),
    ],
)
def test_of_a_half_pruned_day_whose_rest_is_not_what_was_verified_nothing_goes(
    half_pruned: Database, statement: str, logs: int, difference: str
) -> None:
    execute(half_pruned, statement)
    before = contents(half_pruned)
    for is_dry_run in (True, False, False):
        [(held, reason)] = held_back(prune(half_pruned, is_dry_run=is_dry_run)).values()
        assert held == logs
        assert reason.startswith("half pruned by an earlier version, and the rest differs from what was aggregated (")
        assert difference in reason
        assert contents(half_pruned) == before
    # Once a late log is gone, the rest goes too.
    if logs == 6:
        execute(half_pruned, "DELETE FROM agent_execution_logs WHERE status = 'x'")
        assert prune(half_pruned).pruned_logs == {DAY: 5}
        assert sealed(half_pruned) == {DAY: 9}


def test_a_half_pruned_day_is_left_alone_under_another_zone(half_pruned: Database) -> None:
    """Its logs may equal those that another zone's day has instead of them, which are in no metric."""
    # All logs of the day lie before 15:00 UTC, so Tokyo's 4 March has them, and hours of 3 March besides.
    assert query(half_pruned, """SELECT max("timestamp") < '2025-03-04 15:00Z' FROM agent_execution_logs""") == [
        (True,)
    ]
    before = contents(half_pruned)
    for is_dry_run in (True, False):
        report = prune(half_pruned, time_zone="Asia/Tokyo", is_dry_run=is_dry_run)
        assert held_back(report) == {DAY: (5, "stored as a day of UTC, not of Asia/Tokyo")}
        assert contents(half_pruned) == before
    assert prune(half_pruned).pruned_logs == {DAY: 5}


def test_a_half_pruned_day_that_was_cleared_and_stored_again_starts_a_new_account(half_pruned: Database) -> None:
    execute(half_pruned, "DELETE FROM metric_day_ledger")
    aggregate(half_pruned, accept_deleted=True)
    assert prune(half_pruned).pruned_logs == {DAY: 5}
    assert sealed(half_pruned) == {DAY: 5}


def test_runs_at_once_delete_each_log_once(database: Database) -> None:
    store_days(database, -2, -1, 0, logs=40)
    reports = []
    threads = [threading.Thread(target=lambda: reports.append(prune(database, batch_rows=3))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    days = [DAY - timedelta(days=n) for n in (2, 1, 0)]
    assert {day: sum(report.pruned_logs.get(day, 0) for report in reports) for day in days} == dict.fromkeys(days, 40)
    assert sealed(database) == dict.fromkeys(days, 40)
    assert [report.held_back for report in reports] == [[], [], []]
    assert logs_by_day(database) == {}
