import time
from collections.abc import Callable
from datetime import timedelta

import polars as pl
import pytest

from metrics_pipeline.errors import InvariantError
from metrics_pipeline.metrics.calculator import aggregate_logs, daily_metrics
from metrics_pipeline.metrics.schema import EXACT_COSTS_SCHEMA, logs_schema
from metrics_pipeline.metrics.validation import validate_day
from metrics_pipeline.storage.database import Database
from metrics_pipeline.storage.extraction import open_snapshot
from metrics_pipeline.storage.readiness import require_ready
from metrics_pipeline_tests.days import (
    DAY,
    NOON,
    WINDOW,
    Log,
    aggregate,
    assert_exact,
    compute,
    execute,
    query,
    store_agents,
    store_logs,
)

TEN = [
    Log(agent_id="ab"[number % 2], latency_ms=number, timestamp=NOON + timedelta(seconds=number))
    for number in range(10)
]


def test_a_row_comes_with_what_the_metrics_depend_on(database: Database) -> None:
    store_logs(
        database,
        [
            Log("a", "failed", 5, 7, "1.500", "x", '{"user_id": 1, "human_intervention": "true"}'),
            Log("b", "success", None, None, None, "not of a failure", "[]"),
        ],
    )
    with open_snapshot(database, require_ready(database)) as snapshot:
        scan = snapshot.logs(WINDOW)
        assert scan.rows_read == 0
        frame = scan.lazy.collect().sort("agent_id")
    assert scan.rows_read == 2
    assert frame.columns == logs_schema().names()
    assert frame.drop("content_hash").rows() == [
        ("a", False, True, 5, 7, 1_500_000_000, False, False, "x", True, "1"),
        ("b", True, False, None, None, None, False, False, None, False, None),
    ]


ASKED: dict[str, Callable[[pl.LazyFrame], pl.LazyFrame]] = {
    "a filter": lambda logs: logs.filter(pl.col("latency_ms") > 4),
    "a filter on categories": lambda logs: logs.filter(pl.col("agent_id") == "a"),
    "a filter on a column that is not selected": lambda logs: logs.filter(pl.col("agent_id") == "a").select(
        "is_failed"
    ),
    "a filter that nothing passes": lambda logs: logs.filter(pl.col("latency_ms") > 100),
    "columns in another order": lambda logs: logs.select("is_failed", "latency_ms"),
    "the number of rows": lambda logs: logs.select(pl.len()),
    "a sum": lambda logs: logs.select(pl.col("latency_ms").sum()),
    "a head": lambda logs: logs.head(3).select("latency_ms"),
    "an empty head": lambda logs: logs.head(0),
    "a head longer than the day": lambda logs: logs.head(100),
    "a filter of a head": lambda logs: logs.head(7).filter(pl.col("latency_ms") > 4),
    "a head of a filter": lambda logs: logs.filter(pl.col("latency_ms") > 4).head(2),
    "a slice": lambda logs: logs.slice(2, 3).select("latency_ms"),
    "a tail": lambda logs: logs.tail(3).select("latency_ms"),
    "groups": lambda logs: logs.group_by("agent_id").len().sort("agent_id"),
}


@pytest.mark.parametrize("ask", ASKED.values(), ids=ASKED)
@pytest.mark.parametrize("engine", ["streaming", "in-memory"])
def test_the_lazy_frame_answers_as_a_frame_in_memory_does(
    database: Database, ask: Callable[[pl.LazyFrame], pl.LazyFrame], engine: str
) -> None:
    store_logs(database, TEN)
    with open_snapshot(database, require_ready(database)) as snapshot:
        everything = snapshot.logs(WINDOW).lazy.collect()
        # Ten logs of one page: the table's order is that of their storing, on every reading.
        assert everything["latency_ms"].to_list() == list(range(10))
        answer = ask(snapshot.logs(WINDOW).lazy).collect(engine=engine)
    expected = ask(everything.lazy()).collect()
    assert answer.columns == expected.columns
    assert answer.rows() == expected.rows()


