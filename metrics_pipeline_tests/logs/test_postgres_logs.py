"""A day of logs in PostgreSQL: its partial aggregates, its fingerprint and its exact costs."""

import hashlib
import json
from datetime import timedelta

import polars as pl
import pytest

from metrics_pipeline.errors import InvariantError
from metrics_pipeline.logs.log_columns import log_columns
from metrics_pipeline.metrics.calculator import daily_metrics, merge_partials
from metrics_pipeline.metrics.catalog import EXACT_COSTS_SCHEMA, PARTIALS_SCHEMA
from metrics_pipeline.metrics.validation import validate_day
from metrics_pipeline.metrics.windows import day_window
from metrics_pipeline.pipeline.opening import open_logs
from metrics_pipeline.postgres.database import Database
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
