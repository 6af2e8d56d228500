from collections import Counter, defaultdict
from collections.abc import Sequence
from datetime import date
from decimal import Decimal
from fractions import Fraction
from math import ceil, floor
from typing import Any

import polars as pl
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from metrics_pipeline.errors import InvariantError
from metrics_pipeline.metrics.calculator import (
    DayMetrics,
    DayTotals,
    agents_with_irregular_costs,
    daily_metrics,
    day_totals,
    merge_partials,
)
from metrics_pipeline.metrics.catalog import AGENT_DAY, EXACT_COSTS_SCHEMA, PARTIALS_SCHEMA
from metrics_pipeline.metrics.distributions import UserKey, hashed_users
from metrics_pipeline.metrics.expressions import LATENCY_COUNT, rounded_quotient, weighted_percentile

DAY = date(2025, 3, 4)
NO_EXACT_COSTS = pl.DataFrame(schema=EXACT_COSTS_SCHEMA)

BLANK = {"agent_id": "a", "status": "success", "human_intervention": False, "content_hash": 0}


def logs(*rows: dict[str, Any]) -> pl.DataFrame:
    """Each log as a partial aggregate of its own; the default is a success of agent a without values."""
    return pl.DataFrame([partial(defaultdict(lambda: None, BLANK | row)) for row in rows], schema=PARTIALS_SCHEMA)


def partial(log: dict[str, Any]) -> dict[str, Any]:
    is_failed = log["status"] == "failed"
    cost = Decimal(log["cost_usd"] or 0)
    is_regular = cost.is_finite() and abs(cost) < Decimal("1e19") and cost == round(cost, 9)
    return {
        "agent_id": log["agent_id"],
        "total_executions": 1,
        "successful_executions": int(log["status"] == "success"),
        "failed_executions": int(is_failed),
        "human_interventions": int(log["human_intervention"]),
        "total_tokens": log["token_count"] or 0,
        "cost_nano_usd": int(cost.scaleb(9)) if is_regular else None,
        "content_hash": log["content_hash"],
        "latencies_ms": [] if log["latency_ms"] is None else [log["latency_ms"]],
        "latency_counts": None,
        "user_ids": [] if log["user_id"] is None else [log["user_id"]],
        "error_types": [log["error_type"] or "unknown"] if is_failed else [],
        "error_counts": None,
    }


def metrics_of(
    partials: pl.DataFrame, agents: Sequence[str] = ("a",), exact_costs: pl.DataFrame = NO_EXACT_COSTS
) -> DayMetrics:
    return daily_metrics(merge_partials(partials), pl.Series(agents, dtype=pl.String), DAY, exact_costs)


def totals_of(partials: pl.DataFrame, agents: Sequence[str]) -> DayTotals:
    aggregates, scope = merge_partials(partials), pl.Series(agents, dtype=pl.String)
    return day_totals(aggregates, scope, hashed_users(aggregates, scope, UserKey(b"a key")))


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
            {"status": "failed", "latency_ms": 400, "error_type": None},
            {"status": "failed", "latency_ms": 1000, "error_type": "unknown", "user_id": ""},
            {"status": "cancelled", "error_type": "ignored"},
            {"agent_id": "b", "cost_usd": "1"},
        )
    )
    assert day.metrics.schema == AGENT_DAY.schema
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
    assert (day.aggregated_logs, day.skipped_logs, day.not_finite_costs) == (6, 1, 0)
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
    failures = logs({"status": "failed"}).with_columns(
        pl.lit(1_999_999, dtype=pl.Int64).alias("total_executions"),
        pl.lit(1_999_999, dtype=pl.Int64).alias("failed_executions"),
    )
    one_of_two_million = pl.concat([logs({}), failures])
    assert metrics_of(one_of_two_million).metrics["success_rate"].item() == Decimal("0.000001")


def test_irregular_costs_are_named_and_replaced_by_the_exact_ones() -> None:
    partials = logs(
        {"agent_id": "fine", "cost_usd": "0.0000000001"},
        {"agent_id": "fine", "cost_usd": "0.000000002"},
        {"agent_id": "huge", "cost_usd": "1" + "0" * 19},
        {"agent_id": "no number", "cost_usd": "NaN"},
        {"agent_id": "regular", "cost_usd": "-12345678901.123456789"},
        {"agent_id": "whole", "cost_usd": "1234567890"},
        {"agent_id": None, "cost_usd": "Infinity"},
        {"agent_id": None, "cost_usd": "0.000000004"},
    )
    assert agents_with_irregular_costs(partials) == [None, "fine", "huge", "no number"]
    exact = pl.DataFrame(
        [
            ("fine", 7, -3, 2, 0),
            ("huge", 10**20 - 1, 4, 0, 0),
            ("no number", 0, 0, 0, 1),
            (None, 4, 2, 4, 1),
        ],
        schema=EXACT_COSTS_SCHEMA,
        orient="row",
    )
    day = metrics_of(partials, ["fine", "huge", "no number", "regular", "whole"], exact)
    assert day.metrics["total_cost_usd"].to_list() == [
        Decimal("0.000000007"),
        Decimal("99999999999.999999999"),
        0,
        Decimal("-12345678901.123456789"),
        Decimal(1234567890),
    ]
    assert day.metrics["avg_cost_per_execution"].to_list()[:2] == [Decimal("-0.000000003"), Decimal("0.000000004")]
    assert day.not_finite_costs == 1
    # The regular costs only, those of agents with irregular ones and of no agent included.
    assert day.fingerprint.cost_nano_usd == 2 + 4 + (-12345678901_123456789) + 1234567890_000000000