def test_a_head_reads_no_more_rows_than_it_needs(database: Database) -> None:
    store_logs(database, TEN)
    with open_snapshot(database, require_ready(database)) as snapshot:
        scan = snapshot.logs(WINDOW)
        scan.lazy.head(3).collect()
    assert scan.rows_read == 3


def test_several_batches_are_all_read(database: Database) -> None:
    # 100,000 rows of about 100 bytes are several batches of 4 MB.
    execute(
        database,
        """INSERT INTO agent_execution_logs (agent_id, "timestamp", status, latency_ms, metadata)
           SELECT 'a', CAST(:noon AS timestamptz), 'success', n, jsonb_build_object('user_id', repeat('u', 50) || n)
             FROM generate_series(1, 100000) AS n""",
        noon=NOON,
    )
    store_agents(database, {"a": "active"})
    with open_snapshot(database, require_ready(database)) as snapshot:
        scan = snapshot.logs(WINDOW)
        # What a batch holds is cast as one, so its rows lie in one chunk.
        assert scan.lazy.collect(engine="in-memory")["latency_ms"].n_chunks() > 1
        all_but_one = snapshot.logs(WINDOW)
        assert all_but_one.lazy.head(99_999).select(pl.len()).collect().item() == 99_999
    assert (scan.rows_read, all_but_one.rows_read) == (100_000, 99_999)
    aggregate(database)
    assert_exact(database)


def test_a_scan_that_loses_rows_on_the_way_is_caught(database: Database) -> None:
    store_agents(database, {"a": "active", "b": "active"})
    store_logs(database, TEN)
    with open_snapshot(database, require_ready(database)) as snapshot:
        scan = snapshot.logs(WINDOW)
        aggregates = aggregate_logs(scan.lazy.filter(pl.col("latency_ms") != 6))
    day = daily_metrics(aggregates, pl.Series(["a", "b"]), DAY, pl.DataFrame(schema=EXACT_COSTS_SCHEMA))
    with pytest.raises(InvariantError, match="10 logs were read, but 9 aggregated and 0 skipped"):
        validate_day(day, WINDOW, scan.rows_read)


def test_what_is_committed_after_the_snapshot_was_opened_is_not_seen(database: Database) -> None:
    store_agents(database, {"a": "active", "b": "active"})
    store_logs(database, [Log(latency_ms=10, cost_usd="0.0000000001"), Log("b", latency_ms=10)])
    before = compute(database)
    with open_snapshot(database, require_ready(database)) as snapshot:
        store_logs(database, [Log(latency_ms=99, cost_usd="5"), Log("c")])
        store_agents(database, {"c": "active"})
        execute(
            database,
            "UPDATE agent_execution_logs SET latency_ms = 77 WHERE agent_id = 'b'",
            "UPDATE agent_registry SET status = 'inactive' WHERE id = 'b'",
        )
        agents = snapshot.agents(DAY, include_inactive=False)
        scan = snapshot.logs(WINDOW)
        aggregates = aggregate_logs(scan.lazy)
        # A second reading within the snapshot sees the same.
        again = aggregate_logs(snapshot.logs(WINDOW).lazy)
        costs = snapshot.exact_costs(WINDOW, ["a"])
    assert agents.to_list() == ["a", "b"]
    assert scan.rows_read == 2
    assert aggregates.fingerprint == again.fingerprint == before.metrics.fingerprint
    assert costs["total_cost_nano_usd"].to_list() == [0]
    assert daily_metrics(aggregates, agents, DAY, costs).metrics.equals(before.metrics.metrics)
    assert compute(database).metrics.fingerprint != before.metrics.fingerprint


