"""Distributions and metrics of windows: by hand, merged in any order, and rounded or estimated within their bounds."""

import hashlib
import random
from collections import Counter
from collections.abc import Sequence
from datetime import date, timedelta
from decimal import Decimal
from math import ceil, floor
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metrics_pipeline.metrics import distributions as module
from metrics_pipeline.metrics import merging
from metrics_pipeline.metrics.calculator import daily_metrics, merge_partials
from metrics_pipeline.metrics.distributions import (
    DISTRIBUTION_SCHEMA,
    LATENCY_ERROR,
    UserKey,
    distributions,
    unique_users,
)
from metrics_pipeline.metrics.merging import Distributions, merge_distributions
from metrics_pipeline.metrics.upstream import OPTIONAL_COLUMNS
from metrics_pipeline.metrics.window_metrics import FIGURES_SCHEMA, distribution_figures, window_metrics

from .test_calculator import NO_EXACT_COSTS, logs

KEY = UserKey(b"a secret")
FIRST = date(2025, 3, 3)  # a Monday


def stored(days: Sequence[Sequence[dict[str, Any]]], key: UserKey = KEY) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The rows and distributions of agents a and b on consecutive days with the given logs."""
    rows, parts = [], []
    agents = pl.Series(["a", "b"])
    for number, of_day in enumerate(days):
        day = FIRST + timedelta(days=number)
        aggregates = merge_partials(logs(*of_day))
        rows.append(daily_metrics(aggregates, agents, day, NO_EXACT_COSTS).metrics)
        parts.append(distributions(aggregates, agents, key).with_columns(metric_date=pl.lit(day)))
    return pl.concat(rows), pl.concat(parts)


def as_arrays(parts: pl.DataFrame) -> Distributions:
    pairs = parts["latency_counts"].to_list()
    latencies, executions = (
        [np.array([pair[name] for pair in row], np.int64) for row in pairs] for name in ("latency_ms", "executions")
    )
    users = [np.array(row, np.int64) for row in parts["user_hashes"].to_list()]
    return Distributions(parts.drop("latency_counts", "user_hashes"), latencies, executions, users)


def merged_by(parts: pl.DataFrame, *keys: str) -> pl.DataFrame:
    """The frame of the merged distributions."""
    return merge_distributions([as_arrays(parts)], keys).frame()


def as_one(rows: pl.DataFrame, parts: pl.DataFrame) -> dict[str, Any]:
    """The metrics of everything together."""
    with_key = rows.with_columns(window=pl.lit("all")).join(
        parts.select("agent_id", "metric_date", has_distribution=True), on=["agent_id", "metric_date"], how="left"
    )
    merged = merged_by(parts.with_columns(window=pl.lit("all")), "window")
    with_key = with_key.with_columns(pl.col("has_distribution").fill_null(False))
    errors = with_key.select("window", "error_distribution").explode("error_distribution").drop_nulls()
    figures = distribution_figures(merged, ["window"])
    found = window_metrics(with_key, errors.unnest("error_distribution"), figures, ["window"])
    return found.row(0, named=True)


def percentile(values: Sequence[int], q: float) -> int:
    ordered = sorted(values)
    position = q * (len(ordered) - 1)
    low, high = float(ordered[floor(position)]), float(ordered[ceil(position)])
    return round(low + (position - floor(position)) * (high - low))


def test_a_window_by_hand() -> None:
    found = as_one(
        *stored(
            [
                [
                    {"agent_id": "a", "latency_ms": 10, "user_id": "u", "cost_usd": "0.1", "token_count": 3},
                    {"agent_id": "a", "latency_ms": -30, "user_id": "v", "status": "failed", "error_type": "x"},
                    {"agent_id": "b", "latency_ms": 10, "user_id": "u", "human_intervention": True},
                ],
                [],
                [
                    {"agent_id": "a", "latency_ms": 1000, "user_id": "u", "cost_usd": "0.25", "status": "running"},
                    {"agent_id": "b", "user_id": None, "status": "failed"},
                    {"agent_id": "b", "latency_ms": 11, "user_id": "w", "status": "success"},
                ],
            ]
        )
    )
    assert found == {
        "window": "all",
        "total_executions": 6,
        "successful_executions": 3,
        "failed_executions": 2,
        "success_rate": Decimal("0.5"),
        # -30, 10, 10, 11, 1000: the mean is 200.2, position 0.95 * 4 = 3.8 lies between 11 and 1000, and 3.96 too.
        "avg_latency_ms": 200,
        "p50_latency_ms": 10,
        "p95_latency_ms": 802,
        "p99_latency_ms": 960,
        "total_tokens": 3,
        "total_cost_usd": Decimal("0.35"),
        "avg_cost_per_execution": Decimal("0.058333333"),
        "error_distribution": [{"error_type": "unknown", "executions": 1}, {"error_type": "x", "executions": 1}],
        "human_interventions": 1,
        "unique_users": 3,
        "cost_per_unassisted_success": Decimal("0.175"),
        "human_intervention_rate": Decimal("0.166667"),
        # 3 of 6: (3 + z²/2 ± z √(3 · 3 / 6 + z²/4)) / (6 + z²) with z = 1.959964.
        "success_rate_low": Decimal("0.187616"),
        "success_rate_high": Decimal("0.812384"),
        "days_stored": 3,
        "is_exact": True,
        "latency_error": 0,
        "unique_users_error": 0,
        "days_without_distribution": [],
        "days_without_column": dict.fromkeys(OPTIONAL_COLUMNS, 0),
        "has_several_user_keys": False,
    }


def test_each_figure_is_that_of_the_days_that_have_its_columns() -> None:
    logs_of_day: dict[str, Any] = {"agent_id": "a", "cost_usd": "0.5", "token_count": 3}
    rows, _ = stored([[logs_of_day], [logs_of_day, logs_of_day], [logs_of_day]])
    days = rows.filter(pl.col("agent_id") == "a").with_columns(window=0, has_distribution=True)
    errors = pl.DataFrame(schema={"window": pl.Int32, "error_type": pl.String, "executions": pl.Int64})
    figures = pl.DataFrame(schema={"window": pl.Int32, **FIGURES_SCHEMA})
    first, second, third = (FIRST + timedelta(days=number) for number in range(3))
    # As a day without its cost is stored.
    days = days.with_columns(
        pl.when(pl.col("metric_date") == second).then(0).otherwise("total_cost_usd").alias("total_cost_usd")
    )
    without = {"cost_usd": [second], "human_intervention": [first, third], "token_count": [first, second, third]}
    found = window_metrics(days, errors, figures, ["window"], without).row(0, named=True)
    assert (found["total_cost_usd"], found["avg_cost_per_execution"]) == (1, Decimal("0.5"))
    assert (found["total_tokens"], found["human_intervention_rate"], found["unique_users"]) == (None, 0, 0)
    # No day has both its cost and who had help.
    assert found["cost_per_unassisted_success"] is None
    assert {name: n for name, n in found["days_without_column"].items() if n} == {
        "token_count": 3, "cost_usd": 1, "human_intervention": 2
    }  # fmt: skip


def test_a_window_without_executions_has_no_rates_and_is_exact() -> None:
    found = as_one(*stored([[], []]))
    assert {name for name, value in found.items() if value is None} == {
        "success_rate", "avg_latency_ms", "p50_latency_ms", "p95_latency_ms", "p99_latency_ms",
        "avg_cost_per_execution", "cost_per_unassisted_success", "human_intervention_rate",
        "success_rate_low", "success_rate_high",
    }  # fmt: skip
    assert (found["unique_users"], found["days_stored"], found["is_exact"]) == (0, 2, True)


def test_a_day_with_executions_and_without_a_distribution_leaves_the_sums_and_is_named() -> None:
    rows, parts = stored([[{"latency_ms": 1, "user_id": "u"}], [{"latency_ms": 2}], []])
    found = as_one(rows, parts.filter(pl.col("metric_date") == FIRST))
    assert found["days_without_distribution"] == [FIRST + timedelta(days=1)]
    assert found["total_executions"] == 2
    assert found["success_rate"] == 1
    assert [found[name] for name in ("avg_latency_ms", "p50_latency_ms", "unique_users", "is_exact")] == [
        None, None, None, False
    ]  # fmt: skip


def test_users_under_two_keys_are_not_counted_together() -> None:
    days = [[{"latency_ms": 5, "user_id": "u"}], [{"latency_ms": 7, "user_id": "u"}], [{"latency_ms": 9}]]
    rows, parts = stored(days)
    _, others = stored(days, UserKey(b"another"))
    is_first = pl.col("metric_date") == FIRST
    found = as_one(rows, pl.concat([parts.filter(is_first), others.filter(~is_first)]))
    assert (found["unique_users"], found["is_exact"], found["p50_latency_ms"]) == (None, False, 7)
    # The last day has no users, so it has no key.
    later = rows.filter(~is_first)
    assert as_one(later, others.filter(~is_first))["unique_users"] == 1


def test_the_hash_of_a_user_is_the_beginning_of_the_sha_256_of_the_secret_and_the_id() -> None:
    _, parts = stored([[{"user_id": "Zoë"}]])
    digest = hashlib.sha256(b"a secret" + "Zoë".encode()).digest()
    assert parts["user_hashes"].to_list() == [[int.from_bytes(digest[:8], "big", signed=True)]]
    assert KEY.hash_of("Zoë") == parts["user_hashes"].item()[0]
    # An id of 64 bytes or more is one of 64 hexadecimal digits before it is hashed.
    assert KEY.hash_of("u" * 64) == KEY.hashes([hashlib.sha256(b"u" * 64).hexdigest()])[0]
    assert KEY.hash_of("u" * 63) == KEY.hashes(["u" * 63])[0]
    assert "secret" not in repr(KEY)


def test_merging_by_hand() -> None:
    def part(agent: str, pairs: Sequence[tuple[int, int]], users: Sequence[int], **others: Any) -> dict[str, Any]:
        counts = [{"latency_ms": latency, "executions": count} for latency, count in pairs]
        return {
            "agent_id": agent, "latency_counts": counts, "total_latency_ms": 5, "latencies_exact": True,
            "user_hashes": users, "users_exact": True, "user_key_id": "k", **others,
        }  # fmt: skip

    parts = [
        part("a", [(1, 1), (2, 2)], [5, 6, 9]),
        # Latencies that are as far apart as can be are merged in another way.
        part("b", [(7, 2), (2**31 - 1, 6)], [1]),
        part("a", [(2, 3), (4, 4)], [-3, 7], users_exact=False, latencies_exact=False),
        part("b", [(-(2**31), 1), (7, 1)], [1, 2], user_key_id="l"),
        part("a", [], [], user_key_id=None),
        part("c", [], []),
        part("c", [], [], user_key_id=None),
    ]
    frame = pl.DataFrame(parts, schema={"agent_id": pl.String, **DISTRIBUTION_SCHEMA})
    a = part("a", [(1, 1), (2, 5), (4, 4)], [-3, 5, 6, 7], users_exact=False, latencies_exact=False)
    b = part("b", [(-(2**31), 1), (7, 3), (2**31 - 1, 6)], [1, 2], user_key_id="several")
    expected = [
        {**a, "total_latency_ms": 15},
        {**b, "total_latency_ms": 10},
        {**part("c", [], []), "total_latency_ms": 10},
    ]
    assert merged_by(frame, "agent_id").select(frame.columns).to_dicts() == expected


one_log = st.fixed_dictionaries(
    {
        "agent_id": st.sampled_from("ab"),
        "latency_ms": st.none() | st.integers(-4, 4) | st.integers(-(2**31), 2**31 - 1),
        "user_id": st.none() | st.sampled_from("uvwxyz"),
    }
)


def shown(parts: pl.DataFrame, keys: Sequence[str]) -> list[dict[str, Any]]:
    return parts.with_columns(pl.col("user_hashes").list.sort()).sort(keys).to_dicts()


@given(st.lists(st.lists(one_log, max_size=12), min_size=1, max_size=5), st.data())
def test_merging_is_associative_and_commutative_also_of_rounded_and_estimated_parts(
    days: list[list[dict[str, Any]]], data: st.DataObject
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        for name in ("MAX_LATENCIES", "MAX_USERS"):
            patch.setattr(module, name, data.draw(st.sampled_from([2, 4, 100])))
        rows, parts = stored(days)
    at_once = merged_by(parts, "agent_id")
    in_order = parts.sample(fraction=1, shuffle=True, seed=data.draw(st.integers(0, 99)))
    cut = data.draw(st.integers(0, parts.height))
    halves = [in_order[:cut], in_order[cut:]]
    apart = [merged_by(half, "agent_id") for half in halves]
    assert shown(merged_by(pl.concat(apart), "agent_id"), ["agent_id"]) == shown(at_once, ["agent_id"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(merging, "_HELD", data.draw(st.integers(0, 20)))
        one_by_one = merge_distributions(map(as_arrays, halves), ["agent_id"])
    assert shown(one_by_one.frame(), ["agent_id"]) == shown(at_once, ["agent_id"])
    if at_once["users_exact"].all() and at_once["latencies_exact"].all():
        everything = [log for day in days for log in day]
        latencies = [log["latency_ms"] for log in everything if log["latency_ms"] is not None]
        found = as_one(rows, parts)
        assert found["unique_users"] == len({log["user_id"] for log in everything} - {None})
        for name, q in (("p50_latency_ms", 0.5), ("p95_latency_ms", 0.95), ("p99_latency_ms", 0.99)):
            assert found[name] == (percentile(latencies, q) if latencies else None)


@given(st.lists(one_log, max_size=12))
def test_users_that_are_hashed_in_parts_give_the_same_distributions(of_day: list[dict[str, Any]]) -> None:
    _, at_once = stored([of_day])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_USERS_AT_ONCE", 2)
        _, in_parts = stored([of_day])
    assert in_parts.equals(at_once)


def distribution_of(counts: Counter[int], users: Sequence[str] = ()) -> pl.DataFrame:
    """The distribution of one agent's day with these latencies and users."""
    pairs = [{"latency_ms": latency, "executions": count} for latency, count in counts.items()]
    frame = logs({}).with_columns(
        latencies_ms=pl.lit(None), user_ids=pl.Series([list(users)]),
        latency_counts=pl.Series([pairs], dtype=DISTRIBUTION_SCHEMA["latency_counts"]),
    )  # fmt: skip
    return distributions(merge_partials(frame.cast(logs().schema)), pl.Series(["a"]), KEY)


