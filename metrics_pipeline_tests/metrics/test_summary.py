"""A period's figures by hand: exact quotients, rounded half away from zero, and nothing made of nothing."""

from dataclasses import asdict, replace
from decimal import Decimal

import pytest

from metrics_pipeline.metrics.summary import PeriodSummary, PeriodTotals, changes, summarise

#: Two days: 3 executions of 100 ms and 1 of 201 ms on average; success rates 0.666667 and 1.
TOTALS = PeriodTotals(
    days_stored=2,
    success_rates=Decimal("1.666667"),
    mean_latencies_ms=301,
    days_with_latency=2,
    weighted_latencies_ms=3 * 100 + 1 * 201,
    executions_with_latency=4,
    total_executions=4,
    successful_executions=3,
    failed_executions=1,
    total_tokens=70,
    total_cost_usd=Decimal("0.000000010"),
    executions_with_cost=4,
    human_interventions=1,
    executions_with_help=4,
    error_distribution={"timeout": 1},
)
NOTHING = PeriodTotals(0, Decimal(0), 0, 0, 0, 0, 0, 0, 0, 0, Decimal(0), 0, 0, 0, {})


def figures(summary: PeriodSummary) -> dict[str, object]:
    return {name: str(value) if isinstance(value, Decimal) else value for name, value in asdict(summary).items()}


def test_means_of_the_days_stand_beside_figures_weighted_by_executions() -> None:
    assert figures(summarise(TOTALS)) == {
        "avg_success_rate": "0.833334",  # 1.666667 / 2 = 0.8333335
        "avg_latency": "150.500",
        "total_executions": 4,
        "total_cost": "1.0E-8",
        "success_rate": "0.750000",
        "latency_ms": "125.250",
        "cost_per_execution": "3E-9",  # 0.0000000025
        "human_intervention_rate": "0.250000",
        "successful_executions": 3,
        "failed_executions": 1,
        "human_interventions": 1,
        "total_tokens": 70,
        "error_distribution": {"timeout": 1},
    }


def test_a_period_without_days_or_executions_has_totals_and_no_means() -> None:
    nothing = summarise(NOTHING)
    assert (nothing.total_executions, str(nothing.total_cost)) == (0, "0E-9")
    assert nothing.avg_success_rate is nothing.avg_latency is nothing.success_rate is None
    assert nothing.latency_ms is nothing.cost_per_execution is nothing.human_intervention_rate is None
    quiet = summarise(replace(NOTHING, days_stored=3, days_with_latency=3, success_rates=Decimal(3)))
    assert (str(quiet.avg_success_rate), str(quiet.avg_latency)) == ("1.000000", "0.000")
    assert quiet.success_rate is None


@pytest.mark.parametrize(
    ("cost", "executions", "expected"),
    [
        ("0.000000001", 2, "0.000000001"),  # a half, away from zero
        ("-0.000000001", 2, "-0.000000001"),
        ("0.000000001", 3, "0.000000000"),
        # One in the 19th place below a half: a division in 16 digits would round it twice.
        ("1.000000000", 2 * 10**18 + 1, "0.000000000"),
        ("99999999999.999999999", 1, "99999999999.999999999"),
    ],
)
def test_quotients_are_exact_before_they_are_rounded_once(cost: str, executions: int, expected: str) -> None:
    totals = replace(TOTALS, total_cost_usd=Decimal(cost), executions_with_cost=executions)
    assert f"{summarise(totals).cost_per_execution:f}" == expected


def test_changes_are_differences_of_the_rounded_figures_with_every_error_type_of_both() -> None:
    previous = replace(
        TOTALS,
        successful_executions=1,
        failed_executions=3,
        total_cost_usd=Decimal("0.5"),
        error_distribution={"timeout": 1, "auth": 2},
    )
    change = changes(summarise(previous), summarise(TOTALS))
    assert (change.success_rate, change.failed_executions) == (Decimal("0.500000"), -2)
    assert f"{change.total_cost:f}" == "-0.499999990"
    assert f"{change.cost_per_execution:f}" == "-0.124999997"
    assert change.avg_latency == 0
    assert change.error_distribution == {"auth": -2, "timeout": 0}
    assert changes(summarise(NOTHING), summarise(TOTALS)).success_rate is None
    assert changes(summarise(TOTALS), summarise(NOTHING)).total_executions == -4