FIVE = [
    Log("a", "success", 100, 10, "0.5", None, '{"user_id": "u", "human_intervention": true, "model": "m"}'),
    Log("a", "failed", 200, 20, "0.25", "timeout", '{"user_id": "v"}'),
    Log("b", "success", None, None, None, "ignored", None),
    Log("b", "failed", 1, 1, "0", None, "{}"),
    Log("c", "running", 300, 30, "0.125", None, '{"user_id": "w"}'),
]
_FIRST = "WHERE latency_ms = 100"
_FAILED = "WHERE latency_ms = 200"
_BLANK = "WHERE status = 'success' AND agent_id = 'b'"
_BARE = "WHERE latency_ms = 1"
_SET = "UPDATE agent_execution_logs SET"

RELEVANT = {
    "a new log": """INSERT INTO agent_execution_logs (agent_id, "timestamp", status)
                    VALUES ('a', '2025-03-04 00:00Z', 'running')""",
    "a log that vanished": f"DELETE FROM agent_execution_logs {_BLANK}",
    "a log that left the day": f"""{_SET} "timestamp" = '2025-03-05 00:00Z' {_BLANK}""",
    "a status": f"{_SET} status = 'cancelled' WHERE status = 'running'",
    "another agent": f"{_SET} agent_id = 'd' {_BLANK}",
    "a latency": f"{_SET} latency_ms = 101 {_FIRST}",
    "a latency of 0 for NULL": f"{_SET} latency_ms = 0 {_BLANK}",
    "tokens": f"{_SET} token_count = 11 {_FIRST}",
    "a cost": f"{_SET} cost_usd = 0.500000001 {_FIRST}",
    "a cost beyond the ninth place": f"{_SET} cost_usd = 0.5000000001 {_FIRST}",
    "a cost that is no number": f"{_SET} cost_usd = 'NaN' {_BLANK}",
    "the error type of a failed log": f"{_SET} error_type = 'Timeout' {_FAILED}",
    "an empty error type for NULL": f"{_SET} error_type = '' {_BARE}",
    "an error type of one control character for NULL": f"{_SET} error_type = E'\\x01' {_BARE}",
    "a user": f"""{_SET} metadata = '{{"user_id": "x"}}' {_FAILED}""",
    "a user without name for none": f"""{_SET} metadata = '{{"user_id": ""}}' {_BARE}""",
    "a user of one control character for none": f"""{_SET} metadata = '{{"user_id": "\\u0001"}}' {_BARE}""",
    "a human intervention": f"""{_SET} metadata = '{{"user_id": "v", "human_intervention": true}}' {_FAILED}""",
    "no human intervention any more": f"""{_SET} metadata = '{{"user_id": "u"}}' {_FIRST}""",
    "latencies swapped between agents": f"{_SET} latency_ms = 400 - latency_ms WHERE latency_ms IN (100, 300)",
    "tokens swapped between agents": f"{_SET} token_count = 40 - token_count WHERE token_count IN (10, 30)",
    "costs swapped between agents": f"{_SET} cost_usd = 0.625 - cost_usd WHERE cost_usd IN (0.5, 0.125)",
    "statuses swapped between agents": f"""{_SET} status = CASE status WHEN 'running' THEN 'success' ELSE 'running' END
        WHERE latency_ms IN (100, 300)""",
    "users swapped between agents": f"""{_SET} metadata = CASE agent_id WHEN 'a' THEN '{{"user_id": "w"}}'::jsonb
        ELSE '{{"user_id": "v"}}' END WHERE latency_ms IN (200, 300)""",
    "tokens and latency swapped": f"{_SET} token_count = latency_ms, latency_ms = token_count {_FIRST}",
    "NULL and one millisecond swapped": f"""{_SET} latency_ms = CASE WHEN latency_ms IS NULL THEN 1 END
        WHERE agent_id = 'b'""",
    "NULL and one token swapped": f"{_SET} token_count = CASE WHEN token_count IS NULL THEN 1 END WHERE agent_id = 'b'",
}

