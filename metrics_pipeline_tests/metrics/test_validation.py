from dataclasses import replace
from datetime import date
from decimal import Decimal

import polars as pl
import pytest

from metrics_pipeline.errors import InvariantError
from metrics_pipeline.metrics.calculator import DayMetrics
from metrics_pipeline.metrics.catalog import AGENT_DAY
from metrics_pipeline.metrics.fingerprint import SourceFingerprint
from metrics_pipeline.metrics.validation import validate_day
from metrics_pipeline.metrics.windows import day_window

WINDOW = day_window(date(2025, 3, 4), "UTC")

ROW = {
    "agent_id": "a",
    "metric_date": WINDOW.metric_date,
    "total_executions": 4,
    "successful_executions": 2,
    "failed_executions": 2,
    "success_rate": Decimal("0.5"),
    "avg_latency_ms": 10,
    "p50_latency_ms": 10,
    "p95_latency_ms": 10,
    "p99_latency_ms": 10,
    "total_tokens": 0,
    "total_cost_usd": Decimal(0),
    "avg_cost_per_execution": Decimal(0),
    "error_distribution": [{"error_type": "x", "executions": 1}, {"error_type": "y", "executions": 1}],
    "human_interventions": 4,
    "unique_users": 4,
}


def day(*rows: dict[str, object], skipped: int = 3) -> DayMetrics:
    return DayMetrics(
        metrics=pl.DataFrame([ROW | row for row in rows], schema=AGENT_DAY.schema),
        skipped=pl.DataFrame({"agent_id": ["z"], "logs": [skipped]}),
        not_finite_costs=0,
        fingerprint=SourceFingerprint(0, 0, 0, 0, 0, 0, 0),
    )


def test_a_day_at_the_edge_of_every_rule_passes() -> None:
    validate_day(day({}, {"agent_id": "b"}), WINDOW, logs_read=11)


@pytest.mark.parametrize(
    ("row", "rule"),
    [
        ({"failed_executions": 1}, "the error distribution does not sum to failed_executions"),
        ({"error_distribution": []}, "the error distribution does not sum to failed_executions"),
        ({"error_distribution": None}, "the error distribution does not sum to failed_executions"),
        ({"successful_executions": 3}, "successful and failed executions exceed the total"),
        ({"successful_executions": None}, "successful and failed executions exceed the total"),
        ({"p50_latency_ms": 11}, "the percentiles are not in order"),
        ({"p95_latency_ms": 11}, "the percentiles are not in order"),
        ({"p99_latency_ms": 9}, "the percentiles are not in order"),
        ({"p99_latency_ms": None}, "the percentiles are not in order"),
        ({"success_rate": Decimal("1.000001")}, "success_rate is not between 0 and 1"),
        ({"success_rate": Decimal("-0.000001")}, "success_rate is not between 0 and 1"),
        ({"success_rate": None}, "success_rate is not between 0 and 1"),
        ({"unique_users": 5}, "more unique users or human interventions than executions"),
        ({"human_interventions": 5}, "more unique users or human interventions than executions"),
    ],
)
def test_a_row_that_contradicts_itself_is_refused_with_its_rule_and_agent(row: dict[str, object], rule: str) -> None:
    with pytest.raises(InvariantError) as caught:
        validate_day(day({"agent_id": "fine"}, {"agent_id": "o'Brien", **row}), WINDOW, logs_read=11)
    assert f'{rule}: agents "o\'Brien".' in str(caught.value)
    assert "2025-03-04 (UTC" in str(caught.value)
    assert "nothing was written" in str(caught.value)


@pytest.mark.parametrize("logs_read", [6, 8, 0])
def test_logs_read_but_not_counted_are_refused_and_so_are_those_counted_but_not_read(logs_read: int) -> None:
    with pytest.raises(InvariantError, match=f"{logs_read} logs were read, but 4 aggregated and 3 skipped"):
        validate_day(day({}), WINDOW, logs_read)


def test_every_broken_rule_is_named_and_only_the_first_five_agents() -> None:
    broken = [{"agent_id": f"agent-{number}", "p50_latency_ms": 11, "unique_users": 9} for number in range(6)]
    with pytest.raises(InvariantError) as caught:
        validate_day(day(*broken), WINDOW, logs_read=0)
    message = str(caught.value)
    assert "0 logs were read" in message
    assert "percentiles" in message
    assert "unique users" in message
    assert "'agent-4'" in message
    assert "agent-5" not in message


def test_a_day_without_agents_passes() -> None:
    validate_day(replace(day({}), metrics=pl.DataFrame(schema=AGENT_DAY.schema)), WINDOW, logs_read=3)
