"""Values at the edges of what a column can hold or round, stored as the oracle has them."""

from decimal import Decimal

import pytest

from metrics_pipeline.errors import InvariantError, PermanentError
from metrics_pipeline.postgres.database import Database
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


def test_ties_at_every_rounding_edge(database: Database) -> None:
    ties = {
        "average .5 up": [Log(latency_ms=value) for value in (1, 2)],
        "average -.5 down": [Log(latency_ms=value) for value in (-1, -2)],
        "average 0.5": [Log(latency_ms=value) for value in (0, 1)],
        "average -0.5": [Log(latency_ms=value) for value in (0, -1)],
        "average just below": [Log(latency_ms=value) for value in (1, 2, 1)],
        "cost mean ends in half a nano": [Log(cost_usd="0.000000001"), Log(cost_usd="0")],
        "negative cost mean": [Log(cost_usd="-0.000000001"), Log(cost_usd=None)],
        "cost mean of three and a half": [Log(cost_usd="0.000000007"), Log()],
        "below half": [Log(cost_usd="0.000000001"), Log(), Log()],
        "half a nano in one log": [Log(cost_usd="0.0000000005")],
        "minus half a nano in one log": [Log(cost_usd="-0.00000000050")],
        "just under half": [Log(cost_usd="0.00000000049999999999999999999999999999999999999999")],
        "halves that add up": [Log(cost_usd="0.0000000005"), Log(cost_usd="0.0000000005")],
        "the float 0.1": [Log(cost_usd=str(Decimal.from_float(0.1)))] * 3,
        "trailing zeros": [Log(cost_usd="0.10000000000000"), Log(cost_usd="-0.1000000000")],
        "mixed signs": [Log(cost_usd="1.00000000051"), Log(cost_usd="-1.0000000000")],
        "extremes": [Log(latency_ms=2**31 - 1, token_count=2**31 - 1)] * 3
        + [Log(latency_ms=-(2**31), token_count=-(2**31))],
    }
    store_agents(database, dict.fromkeys(ties, "active"))
    store_logs(database, [Log(**{**vars(log), "agent_id": agent}) for agent, logs in ties.items() for log in logs])
    assert_exact_twice(database)
    stored = dict(query(database, "SELECT agent_id, avg_latency_ms FROM agent_performance_metrics"))
    assert {agent: stored[agent] for agent in ties if agent.startswith("average")} == {
        "average .5 up": 2,
        "average -.5 down": -2,
        "average 0.5": 1,
        "average -0.5": -1,
        "average just below": 1,
    }
    costs = {
        agent: (total, mean)
        for agent, total, mean in query(
            database, "SELECT agent_id, total_cost_usd, avg_cost_per_execution FROM agent_performance_metrics"
        )
    }
    nano = Decimal("1e-9")
    assert costs["cost mean ends in half a nano"] == (nano, nano)
    assert costs["negative cost mean"] == (-nano, -nano)
    assert costs["cost mean of three and a half"] == (7 * nano, 4 * nano)
    assert costs["half a nano in one log"] == (nano, nano)
    assert costs["minus half a nano in one log"] == (-nano, -nano)
    assert costs["just under half"] == (0, 0)
    assert costs["halves that add up"] == (nano, nano)
    assert costs["the float 0.1"] == (Decimal("0.3"), Decimal("0.1"))


@pytest.mark.parametrize(
    ("low", "high", "median"), [(0, 1, 0), (1, 2, 2), (2, 3, 2), (-1, 0, 0), (-2, -1, -2), (3, 4, 4)]
)
def test_a_median_between_two_latencies_goes_to_the_even_one(
    database: Database, low: int, high: int, median: int
) -> None:
    store_agents(database, {"a": "active"})
    store_logs(database, [Log(latency_ms=low), Log(latency_ms=high)])
    assert_exact_twice(database)
    assert column(database, "p50_latency_ms") == [median]


def test_a_success_rate_that_ends_in_half_a_millionth_goes_up(database: Database) -> None:
    # 1 / 2,000,000 would need a day too long for a test; 1 / 64 = 0.015625, and 7 / 128 = 0.0546875 ends in a half.
    store_agents(database, {"a": "active", "b": "active"})
    store_logs(database, [Log(status="success" if number < 7 else "failed") for number in range(128)])
    store_logs(database, [Log("b", status="success" if number < 1 else "running") for number in range(64)])
    assert_exact_twice(database)
    assert column(database, "success_rate") == [Decimal("0.054688"), Decimal("0.015625")]


def test_costs_that_are_no_number_count_as_null_and_are_reported(database: Database) -> None:
    store_agents(database, {"a": "active"})
    store_logs(database, [Log(cost_usd=cost) for cost in ("NaN", "Infinity", "-Infinity", "1.5", None)])
    store_logs(database, [Log("unregistered", cost_usd="NaN")])
    day = assert_exact_twice(database)
    assert day.computed.metrics.not_finite_costs == 3
    assert column(database, "total_cost_usd") == [Decimal("1.5")]


def test_sums_beyond_64_bits_of_nano_dollars_and_32_bits_of_tokens(database: Database) -> None:
    store_agents(database, {"a": "active"})
    store_logs(database, [Log(cost_usd="9223372036.854775807", token_count=2**31 - 1)] * 10)
    assert_exact_twice(database)
    assert column(database, "total_cost_usd") == [Decimal("92233720368.54775807")]
    assert column(database, "total_tokens") == [10 * (2**31 - 1)]