def test_a_million_equal_latencies_are_one_pair() -> None:
    found = distribution_of(Counter({7: 10**6}))
    assert found["latency_counts"].to_list() == [[{"latency_ms": 7, "executions": 10**6}]]
    assert found.select("total_latency_ms", "latencies_exact").row(0) == (7 * 10**6, True)


def test_more_than_16384_latencies_are_rounded_to_a_thousandth_and_their_sum_is_not() -> None:
    draw = random.Random(1)
    counts = Counter({0: 3, -(2**31): 1, 2**31 - 1: 2, 1023: 1, 2047: 1, -2049: 5})
    counts.update(draw.randint(-(10**6), 10**7) for _ in range(16_500))
    found = distribution_of(counts)
    assert not found["latencies_exact"].item()
    assert found["total_latency_ms"].item() == sum(value * count for value, count in counts.items())
    pairs = found["latency_counts"].item().to_list()
    assert sum(pair["executions"] for pair in pairs) == counts.total()
    rounded = sorted(pair["latency_ms"] for pair in pairs for _ in range(pair["executions"]))
    assert all(
        abs(kept - value) <= abs(value) * LATENCY_ERROR
        for kept, value in zip(rounded, sorted(counts.elements()), strict=True)
    )
    assert {0, 1023, 2048, -2048, 2**31 - 1, -(2**31)} <= set(rounded)
    # Together with exact ones the result is not exact, and says by how much.
    exact = distribution_of(Counter({5: 1}))
    merged = merged_by(pl.concat([found, exact]), "agent_id")
    assert not merged["latencies_exact"].item()
    assert merged["total_latency_ms"].item() == found["total_latency_ms"].item() + 5
    assert distribution_of(Counter(range(16_384)))["latencies_exact"].item()


def test_more_than_65536_users_are_estimated_within_a_few_standard_errors() -> None:
    many = distribution_of(Counter(), [f"user {number}" for number in range(100_000)])
    more = distribution_of(Counter(), [f"user {number}" for number in range(90_000, 160_000)])
    few = distribution_of(Counter(), [f"user {number}" for number in range(150_000, 200_000)])
    assert many["user_hashes"].list.len().item() == 65_536
    assert few["users_exact"].item()
    for parts, expected in (([many], 100_000), ([many, more], 160_000), ([few, many, more], 200_000)):
        merged = merged_by(pl.concat(parts), "agent_id")
        assert not merged["users_exact"].item()
        assert merged.select(unique_users()).item() == pytest.approx(expected, rel=4 * 0.0039)
    # A union of exact days is exact, also above the limit.
    others = distribution_of(Counter(), [f"another {number}" for number in range(50_000)])
    merged = merged_by(pl.concat([few, others]), "agent_id")
    assert merged.select(unique_users(), "users_exact").row(0) == (100_000, True)
