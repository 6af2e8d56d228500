import hashlib
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import polars as pl
import pytest
from sqlalchemy import Connection

from metrics_pipeline.errors import InvariantError, TransientError
from metrics_pipeline.logs.log_columns import log_columns
from metrics_pipeline.logs.postgres_logs import PostgresLogs
from metrics_pipeline.logs.slices import Slice, slices_of
from metrics_pipeline.metrics.calculator import daily_metrics, merge_partials
from metrics_pipeline.metrics.catalog import EXACT_COSTS_SCHEMA, PARTIALS_SCHEMA
from metrics_pipeline.metrics.validation import validate_day
from metrics_pipeline.metrics.windows import day_window
from metrics_pipeline.pipeline.opening import open_logs, require_ready
from metrics_pipeline.postgres.database import Database
from metrics_pipeline.postgres.urls import DatabaseUrl
from metrics_pipeline_tests.days import (
    DAY,
    WINDOW,
    Log,
    aggregate,
    assert_exact,
    column,
    compute,
    execute,
    query,
    read,
    store_agents,
    store_logs,
)
from metrics_pipeline_tests.examples import variants
from metrics_pipeline_tests.processes import HANGING_SECONDS, wait_until


def test_partial_aggregates_hold_what_the_metrics_depend_on(database: Database) -> None:
    store_logs(
        database,
        [
            Log("a", "failed", 5, 7, "1.500", "x", '{"user_id": 1, "human_intervention": "true"}'),
            Log("a", "failed", -300, None, "0.0000000010", None, '{"user_id": "1"}'),
            Log("a", "running", None, 2, "-0.25", "not of a failure", '{"user_id": "", "human_intervention": 1}'),
            Log("b", "success", None, None, None, "not of a failure", "[]"),
        ],
    )
    partials = read(database).partials.sort("agent_id")
    assert partials.schema == PARTIALS_SCHEMA
    assert partials.drop("content_hash", "user_ids").rows(named=True) == [
        {
            "agent_id": "a", "total_executions": 3, "successful_executions": 0, "failed_executions": 2,
            "human_interventions": 1, "total_tokens": 9, "cost_nano_usd": 1_250_000_001,
            "latencies_ms": [5, -300], "latency_counts": None, "error_types": ["x", "unknown"], "error_counts": None,
        },
        {
            "agent_id": "b", "total_executions": 1, "successful_executions": 1, "failed_executions": 0,
            "human_interventions": 0, "total_tokens": 0, "cost_nano_usd": 0,
            "latencies_ms": [], "latency_counts": None, "error_types": [], "error_counts": None,
        },
    ]  # fmt: skip
    assert [sorted(users) for users in partials["user_ids"]] == [["", "1"], []]


@pytest.mark.parametrize(
    ("cost", "next_cost"),
    variants(
        [
            # The value of the sum alone would look regular.
            ("0.0000000001", "-0.0000000001"),
            ("0.0000000005", "0.0000000005"),
            ("NaN", "1"),
            ("Infinity", "1"),
            ("-Infinity", "1"),
            ("9999999999999999999", "1"),
            ("-1e19", "0"),
        ]
    ),
)
def test_one_irregular_cost_makes_the_sum_irregular(database: Database, cost: str, next_cost: str) -> None:
    store_logs(database, [Log(cost_usd=cost), Log(cost_usd=next_cost), Log("b", cost_usd="9999999999999999999.9")])
    partials = read(database).partials.sort("agent_id")
    assert partials["cost_nano_usd"].to_list() == [None, 9_999_999_999_999_999_999_900_000_000]


def test_users_with_long_ids_are_told_apart_and_no_id_is_taken_for_anothers_digest(database: Database) -> None:
    long = ["u" * 63, "u" * 64, "u" * 65, "ü" * 32, "ü" * 31, "u" * 100_000, "u" * 99_999 + "v"]
    digests = [hashlib.sha256(user.encode()).hexdigest() for user in long]
    users = [*long, *digests, *long, *digests]
    store_agents(database, {"a": "active", "b": "active"})
    store_logs(database, [Log(metadata=json.dumps({"user_id": user})) for user in users])
    store_logs(database, [Log("b", metadata=json.dumps({"user_id": long[-1]}))])
    day = aggregate(database)
    assert_exact(database)
    assert column(database, "unique_users") == [14, 1]
    assert day.computed.totals.unique_users == 14


def test_a_long_error_type_is_kept_by_its_beginning_and_its_digest(database: Database) -> None:
    # One more byte or another end must not matter up to 256 characters, whatever their bytes, and must count above.
    kept = ["e" * 256, "ü" * 256, "😀\n" * 128, "e" * 255 + "f"]
    long = ["e" * 257, "e" * 256 + "f", "😀\n" * 129, "ü" * 20_000]
    assert hashlib.sha256(b"e" * 257).hexdigest().startswith("9a9c6a76d240d404")
    store_agents(database, {"a": "active"})
    store_logs(database, [Log(status="failed", error_type=error) for error in [*kept, *long, *long]])
    aggregate(database)
    assert_exact(database)
    assert column(database, "error_distribution") == [
        dict.fromkeys(kept, 1)
        | {f"{error[:200]}…{hashlib.sha256(error.encode()).hexdigest()[:16]}": 2 for error in long}
    ]
    assert column(database, f"error_distribution->'{'e' * 200}…9a9c6a76d240d404'") == [2]