def test_costs_too_large_to_store_may_cancel_each_other_out(database: Database) -> None:
    store_agents(database, {"a": "active", "b": "active"})
    huge = "9" * 60
    store_logs(database, [Log(cost_usd=huge), Log(cost_usd=f"-{huge}.000000001")])
    store_logs(database, [Log("b", cost_usd="99999999999.999999999")])
    assert_exact_twice(database)
    assert column(database, "total_cost_usd") == [Decimal("-1e-9"), Decimal("99999999999.999999999")]


@pytest.mark.parametrize(
    "costs",
    [
        ["100000000000"],
        ["-100000000000"],
        ["99999999999.9999999995"],
        ["60000000000", "60000000000"],
        # Four times 2^126 nano-dollars are 2^128, which 128 bits would hold as 0.
        ["85070591730234615865843651857.942052864"] * 4,
        ["1" + "0" * 60],
        ["1" + "0" * 60, "0.5"],
    ],
)
def test_a_total_cost_that_cannot_be_stored_is_refused_with_the_agents_name(
    database: Database, costs: list[str]
) -> None:
    store_agents(database, {"a": "active", "o'Brien": "active"})
    store_logs(database, [Log(), *[Log("o'Brien", cost_usd=cost) for cost in costs]])
    with pytest.raises(InvariantError, match=r"2025-03-04 .* 10\^11 USD .* \"o'Brien\"\.$"):
        aggregate(database)
    assert query(database, "SELECT 1 FROM agent_performance_metrics") == []


def test_a_cost_at_the_end_of_numeric_is_refused(database: Database) -> None:
    store_agents(database, {"a": "active"})
    store_logs(database, [Log(cost_usd="9" * 131_072)])
    with pytest.raises(PermanentError):
        aggregate(database)


def test_an_unregistered_agents_unstorable_cost_stops_nothing(database: Database) -> None:
    store_agents(database, {"a": "active"})
    store_logs(database, [Log(cost_usd="1"), Log("unregistered", cost_usd="1" + "0" * 60)])
    assert_exact_twice(database)


def test_error_types_null_empty_and_unknown(database: Database) -> None:
    store_agents(database, {"a": "active", "b": "active"})
    types = (None, "", "unknown", None, "Unknown", " ", "\x01", "it's", '"', "\\", "{}", "ключ", "a" * 5000)
    store_logs(database, [Log(status="failed", error_type=error_type) for error_type in types])
    store_logs(database, [Log("b", status=status, error_type="ignored") for status in ("success", "timeout")])
    assert_exact_twice(database)
    distribution, nothing = column(database, "error_distribution")
    assert distribution["unknown"] == 3
    assert distribution[""] == 1
    assert sum(distribution.values()) == len(types)
    assert nothing == {}


def test_metadata_of_every_form(database: Database) -> None:
    store_agents(database, {"users": "active", "people": "active"})
    users = (
        "1",
        '"1"',
        "1.0",
        "null",
        '""',
        '"\\u0001"',
        '{"a": 1}',
        '{"a":1}',
        "true",
        '"true"',
        "[]",
        '"é"',
        '"e\u0301"',
    )
    store_logs(database, [Log("users", metadata=f'{{"user_id": {user}}}') for user in users])
    forms = (
        "[]",
        '["user_id"]',
        '"user_id"',
        "1",
        "null",
        "{}",
        '{"nested": {"user_id": "u", "human_intervention": true}}',
    )
    store_logs(database, [Log("users", metadata=form) for form in forms])
    said = ("true", '"true"', '"True"', "1", '"1"', "false", "null", "[true]", '"TRUE"', '" true"')
    store_logs(database, [Log("people", metadata=f'{{"human_intervention": {value}}}') for value in said])
    assert_exact_twice(database)
    # 1 and "1" are one user, true and "true" are one, two spellings of the object are one in jsonb, null is none.
    assert dict(query(database, "SELECT agent_id, unique_users FROM agent_performance_metrics"))["users"] == 9
    assert dict(query(database, "SELECT agent_id, human_interventions FROM agent_performance_metrics"))["people"] == 2


def test_a_million_equal_latencies(database: Database) -> None:
    store_agents(database, {"a": "active"})
    execute(
        database,
        # Without the indexes the rows are stored in a fifth of the time.
        "DROP INDEX agent_execution_logs_timestamp",
        "ALTER TABLE agent_execution_logs DROP CONSTRAINT agent_execution_logs_pkey",
        "ALTER TABLE agent_execution_logs SET UNLOGGED",
        """INSERT INTO agent_execution_logs (id, agent_id, "timestamp", status, latency_ms, token_count, cost_usd)
           SELECT '00000000-0000-0000-0000-000000000000', 'a', CAST(:start AS timestamptz) + n * interval '80 ms',
                  'success', 2147483647, 2147483647, 0.000000001
             FROM generate_series(1, 1000000) AS n""",
        start=WINDOW.start,
    )
    aggregate(database)
    assert_exact(database)
    assert column(database, "ROW(avg_latency_ms, p50_latency_ms, p95_latency_ms, p99_latency_ms)::text") == [
        "(2147483647,2147483647,2147483647,2147483647)"
    ]
