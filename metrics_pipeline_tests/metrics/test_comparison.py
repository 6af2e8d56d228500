"""What a preview says would change, from frames made by hand."""

from datetime import date
from decimal import Decimal
from typing import Any

import polars as pl
import pytest

from metrics_pipeline.metrics.catalog import AGENT_DAY
from metrics_pipeline.metrics.comparison import DayChange, compare_days

DAY = date(2025, 3, 4)


def row(agent_id: str = "a", **values: Any) -> dict[str, Any]:
    """An agent with ten logs, two of which failed."""
    return {
        "agent_id": agent_id,
        "metric_date": DAY,
        "total_executions": 10,
        "successful_executions": 8,
        "failed_executions": 2,
        "success_rate": Decimal("0.8"),
        "avg_latency_ms": 120,
        "p50_latency_ms": 100,
        "p95_latency_ms": 300,
        "p99_latency_ms": 400,
        "total_tokens": 5_000,
        "total_cost_usd": Decimal("1.000000001"),
        "avg_cost_per_execution": Decimal("0.100000000"),
        "error_distribution": [{"error_type": "timeout", "executions": 2}],
        "human_interventions": 1,
        "unique_users": 4,
    } | values


def day(*rows: dict[str, Any]) -> pl.DataFrame:
    return pl.DataFrame(list(rows), schema=AGENT_DAY.schema)


CHANGES = {
    "total_executions": 11,
    "successful_executions": 7,
    "failed_executions": 3,
    "success_rate": Decimal("0.800001"),
    "avg_latency_ms": 121,
    "p50_latency_ms": 99,
    "p95_latency_ms": 301,
    "p99_latency_ms": 401,
    "total_tokens": 5_001,
    "total_cost_usd": Decimal("1.000000002"),
    "avg_cost_per_execution": Decimal("0.100000001"),
    "error_distribution": [{"error_type": "timeout", "executions": 1}, {"error_type": "unknown", "executions": 1}],
    "human_interventions": 0,
    "unique_users": 5,
}


@pytest.mark.parametrize("column", [name for name in AGENT_DAY.schema if name not in ("agent_id", "metric_date")])
def test_a_change_of_any_single_column_is_a_change(column: str) -> None:
    change = compare_days(DAY, day(row("a"), row("b")), day(row("a"), row("b", **{column: CHANGES[column]})))
    assert (change.inserted, change.changed, change.unchanged, change.changed_agents) == (0, 1, 1, ("b",))


def test_equal_days_change_nothing() -> None:
    stored = day(row("b"), row("a", error_distribution=[]))
    assert compare_days(DAY, stored, stored.reverse()) == DayChange(DAY, 0, 0, 2, (), 0, 0, Decimal(0))


def test_totals_move_by_what_is_inserted_and_by_what_is_changed() -> None:
    stored = day(row("a"), row("c"), row("d"))
    computed = day(
        row("d", total_tokens=4_000, total_cost_usd=Decimal("0.5")),
        row("a", total_executions=9),
        row("b", total_executions=3, total_tokens=7, total_cost_usd=Decimal("-0.000000003")),
        row("c"),
    )
    assert compare_days(DAY, stored, computed) == DayChange(
        DAY,
        inserted=1,
        changed=2,
        unchanged=1,
        changed_agents=("a", "d"),
        executions=3 - 1,
        tokens=7 - 1_000,
        cost_usd=Decimal("-0.500000004"),
    )


def test_a_day_that_was_never_stored_is_all_insertions() -> None:
    assert compare_days(DAY, day(), day(row("a"), row("b"))) == DayChange(
        DAY, 2, 0, 0, (), 20, 10_000, Decimal("2.000000002")
    )
    assert compare_days(DAY, day(), day()) == DayChange(DAY, 0, 0, 0, (), 0, 0, Decimal(0))


def test_sums_of_the_largest_costs_stay_exact() -> None:
    largest = Decimal("99999999999.999999999")
    computed = day(*(row(str(n), total_cost_usd=largest) for n in range(100)))
    assert compare_days(DAY, day(), computed).cost_usd == 100 * largest