def test_a_reading_that_loses_logs_on_the_way_is_caught(database: Database) -> None:
    store_agents(database, {"a": "active", "b": "active"})
    store_logs(database, [Log(agent_id="ab"[number % 2], latency_ms=number) for number in range(10)])
    partials = read(database).partials
    merged = merge_partials(partials.filter(pl.col("agent_id") == "a"))
    day = daily_metrics(merged, pl.Series(["a", "b"]), DAY, pl.DataFrame(schema=EXACT_COSTS_SCHEMA))
    with pytest.raises(InvariantError, match="10 logs were read, but 5 aggregated and 0 skipped"):
        validate_day(day, WINDOW, int(partials["total_executions"].sum()))


def test_what_is_committed_after_the_snapshot_was_opened_is_not_seen(database: Database) -> None:
    store_agents(database, {"a": "active", "b": "active"})
    store_logs(database, [Log(latency_ms=10, cost_usd="0.0000000001"), Log("b", latency_ms=10)])
    before = compute(database)
    logs = open_logs(database)
    with database.snapshot() as snapshot:
        snapshot.exec_driver_sql("SELECT 1")
        store_logs(database, [Log(latency_ms=99, cost_usd="5"), Log("c")])
        store_agents(database, {"c": "active"})
        execute(
            database,
            "UPDATE agent_execution_logs SET latency_ms = 77 WHERE agent_id = 'b'",
            "UPDATE agent_registry SET status = 'inactive' WHERE id = 'b'",
        )
        seen = logs.read_day(snapshot, WINDOW, include_inactive_agents=False)
        # A second reading within the snapshot sees the same.
        again = logs.read_day(snapshot, WINDOW, include_inactive_agents=False)
    assert sorted(seen.agents) == ["a", "b"]
    costs = seen.exact_costs
    fingerprints = [merge_partials(day.partials).fingerprint(day.exact_costs, day.kind) for day in (seen, again)]
    assert fingerprints == [before.metrics.fingerprint] * 2
    assert (before.metrics.fingerprint.logs, costs["total_cost_nano_usd"].to_list()) == (2, [0])
    day = daily_metrics(merge_partials(seen.partials), seen.agents, DAY, costs)
    assert day.metrics.equals(before.metrics.metrics)
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
    "NULL and a cost of zero swapped": f"""{_SET} cost_usd = CASE WHEN cost_usd IS NULL THEN 0 END
        WHERE agent_id = 'b'""",
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


@pytest.mark.parametrize("statement", variants(RELEVANT.values()), ids=RELEVANT)
def test_the_fingerprint_changes_with(database: Database, statement: str) -> None:
    store_logs(database, FIVE)
    before = compute(database).metrics.fingerprint
    execute_raw(database, statement)
    after = compute(database).metrics.fingerprint
    assert after != before
    assert before.differences(after)


def test_the_fingerprint_changes_when_a_refund_moves_to_another_agent(database: Database) -> None:
    store_logs(database, [Log("a", cost_usd="1.5"), Log("b", cost_usd="-1.5")])
    before = compute(database).metrics.fingerprint
    execute(database, "UPDATE agent_execution_logs SET cost_usd = -cost_usd")
    assert compute(database).metrics.fingerprint != before


@pytest.mark.parametrize("statement", variants(IRRELEVANT.values()), ids=IRRELEVANT)
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
    costs = read(database).exact_costs.sort("agent_id")
    nothing = read(database, day_window(DAY + timedelta(days=1), "UTC")).exact_costs
    # 0.5 / 3 is 0.17 nano-dollars, -1.5 / 2 is -0.75: neither is formed from the rounded total.
    assert costs.rows() == [("a", 1, 0, 0, 1), ("b", -2, -1, 0, 0), ("c", None, None, 0, 0)]
    assert costs.schema == nothing.schema == EXACT_COSTS_SCHEMA


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


def test_a_day_of_an_agent_list_without_inactive_ones_includes_those_with_stored_rows(database: Database) -> None:
    store_agents(database, {"active": "active", "retired": "active", "never": "inactive"})
    aggregate(database)
    execute(database, "UPDATE agent_registry SET status = 'inactive' WHERE id = 'retired'")
    tomorrow = day_window(DAY + timedelta(days=1), "UTC")
    assert sorted(read(database).agents) == ["active"]
    assert compute(database).metrics.metrics["agent_id"].to_list() == ["active", "retired"]
    assert compute(database, tomorrow).metrics.metrics["agent_id"].to_list() == ["active"]
    everybody = compute(database, include_inactive=True).metrics.metrics
    assert everybody["agent_id"].to_list() == ["active", "never", "retired"]


@pytest.mark.parametrize("name", ["agent_id", "status", "error_type"])
def test_texts_compare_byte_by_byte_whatever_the_collation_of_their_column(database: Database, name: str) -> None:
    # A nondeterministic collation made one agent of 'bot' and 'Bot'; this server has none to try.
    execute(database, f'ALTER TABLE agent_execution_logs ALTER {name} TYPE text COLLATE "POSIX"')
    store_logs(database, [Log()])
    contract = open_logs(database).contract
    columns = f"SELECT {log_columns(contract)} FROM agent_execution_logs"
    assert query(database, f"SELECT pg_collation_for({name}) FROM ({columns}) AS log") == [('"C"',)]
