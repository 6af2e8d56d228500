"""A large day in PostgreSQL: by which index, in which slices and over which connections it is read."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import Connection

from metrics_pipeline.errors import TransientError
from metrics_pipeline.logs.postgres_logs import PostgresLogs
from metrics_pipeline.logs.slices import Slice, slices_of
from metrics_pipeline.pipeline.opening import open_logs, require_ready
from metrics_pipeline.postgres.database import Database
from metrics_pipeline.postgres.urls import DatabaseUrl
from metrics_pipeline_tests.days import (
    WINDOW,
    Log,
    aggregate,
    assert_exact,
    compute,
    execute,
    query,
    read,
    store_logs,
)
from metrics_pipeline_tests.processes import HANGING_SECONDS, wait_until


@pytest.fixture
def a_log_each_minute(database: Database) -> Database:
    """Thirty days of logs, which is enough for the planner to prefer the index. Each 3 hours, a log is due at once."""
    execute(
        database,
        """INSERT INTO agent_execution_logs (agent_id, "timestamp", status, latency_ms, cost_usd)
           SELECT 'a', timestamptz '2025-03-01 00:00Z' + n * interval '1 minute', 'success', n, 0.5
             FROM generate_series(0, 30 * 1440 - 1) AS n""",
        "ANALYZE agent_execution_logs",
        "SELECT pg_stat_reset()",
    )
    return database


def scans(database: Database, at_least: int) -> tuple[int, int]:
    """The number of sequential scans and of index scans of the logs."""
    usage = "SELECT seq_scan, idx_scan FROM pg_stat_user_tables WHERE relname = 'agent_execution_logs'"
    # A session reports what it used when it ends, which it does a moment after we closed it.
    wait_until(lambda: sum(query(database, usage)[0]) >= at_least)
    whole, by_index = query(database, usage)[0]
    return whole, by_index


def test_one_day_of_thirty_is_read_through_the_index_on_timestamp(a_log_each_minute: Database) -> None:
    store_logs(a_log_each_minute, [Log("a", cost_usd="0.0000000001")])
    day = read(a_log_each_minute)
    assert day.partials["total_executions"].to_list() == [1441]
    assert day.exact_costs.height == 1
    assert scans(a_log_each_minute, 2) == (0, 2)


@pytest.fixture
def large_from_1000_logs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metrics_pipeline.logs.slices._DIVIDED_FROM_LOGS", 1000)
    monkeypatch.setattr("os.cpu_count", lambda: 2)


@pytest.mark.usefixtures("large_from_1000_logs")
def test_a_large_day_is_read_in_slices_and_every_log_once(a_log_each_minute: Database) -> None:
    logs = open_logs(a_log_each_minute)
    with a_log_each_minute.snapshot() as snapshot:
        partials = logs.read_day(snapshot, WINDOW, include_inactive_agents=False).partials
    first = 3 * 1440
    assert sorted(partials["latencies_ms"].explode()) == list(range(first, first + 1440))
    assert partials["total_executions"].to_list() == [180] * 8
    assert scans(a_log_each_minute, 8) == (0, 8)
    aggregate(a_log_each_minute)
    assert_exact(a_log_each_minute)


@pytest.mark.usefixtures("large_from_1000_logs")
def test_busy_hours_are_divided_further(a_log_each_minute: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metrics_pipeline.logs.slices._LOGS_PER_SLICE", 200)
    execute(
        a_log_each_minute,
        """INSERT INTO agent_execution_logs (agent_id, "timestamp", status)
           SELECT 'a', timestamptz '2025-03-04 13:00Z' + n * interval '1 second', 'success'
             FROM generate_series(0, 3599) AS n""",
        "ANALYZE agent_execution_logs",
    )
    logs_of_slices = read(a_log_each_minute).partials["total_executions"].to_list()
    assert sum(logs_of_slices) == 1440 + 3600
    # The eighths have 180 logs each, but for one with 3,780, which is divided by the planner's estimates.
    assert 180 in logs_of_slices
    assert len(logs_of_slices) > 20
    assert max(logs_of_slices) < 600


@pytest.mark.usefixtures("large_from_1000_logs")
@pytest.mark.parametrize(("logs_per_slice", "slices"), [(4_000_000, 1), (500, 3)])
def test_a_large_day_without_an_index_is_read_in_few_passes(
    a_log_each_minute: Database, monkeypatch: pytest.MonkeyPatch, logs_per_slice: int, slices: int
) -> None:
    monkeypatch.setattr("metrics_pipeline.logs.slices._LOGS_PER_SLICE_WITHOUT_INDEX", logs_per_slice)
    execute(a_log_each_minute, *query_drop_indexes(a_log_each_minute))
    partials = read(a_log_each_minute).partials
    assert partials["total_executions"].sum() == 1440
    assert scans(a_log_each_minute, slices) == (slices, 0)


@pytest.mark.usefixtures("large_from_1000_logs")
def test_a_large_day_of_a_view_that_reads_a_whole_table_for_each_slice_is_read_in_one_pass(
    a_log_each_minute: Database,
) -> None:
    execute(
        a_log_each_minute,
        "ALTER TABLE agent_execution_logs RENAME TO stored",
        "CREATE TABLE people AS SELECT id AS log_id, 'u' AS name FROM stored",
        """CREATE VIEW agent_execution_logs AS SELECT stored.id, agent_id, "timestamp", status, known.name AS user_id
             FROM stored
             LEFT JOIN (SELECT log_id, max(name) AS name FROM people GROUP BY log_id) AS known ON log_id = stored.id""",
        "ANALYZE people",
    )
    assert read(a_log_each_minute).partials["total_executions"].to_list() == [1440]


@pytest.mark.usefixtures("large_from_1000_logs")
def test_a_role_with_one_connection_reads_a_large_day_over_that_one(
    a_log_each_minute: Database, database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    execute(
        a_log_each_minute,
        "CREATE ROLE few LOGIN CONNECTION LIMIT 1",
        "GRANT SELECT ON ALL TABLES IN SCHEMA public TO few",
    )
    try:
        few = Database(DatabaseUrl.parse(database_url.replace("postgres@", "few@")))
        logs = PostgresLogs(few, require_ready(a_log_each_minute))
        with few.snapshot() as snapshot:
            partials = logs.read_day(snapshot, WINDOW, include_inactive_agents=False).partials
            assert partials["total_executions"].sum() == 1440
            wait_until(lambda: 'too many connections for role "few"' in caplog.text)
    finally:
        execute(a_log_each_minute, "DROP OWNED BY few", "DROP ROLE few")


@pytest.mark.usefixtures("large_from_1000_logs")
def test_a_large_day_does_not_wait_for_a_reader_that_gets_no_connection(a_log_each_minute: Database) -> None:
    ends = threading.Event()

    class OnePooledConnection:
        def snapshot(self) -> None:
            ends.wait()
            raise TransientError("query_wait_timeout")

    logs = PostgresLogs(OnePooledConnection(), require_ready(a_log_each_minute))
    with a_log_each_minute.snapshot() as snapshot:
        partials = logs.read_day(snapshot, WINDOW, include_inactive_agents=False).partials
    assert partials["total_executions"].sum() == 1440
    ends.set()


@pytest.mark.usefixtures("large_from_1000_logs")
def test_an_alter_table_that_waits_for_the_snapshot_does_not_stop_a_large_day(
    a_log_each_minute: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    alters = threading.Thread(
        target=execute, args=(a_log_each_minute, "ALTER TABLE agent_execution_logs ADD COLUMN more int")
    )
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE 'ALTER TABLE%'"

    def lock(connection: Connection, *arguments: object) -> list[Slice]:
        slices = slices_of(connection, *arguments)
        alters.start()
        wait_until(lambda: query(a_log_each_minute, waiting) == [(1,)])
        return slices

    monkeypatch.setattr("metrics_pipeline.logs.postgres_logs.slices_of", lock)
    assert read(a_log_each_minute).partials["total_executions"].sum() == 1440
    alters.join()


def query_drop_indexes(database: Database) -> list[str]:
    """The statements that drop the indexes on timestamp."""
    names = """SELECT 'DROP INDEX ' || indexname FROM pg_indexes
                WHERE tablename = 'agent_execution_logs' AND indexdef LIKE '%("timestamp"%'"""
    return [row[0] for row in query(database, names)]


@pytest.mark.usefixtures("large_from_1000_logs")
def test_a_reader_that_is_cut_off_in_a_large_day_ends_the_others_and_is_a_transient_error(
    a_log_each_minute: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    with a_log_each_minute.snapshot() as snapshot:
        slices = slices_of(snapshot, require_ready(a_log_each_minute), WINDOW)
    # They are computed beforehand, because EXPLAIN would wait for the lock that blocks the readers.
    monkeypatch.setattr("metrics_pipeline.logs.postgres_logs.slices_of", lambda *_: slices)
    waiting = """SELECT pid FROM pg_stat_activity
                  WHERE datname = current_database() AND wait_event_type = 'Lock' AND pid <> pg_backend_pid()"""
    with ThreadPoolExecutor() as threads, a_log_each_minute.engine.connect() as locking:
        locking.exec_driver_sql("LOCK TABLE agent_execution_logs IN ACCESS EXCLUSIVE MODE")
        reading = threads.submit(compute, a_log_each_minute)
        wait_until(lambda: len(query(a_log_each_minute, waiting)) == 2)
        (cut_off,), _ = query(a_log_each_minute, waiting)
        query(a_log_each_minute, f"SELECT pg_terminate_backend({cut_off})")
        wait_until(lambda: len(query(a_log_each_minute, waiting)) == 1)
        locking.rollback()
        with pytest.raises(TransientError, match="The server ended the session"):
            reading.result(timeout=HANGING_SECONDS)