IRRELEVANT = {
    "an agent's name": "UPDATE agent_registry SET name = 'renamed'",
    "an agent's status": "UPDATE agent_registry SET status = 'inactive'",
    "ids": f"{_SET} id = gen_random_uuid()",
    "times within the day": f"""{_SET} "timestamp" = '2025-03-04 23:59:59.999999Z'""",
    "the error type of a log that did not fail": f"{_SET} error_type = 'x' WHERE status <> 'failed'",
    "other metadata": f"""{_SET} metadata = metadata || '{{"model": "n", "human_intervention_by": "x"}}'""",
    "zeros behind a cost": f"{_SET} cost_usd = cost_usd + 0.000000000000",
    "logs of other days": """INSERT INTO agent_execution_logs (agent_id, "timestamp", status)
        VALUES ('a', '2025-03-05 00:00Z', 'success'), ('a', '2025-03-03 23:59:59.999999Z', 'success')""",
    "the order of storing": f"{_SET} status = status {_FIRST}",
}


@pytest.mark.parametrize("statement", RELEVANT.values(), ids=RELEVANT)
def test_the_fingerprint_changes_with(database: Database, statement: str) -> None:
    store_logs(database, FIVE)
    before = compute(database).metrics.fingerprint
    execute_raw(database, statement)
    after = compute(database).metrics.fingerprint
    assert after != before
    assert before.differences(after)


@pytest.mark.parametrize("statement", IRRELEVANT.values(), ids=IRRELEVANT)
def test_the_fingerprint_stays_the_same_with_other(database: Database, statement: str) -> None:
    store_agents(database, {"a": "active", "b": "active"})
    store_logs(database, FIVE)
    before = compute(database).metrics.fingerprint
    execute_raw(database, statement)
    assert compute(database).metrics.fingerprint == before


def execute_raw(database: Database, statement: str) -> None:
    """Without SQLAlchemy's bound parameters, since JSON holds colons."""
    with database.engine.begin() as connection:
        connection.exec_driver_sql(statement)


def test_exact_costs_are_rounded_once_half_away_from_zero(database: Database) -> None:
    store_logs(database, [Log("a", cost_usd=cost) for cost in ("0.0000000005", "NaN", None)])
    store_logs(database, [Log("b", cost_usd=cost) for cost in ("-0.0000000015", "0")])
    store_logs(database, [Log("c", cost_usd="1" + "0" * 50), Log("elsewhere", cost_usd="1")])
    with open_snapshot(database, require_ready(database)) as snapshot:
        costs = snapshot.exact_costs(WINDOW, ["a", "b", "c"]).sort("agent_id")
        nothing = snapshot.exact_costs(WINDOW, [])
    # 0.5 / 3 is 0.17 nano-dollars, -1.5 / 2 is -0.75: neither is formed from the rounded total.
    assert costs.rows() == [("a", 1, 0), ("b", -2, -1), ("c", None, None)]
    assert costs.schema == nothing.schema == EXACT_COSTS_SCHEMA


@pytest.fixture
def a_log_each_minute(database: Database) -> Database:
    """Thirty days of logs, which is enough for the planner to prefer the index. Each 3 hours, a log is due at once."""
    execute(
        database,
        """INSERT INTO agent_execution_logs (agent_id, "timestamp", status, latency_ms, cost_usd)
           SELECT 'a', timestamptz '2025-03-01 00:00Z' + n * interval '1 minute', 'success', n, 0.0000000001
             FROM generate_series(0, 30 * 1440 - 1) AS n""",
        "ANALYZE agent_execution_logs",
        "SELECT pg_stat_reset()",
    )
    return database


def scans(database: Database, at_least: int) -> tuple[int, int]:
    """How often the logs were scanned whole, and through an index."""
    usage = "SELECT seq_scan, idx_scan FROM pg_stat_user_tables WHERE relname = 'agent_execution_logs'"
    # A session reports what it used when it ends, which it does a moment after we closed it.
    deadline = time.monotonic() + 30
    while sum(query(database, usage)[0]) < at_least and time.monotonic() < deadline:
        pass
    whole, by_index = query(database, usage)[0]
    return whole, by_index


