from collections.abc import Sequence
from datetime import date
from decimal import Decimal
from fractions import Fraction
from math import ceil, floor

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metrics_pipeline.errors import InvariantError
from metrics_pipeline.metrics.calculator import (
    DayMetrics,
    aggregate_logs,
    daily_metrics,
    latency_percentiles,
    rounded_quotient,
)
from metrics_pipeline.metrics.costs import parse_costs
from metrics_pipeline.metrics.schema import EXACT_COSTS_SCHEMA, METRICS_SCHEMA, logs_schema

DAY = date(2025, 3, 4)
NO_EXACT_COSTS = pl.DataFrame(schema=EXACT_COSTS_SCHEMA)


SCHEMA = logs_schema()


def logs(*rows: dict[str, object]) -> pl.LazyFrame:
    """Logs of SCHEMA from rows with status and cost_usd; the default is a success of agent a without values."""
    blank = {"agent_id": "a", "status": "success", "human_intervention": False, "content_hash": 0}
    texts = {"status": pl.String(), "cost_usd": pl.String()}
    frame = pl.DataFrame([dict.fromkeys([*SCHEMA, *texts]) | blank | row for row in rows], schema=dict(SCHEMA) | texts)
    costs = parse_costs(frame["cost_usd"])
    statuses = {
        f"is_{name}": pl.col("status") == status for name, status in (("successful", "success"), ("failed", "failed"))
    }
    return frame.with_columns(costs).with_columns(**statuses).select(SCHEMA.names()).lazy()


def metrics_of(
    frame: pl.LazyFrame, agents: Sequence[str] = ("a",), exact_costs: pl.DataFrame = NO_EXACT_COSTS
) -> DayMetrics:
    return daily_metrics(aggregate_logs(frame), pl.Series(agents, dtype=pl.String), DAY, exact_costs)


def test_a_day_by_hand() -> None:
    day = metrics_of(
        logs(
            {
                "latency_ms": 100,
                "token_count": 10,
                "cost_usd": "0.000000001",
                "user_id": "u",
                "human_intervention": True,
            },
            {"latency_ms": 201, "token_count": None, "cost_usd": "0.000000002", "user_id": "u"},
            {"status": "failed", "latency_ms": None, "token_count": 5, "error_type": "timeout", "user_id": "v"},
            {"status": "failed", "latency_ms": 400, "cost_usd": "NaN", "error_type": None},
            {"status": "failed", "latency_ms": 1000, "error_type": "unknown", "user_id": ""},
            {"status": "cancelled", "error_type": "ignored"},
            {"agent_id": "b", "cost_usd": "1"},
        )
    )
    assert day.metrics.schema == METRICS_SCHEMA
    assert day.metrics.row(0, named=True) == {
        "agent_id": "a",
        "metric_date": DAY,
        "total_executions": 6,
        "successful_executions": 2,
        "failed_executions": 3,
        "success_rate": Decimal("0.333333"),
        "avg_latency_ms": 425,  # 1701 / 4 = 425.25
        "p50_latency_ms": 300,  # between 201 and 400: 300.5, to the even number
        "p95_latency_ms": 910,  # position 2.85: 400 + 0.85 * 600
        "p99_latency_ms": 982,  # position 2.97: 400 + 0.97 * 600
        "total_tokens": 15,
        "total_cost_usd": Decimal("0.000000003"),
        "avg_cost_per_execution": Decimal("0.000000001"),  # exactly half a nano-dollar: away from zero
        "error_distribution": [{"error_type": "timeout", "executions": 1}, {"error_type": "unknown", "executions": 2}],
        "human_interventions": 1,
        "unique_users": 3,
    }
    assert day.skipped.rows() == [("b", 1)]
    assert (day.aggregated_logs, day.skipped_logs, day.not_finite_costs) == (6, 1, 1)
    fingerprint = day.fingerprint
    assert (fingerprint.logs, fingerprint.successful, fingerprint.failed) == (7, 3, 3)
    assert (fingerprint.latency_ms, fingerprint.tokens, fingerprint.cost_nano_usd) == (1701, 15, 1_000_000_003)


def test_a_day_without_logs_has_a_row_for_each_agent_in_the_order_of_their_ids() -> None:
    day = metrics_of(logs(), ["b", "B", "a"])
    assert day.metrics["agent_id"].to_list() == ["B", "a", "b"]
    assert set(day.metrics["success_rate"]) == {Decimal(1)}
    assert set(day.metrics["total_cost_usd"]) == {Decimal(0)}
    assert day.metrics["error_distribution"].to_list() == [[], [], []]
    assert sum(day.metrics.null_count().row(0)) == 0
    assert (day.aggregated_logs, day.skipped_logs, day.fingerprint.logs) == (0, 0, 0)


