"""Half-pruned days: cut off, and found by the next run in a database that is not quite the same."""

import threading
from collections.abc import Callable
from datetime import timedelta

import pytest

from metrics_pipeline.metrics.retention import UNSETTLED
from metrics_pipeline.postgres.database import Database
from metrics_pipeline.retention import verification
from metrics_pipeline_tests.days import DAY, Log, aggregate, execute, query, store_logs

from .runs import contents, held_back, logs_by_day, prune, sealed, settle, store_days, window

LATER = "written after the day was sealed: not in its metrics"
#: What a restore from a dump does: all rows are new, and transactions are counted anew.
RESTORED = "UPDATE agent_execution_logs SET id = id"


class KilledError(Exception):
    """Raised where a process would be killed: what was not committed is gone, what was stays."""


def cut_off(database: Database, after: str = "4 of 9") -> None:
    def kill(message: str) -> None:
        if after in message:
            raise KilledError

    with pytest.raises(KilledError):
        prune(database, batch_rows=2, on_progress=kill)


def arrive_at(database: Database, moment: str) -> Callable[[str], None]:
    def arrive(message: str) -> None:
        if moment in message:
            store_logs(database, [Log(latency_ms=99)])

    return arrive


@pytest.fixture
def half_pruned(database: Database) -> Database:
    store_days(database, 0, logs=9)
    cut_off(database)
    return database


@pytest.mark.parametrize("limit", [0, 1, 2**40])
def test_after_a_restore_the_rest_goes_and_a_late_log_stays(half_pruned: Database, limit: int) -> None:
    """The limit of the seal, of the old server's transactions, lies before all rows or after all that will come."""
    execute(half_pruned, RESTORED, f"UPDATE metric_day_pruning SET verified_before = {limit}")
    settle(half_pruned)
    dry = prune(half_pruned, is_dry_run=True)
    report = prune(half_pruned, batch_rows=2, on_progress=arrive_at(half_pruned, "2 of 5"))
    assert report.pruned_logs == dry.pruned_logs == {DAY: 5}
    assert held_back(report) == {DAY: (1, LATER)}
    assert query(half_pruned, "SELECT latency_ms FROM agent_execution_logs") == [(99,)]
    assert (sealed(half_pruned), contents(half_pruned)["metric_day_pruning"]) == ({DAY: 9}, [])


@pytest.mark.parametrize("limit", [0, 2**40])
def test_after_a_restore_with_a_late_log_among_the_others_nothing_goes_and_the_account_stays_open(
    half_pruned: Database, limit: int
) -> None:
    execute(half_pruned, RESTORED, f"UPDATE metric_day_pruning SET verified_before = {limit}")
    store_logs(half_pruned, [Log(latency_ms=99)])
    settle(half_pruned)
    before = contents(half_pruned)
    for is_dry_run in (True, False, False):
        report = prune(half_pruned, is_dry_run=is_dry_run)
        assert held_back(report) == {
            DAY: (6, "the verified logs of this half-pruned day were changed or deleted by somebody else")
        }
        assert contents(half_pruned) == before
    # Once it is gone, the rest goes too.
    execute(half_pruned, "DELETE FROM agent_execution_logs WHERE latency_ms = 99")
    assert prune(half_pruned).pruned_logs == {DAY: 5}
    assert sealed(half_pruned) == {DAY: 9}


def test_a_day_that_was_cut_off_twice_after_a_restore_goes_on(half_pruned: Database) -> None:
    execute(half_pruned, RESTORED)
    cut_off(half_pruned, "2 of 5")
    store_logs(half_pruned, [Log(latency_ms=99)])
    report = prune(half_pruned)
    assert report.pruned_logs == {DAY: 3}
    assert held_back(report) == {DAY: (1, LATER)}


def test_a_half_pruned_day_is_left_alone_under_another_zone(half_pruned: Database) -> None:
    """Its logs may equal those that another zone's day has instead of them, which are in no metric."""
    # All logs of the day lie before 15:00 UTC, so Tokyo's 4 March has them, and hours of 3 March besides.
    assert query(half_pruned, """SELECT max("timestamp") < '2025-03-04 15:00Z' FROM agent_execution_logs""") == [
        (True,)
    ]
    before = contents(half_pruned)
    for is_dry_run in (True, False):
        report = prune(half_pruned, time_zone="Asia/Tokyo", is_dry_run=is_dry_run)
        assert held_back(report) == {DAY: (5, "half pruned as a day of UTC, not of Asia/Tokyo")}
        assert contents(half_pruned) == before
    assert prune(half_pruned).pruned_logs == {DAY: 5}


def test_one_open_transaction_makes_a_run_wait_once_and_not_for_every_day(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    monkeypatch.setattr(verification, "_SETTLING_SECONDS", 5.0)
    monkeypatch.setattr(verification.time, "sleep", waits.append)
    seconds = iter(range(10_000))
    monkeypatch.setattr(verification.time, "monotonic", lambda: float(next(seconds)))
    with database.engine.connect() as writer:
        writer.exec_driver_sql("SELECT pg_current_xact_id()")
        store_days(database, -2, -1, 0)
        report = prune(database)
    assert {reason for _, reason in held_back(report).values()} == {UNSETTLED}
    assert list(held_back(report)) == [window(offset).metric_date for offset in (-2, -1, 0)]
    assert waits.count(0.5) < 10


def test_two_runs_at_once_delete_each_log_once(database: Database) -> None:
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
    assert (logs_by_day(database), contents(database)["metric_day_pruning"]) == ({}, [])


def test_a_day_that_was_cleared_and_stored_again_starts_a_new_account(half_pruned: Database) -> None:
    execute(half_pruned, "DELETE FROM metric_day_ledger")
    aggregate(half_pruned)
    assert prune(half_pruned).pruned_logs == {DAY: 5}
    assert (sealed(half_pruned), contents(half_pruned)["metric_day_pruning"]) == ({DAY: 5}, [])