def test_one_day_of_thirty_is_read_through_the_index_on_timestamp(a_log_each_minute: Database) -> None:
    with open_snapshot(a_log_each_minute, require_ready(a_log_each_minute)) as snapshot:
        scan = snapshot.logs(WINDOW)
        aggregate_logs(scan.lazy)
        snapshot.exact_costs(WINDOW, ["a"])
    assert scan.rows_read == 1440
    assert scans(a_log_each_minute, 2) == (0, 2)


def test_a_large_day_is_read_in_slices_and_every_log_once(
    a_log_each_minute: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("metrics_pipeline.storage.extraction._PARALLEL_FROM_LOGS", 1000)
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    with open_snapshot(a_log_each_minute, require_ready(a_log_each_minute)) as snapshot:
        scan = snapshot.logs(WINDOW)
        frame = scan.lazy.collect()
        # What holds no lock cannot make a reader wait for an ALTER TABLE that waits for us.
        own = snapshot.connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one()
        locks = "SELECT mode FROM pg_locks WHERE relation = 'agent_execution_logs'::regclass"
        assert query(a_log_each_minute, f"{locks} AND pid = {own}") == []
    first = 3 * 1440
    assert sorted(frame["latency_ms"]) == list(range(first, first + 1440))
    assert scan.rows_read == 1440
    assert scans(a_log_each_minute, 8) == (0, 8)
    aggregate(a_log_each_minute)
    assert_exact(a_log_each_minute)


def test_a_large_day_without_an_index_is_read_in_one_pass(
    a_log_each_minute: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("metrics_pipeline.storage.extraction._PARALLEL_FROM_LOGS", 1000)
    execute(a_log_each_minute, *query_drop_indexes(a_log_each_minute))
    with open_snapshot(a_log_each_minute, require_ready(a_log_each_minute)) as snapshot:
        scan = snapshot.logs(WINDOW)
        scan.lazy.collect()
    assert scan.rows_read == 1440
    assert scans(a_log_each_minute, 1) == (1, 0)


def query_drop_indexes(database: Database) -> list[str]:
    """The statements that drop the indexes on timestamp."""
    names = """SELECT 'DROP INDEX ' || indexname FROM pg_indexes
                WHERE tablename = 'agent_execution_logs' AND indexdef LIKE '%("timestamp"%'"""
    return [row[0] for row in query(database, names)]


def test_a_reader_that_is_cut_off_in_a_large_day_ends_the_others_and_is_a_transient_error(
    a_log_each_minute: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("metrics_pipeline.storage.extraction._PARALLEL_FROM_LOGS", 1000)
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    readers = """SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
                  WHERE datname = current_database() AND query LIKE '%content_hash%' AND pid <> pg_backend_pid()"""
    with open_snapshot(a_log_each_minute, require_ready(a_log_each_minute)) as snapshot:
        batches = iter(snapshot.logs(WINDOW).lazy.collect_batches(chunk_size=1))
        next(batches)
        assert query(a_log_each_minute, readers)[0][0] > 0
        with pytest.raises(Exception, match=r"The server ended the session|connection"):
            list(batches)


def test_a_day_of_an_agent_list_without_inactive_ones_includes_those_with_stored_rows(database: Database) -> None:
    store_agents(database, {"active": "active", "retired": "active", "never": "inactive"})
    aggregate(database)
    execute(database, "UPDATE agent_registry SET status = 'inactive' WHERE id = 'retired'")
    with open_snapshot(database, require_ready(database)) as snapshot:
        assert snapshot.agents(DAY, include_inactive=False).to_list() == ["active", "retired"]
        assert snapshot.agents(DAY + timedelta(days=1), include_inactive=False).to_list() == ["active"]
        assert sorted(snapshot.agents(DAY, include_inactive=True)) == ["active", "never", "retired"]