def test_exact_costs_of_no_agent_count_in_the_fingerprint_only_in_place_of_irregular_ones() -> None:
    exact = pl.DataFrame([("a", 1, 1, 0, 0), (None, 5, 5, 5, 0)], schema=EXACT_COSTS_SCHEMA, orient="row")
    day = metrics_of(logs({"cost_usd": "1e-10"}, {"agent_id": None, "cost_usd": "0.000000005"}), ["a"], exact)
    assert day.fingerprint.cost_nano_usd == 5


@pytest.mark.parametrize("nano_usd", [10**20, -(10**20), 10**38, None])
def test_a_total_cost_that_numeric_cannot_hold_is_refused(nano_usd: int | None) -> None:
    exact = pl.DataFrame([("a", nano_usd, 0, 0, 0)], schema=EXACT_COSTS_SCHEMA, orient="row")
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


@example([-(2**31), 2**31 - 1])
@given(st.lists(st.integers(-20, 20) | st.integers(-(2**31), 2**31 - 1), min_size=1, max_size=200))
def test_percentiles_are_those_of_the_sorted_list_whatever_the_order(latencies: list[int]) -> None:
    ordered = sorted(latencies)

    def expected(q: float) -> int:
        # PostgreSQL's percentile_cont_final_common and float8_lerp; Python's round() is half to even, as rint() is.
        position = q * (len(ordered) - 1)
        low, high = float(ordered[floor(position)]), float(ordered[ceil(position)])
        return round(low + (position - floor(position)) * (high - low))

    quantiles = (0.0, 0.5, 0.95, 0.99, 1.0)
    pairs = [{"latency_ms": latency, "executions": count} for latency, count in sorted(Counter(latencies).items())]
    lists = [[], [{"latency_ms": 7, "executions": 3}], pairs, None]
    counts = pl.DataFrame({"pairs": lists}, schema={"pairs": pl.List(LATENCY_COUNT)})
    weighted = counts.select(weighted_percentile(pl.col("pairs"), q).alias(str(q)) for q in quantiles)
    assert weighted.rows() == [(None,) * 5, (7,) * 5, tuple(map(expected, quantiles)), (None,) * 5]


def as_pairs(partials: pl.DataFrame) -> pl.DataFrame:
    """The same partial aggregates, with pairs instead of bare values, as an engine that only counts sends them."""

    def pairs(values: list[Any], name: str) -> list[dict[str, Any]]:
        return [{name: value, "executions": count} for value, count in Counter(values).items()]

    rows = [
        row
        | {
            "latencies_ms": None,
            "latency_counts": pairs(row["latencies_ms"], "latency_ms"),
            "error_types": None,
            "error_counts": pairs(row["error_types"], "error_type"),
        }
        for row in partials.iter_rows(named=True)
    ]
    return pl.DataFrame(rows, schema=PARTIALS_SCHEMA)


@given(
    st.lists(
        st.fixed_dictionaries(
            {
                "agent_id": st.sampled_from(["a", "b", None]),
                "status": st.sampled_from(["success", "failed", "running"]),
                "latency_ms": st.none() | st.integers(-3, 3) | st.integers(-(2**31), 2**31 - 1),
                "error_type": st.none() | st.sampled_from("xyz"),
                "user_id": st.none() | st.sampled_from("uv"),
            }
        ),
        max_size=30,
    ),
    st.data(),
)
def test_pairs_and_bare_values_give_the_same_metrics_in_whatever_parts_they_come(
    rows: list[dict[str, Any]], data: st.DataObject
) -> None:
    bare = logs(*rows)
    counted = as_pairs(bare)
    are_pairs = data.draw(st.lists(st.booleans(), min_size=len(rows), max_size=len(rows)))
    mixed = pl.concat([counted.filter(are_pairs), bare.filter([not it for it in are_pairs])])
    expected = metrics_of(bare, ["a", "b", "idle"])
    for parts in (counted, mixed):
        day = metrics_of(parts, ["a", "b", "idle"])
        assert day.metrics.equals(expected.metrics)
        assert day.skipped.equals(expected.skipped)
        assert day.fingerprint == expected.fingerprint
        assert totals_of(parts, ["a", "b"]) == totals_of(bare, ["a", "b"])


def test_an_agents_partial_aggregates_are_merged_whatever_their_order() -> None:
    parts = [
        {"latency_ms": 30, "user_id": "u", "status": "failed", "error_type": "x", "content_hash": 2**62},
        {"latency_ms": 10, "user_id": "v", "status": "failed", "error_type": "x", "content_hash": 2**62},
        {"latency_ms": 20, "user_id": "u", "status": "failed", "error_type": "a", "content_hash": 2**62},
        {"agent_id": "b", "latency_ms": 5},
        {},
    ]
    day, reversed_ = metrics_of(logs(*parts), ["a", "b"]), metrics_of(logs(*reversed(parts)), ["a", "b"])
    assert day.metrics.equals(reversed_.metrics)
    row = day.metrics.row(0, named=True)
    assert (row["avg_latency_ms"], row["p50_latency_ms"], row["p99_latency_ms"]) == (20, 20, 30)
    assert row["unique_users"] == 2
    assert row["error_distribution"] == [{"error_type": "a", "executions": 1}, {"error_type": "x", "executions": 2}]
    assert day.fingerprint == reversed_.fingerprint
    assert day.fingerprint.content_hash == 3 * 2**62
