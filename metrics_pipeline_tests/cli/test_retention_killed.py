"""`metrics-pipeline retention`, killed in the middle of a day while others write."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import pytest

from metrics_pipeline.metrics.windows import day_window, last_complete_day
from metrics_pipeline.postgres.database import Database
from metrics_pipeline_tests.days import Log, aggregate, execute, query, store_agents, store_logs
from metrics_pipeline_tests.processes import HANGING_SECONDS, Start, wait_until

_INSERT = """INSERT INTO agent_execution_logs (agent_id, "timestamp", status, latency_ms)
             VALUES ('a', :moment, 'late', :number)"""

WAITS = """SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'
           AND query LIKE '%DELETE FROM agent_execution_logs%'"""


@contextmanager
def writer(database: Database, *moments: datetime) -> Iterator[list[int]]:
    """Inserts a log at each of the moments, over and over; yields the count of inserts."""
    ends, written = threading.Event(), []

    def write() -> None:
        # The disk slows no commit here, so without a pause the writer would take the processor from the command.
        while not ends.wait(0.002):
            for moment in moments:
                execute(database, _INSERT, moment=moment, number=len(written))
                written.append(len(written))

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield written
    finally:
        ends.set()
        thread.join()


@pytest.mark.end_to_end
def test_a_run_that_is_killed_while_others_write_is_continued_and_nothing_is_lost(
    start: Start, database: Database, database_url: str
) -> None:
    yesterday = last_complete_day(datetime.now(UTC), "UTC")
    old = yesterday - timedelta(days=40)
    moment = day_window(old, "UTC").start
    store_agents(database, {"a": "active"})
    store_logs(database, [Log(timestamp=moment + timedelta(seconds=n), latency_ms=n) for n in range(2000)])
    aggregate(database, day_window(old, "UTC"))
    metrics = query(database, "SELECT * FROM agent_performance_metrics")

    def verified_logs() -> int:
        return query(database, "SELECT count(*) FROM agent_execution_logs WHERE status <> 'late'")[0][0]  # type: ignore[no-any-return]

    with writer(database, datetime.now(UTC)) as recent, database.engine.connect() as other:
        # The last log of the day is locked: retention waits for it with all others deleted.
        other.exec_driver_sql(
            "SELECT FROM agent_execution_logs WHERE latency_ms = 1999 AND status <> 'late' FOR UPDATE"
        )
        killed = start("retention", "--batch-rows", "200", METRICS_DATABASE_URL=database_url)
        wait_until(lambda: bool(query(database, WAITS)))
        killed.kill()
        killed.communicate()
        other.rollback()
        wait_until(lambda: not query(database, WAITS))
        assert verified_logs() == 2000
        assert query(database, "SELECT raw_pruned_at FROM metric_day_ledger") == [(None,)]
        # The next run takes the day as a whole. A log that arrives before its snapshot would hold the day back.
        other.exec_driver_sql(
            "SELECT FROM agent_execution_logs WHERE latency_ms = 1999 AND status <> 'late' FOR UPDATE"
        )
        go_on = start("retention", "--batch-rows", "300", "--pause-ms", "0", METRICS_DATABASE_URL=database_url)
        wait_until(lambda: bool(query(database, WAITS)))
        execute(database, _INSERT, moment=moment, number=0)
        execute(database, _INSERT, moment=moment + timedelta(hours=1), number=1)
        other.rollback()
        stdout, stderr = go_on.communicate(timeout=HANGING_SECONDS)
    assert (go_on.returncode, stderr) == (0, "")
    assert verified_logs() == 0
    # Every log that was written meanwhile exists, those of the sealed day among them, and the metrics are as they were.
    numbers = [number for (number,) in query(database, "SELECT latency_ms FROM agent_execution_logs ORDER BY 1")]
    assert numbers == sorted([*recent, 0, 1])
    assert query(database, "SELECT raw_pruned_logs, source_logs FROM metric_day_ledger") == [(2000, 2000)]
    assert query(database, "SELECT * FROM agent_performance_metrics") == metrics
    assert "arrived after the day was" in " ".join(stdout.split())