def test_half_a_millionth_of_successes_is_rounded_up() -> None:
    one_of_two_million = pl.concat(
        [logs({}), logs({"status": "failed"}).select(pl.all().repeat_by(1_999_999).explode())]
    )
    assert metrics_of(one_of_two_million).metrics["success_rate"].item() == Decimal("0.000001")


def test_irregular_costs_are_named_and_replaced_by_the_exact_ones() -> None:
    frame = logs(
        {"agent_id": "fine", "cost_usd": "0.0000000001"},
        {"agent_id": "huge", "cost_usd": "1" + "0" * 19},
        {"agent_id": "regular", "cost_usd": "-12345678901.123456789"},
        {"agent_id": "regular", "cost_usd": "NaN"},
        {"agent_id": "regular", "cost_usd": "-Infinity"},
        {"agent_id": "whole", "cost_usd": "1234567890"},
    )
    aggregates = aggregate_logs(frame)
    assert aggregates.agents_with_irregular_costs == ["fine", "huge"]
    exact = pl.DataFrame([("fine", 7, -3), ("huge", 10**20 - 1, 4)], schema=EXACT_COSTS_SCHEMA, orient="row")
    day = metrics_of(frame, ["fine", "huge", "regular", "whole"], exact)
    assert day.metrics["total_cost_usd"].to_list() == [
        Decimal("0.000000007"),
        Decimal("99999999999.999999999"),
        Decimal("-12345678901.123456789"),
        Decimal(1234567890),
    ]
    assert day.metrics["avg_cost_per_execution"].to_list()[:2] == [Decimal("-0.000000003"), Decimal("0.000000004")]


@pytest.mark.parametrize("nano_usd", [10**20, -(10**20), 10**38, None])
def test_a_total_cost_that_numeric_cannot_hold_is_refused(nano_usd: int | None) -> None:
    exact = pl.DataFrame([("a", nano_usd, 0)], schema=EXACT_COSTS_SCHEMA, orient="row")
    with pytest.raises(InvariantError, match=r"2025-03-04 .*numeric\(20,9\).*'a'"):
        metrics_of(logs({"cost_usd": "0.0000000001"}, {"agent_id": "b"}), ["a", "b"], exact)


def test_a_sum_of_latencies_or_tokens_beyond_32_bits_does_not_wrap() -> None:
    largest = 2**31 - 1
    row = metrics_of(logs(*[{"latency_ms": largest, "token_count": largest}] * 5)).metrics.row(0, named=True)
    assert (row["avg_latency_ms"], row["p99_latency_ms"], row["total_tokens"]) == (largest, largest, 5 * largest)


@given(st.integers(-(10**25), 10**25) | st.integers(-20, 20), st.integers(1, 10**9) | st.integers(1, 12))
def test_a_quotient_is_rounded_half_away_from_zero(numerator: int, denominator: int) -> None:
    frame = pl.DataFrame({"n": [numerator], "d": [denominator]}, schema={"n": pl.Int128, "d": pl.Int64})
    whole, rest = divmod(abs(Fraction(numerator, denominator)), 1)
    magnitude = whole + (rest >= Fraction(1, 2))
    expected = magnitude if numerator > 0 else -magnitude
    assert frame.select(rounded_quotient(pl.col("n"), pl.col("d"))).item() == expected


@given(st.lists(st.integers(-20, 20) | st.integers(-(2**31), 2**31 - 1), min_size=1, max_size=200))
def test_percentiles_are_those_of_the_sorted_list(latencies: list[int]) -> None:
    frame = logs(
        *({"agent_id": agent, "latency_ms": latency} for latency in latencies for agent in "ba"),
        {"agent_id": "c", "latency_ms": 1},
        {"agent_id": "d"},
    )
    ordered = sorted(latencies)

    def percentile(q: float) -> int:
        # PostgreSQL's percentile_cont_final_common and float8_lerp; Python's round() is half to even, as rint() is.
        position = q * (len(ordered) - 1)
        low, high = float(ordered[floor(position)]), float(ordered[ceil(position)])
        return round(low + (position - floor(position)) * (high - low))

    expected = [percentile(q) for q in (0.5, 0.95, 0.99)]
    percentiles = latency_percentiles(aggregate_logs(frame).latencies).sort("agent_id")
    assert percentiles.rows() == [("a", *expected), ("b", *expected), ("c", 1, 1, 1)]
