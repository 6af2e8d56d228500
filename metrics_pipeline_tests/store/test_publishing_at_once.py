"""Several runs that publish at the same time: one correct result, no deadlock, and no older result over a newer one."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from typing import Any

import pytest

from metrics_pipeline.metrics.windows import day_window
from metrics_pipeline.pipeline.aggregation import ComputedDay
from metrics_pipeline.postgres.database import Database
from metrics_pipeline.store.publishing import Published, Reason, StaleSnapshotError, lock_day, publish_day
from metrics_pipeline_tests.days import (
    WINDOW,
    Log,
    aggregate,
    assert_exact,
    compute,
    execute,
    query,
    store_agents,
    store_logs,
    written_rows,
)
from metrics_pipeline_tests.processes import HANGING_SECONDS, wait_until


def publish(database: Database, day: ComputedDay, run_id: str = "a run", reason: Reason = Reason.MANUAL) -> Published:
    return publish_day(
        database,
        day.metrics,
        day.distributions,
        day.window,
        read=day.read,
        snapshot_at=day.snapshot_at,
        run_id=run_id,
        reason=reason,
    )


def test_a_result_that_was_computed_before_another_run_published_is_refused(aggregated: Database) -> None:
    older = compute(aggregated)
    store_logs(aggregated, [Log("a")])
    aggregate(aggregated, run_id="newer")
    before = written_rows(aggregated)
    with pytest.raises(StaleSnapshotError, match="2025-03-04 was published by another run"):
        publish(aggregated, older)
    assert written_rows(aggregated) == before
    assert_exact(aggregated)


def test_of_two_first_results_of_a_day_the_second_is_refused(database: Database) -> None:
    store_agents(database, {"a": "active"})
    older, newer = compute(database), compute(database)
    publish(database, newer)
    with pytest.raises(StaleSnapshotError):
        publish(database, older)


def test_a_result_is_refused_after_the_ledger_row_was_cleared_meanwhile(aggregated: Database) -> None:
    computed = compute(aggregated)
    execute(aggregated, "DELETE FROM metric_day_ledger")
    with pytest.raises(StaleSnapshotError):
        publish(aggregated, computed)


def outcome(call: Callable[[], Any]) -> str:
    try:
        call()
    except StaleSnapshotError:
        return "stale"
    return "published"


def test_of_results_published_at_the_same_time_exactly_one_is_stored(aggregated: Database) -> None:
    with ThreadPoolExecutor(3) as threads:
        for number in range(12):
            store_logs(aggregated, [Log(agent, latency_ms=number) for agent in "abc"])
            results = [compute(aggregated) for _ in range(3)]
            barrier = threading.Barrier(3)

            def race(day: ComputedDay, barrier: threading.Barrier = barrier, run_id: str = f"run {number}") -> str:
                barrier.wait()
                return outcome(lambda: publish(aggregated, day, run_id))

            assert sorted(threads.map(race, results)) == ["published", "stale", "stale"]
            assert_exact(aggregated)
    # Every round changed all three rows once, and no run twice.
    assert query(aggregated, "SELECT DISTINCT count(*) FROM metric_restatements GROUP BY agent_id, run_id") == [(1,)]
    assert query(aggregated, "SELECT count(*) FROM metric_restatements") == [(36,)]


def test_runs_of_one_day_that_overlap_while_logs_arrive_end_with_the_newest_result(aggregated: Database) -> None:
    def runs(agent: str) -> list[str]:
        done = []
        for number in range(8):
            store_logs(aggregated, [Log(agent, latency_ms=number)])
            while (ended := outcome(lambda: aggregate(aggregated, run_id=agent))) == "stale":
                done.append(ended)
            done.append(ended)
        return done

    with ThreadPoolExecutor(2) as threads:
        outcomes = [ended for done in threads.map(runs, "ab") for ended in done]
    assert outcomes.count("published") == 16
    # Whoever publishes last has read the logs of both: a stale run never overwrites, it is tried again.
    assert_exact(aggregated)


def test_different_days_do_not_wait_for_each_other(aggregated: Database) -> None:
    tomorrow = day_window(date(2025, 3, 5), "UTC")
    with ThreadPoolExecutor(1) as threads, aggregated.engine.begin() as connection:
        lock_day(connection, WINDOW)
        threads.submit(aggregate, aggregated, tomorrow).result(timeout=HANGING_SECONDS)
    assert_exact(aggregated, tomorrow)


def test_a_publication_waits_for_the_one_before_it(aggregated: Database) -> None:
    computed = compute(aggregated)
    with ThreadPoolExecutor(1) as threads:
        with aggregated.engine.begin() as connection:
            lock_day(connection, WINDOW)
            waiting = threads.submit(publish, aggregated, computed)
            is_waiting = "SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
            wait_until(lambda: query(aggregated, is_waiting) or waiting.done())
            assert not waiting.done()
        assert waiting.result(timeout=HANGING_SECONDS) == Published(inserted=0, changed=0, unchanged=3)
