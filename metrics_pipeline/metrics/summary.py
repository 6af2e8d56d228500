"""The exact figures of an agent's period: rates and means from totals over its stored days."""

from collections.abc import Collection
from dataclasses import dataclass, fields, replace
from decimal import Decimal
from fractions import Fraction
from typing import Annotated, Any

_RATE_PLACES = 6
_LATENCY_PLACES = 3
_MONEY_PLACES = 9


@dataclass(frozen=True)
class PeriodTotals:
    """Sums over the stored days of a period.

    success_rates and mean_latencies_ms add up the days' own values; weighted_latencies_ms adds up each day's mean
    latency times its executions.
    """

    days_stored: int
    success_rates: Decimal
    mean_latencies_ms: int
    weighted_latencies_ms: int
    total_executions: int
    successful_executions: int
    failed_executions: int
    total_tokens: int
    total_cost_usd: Decimal
    human_interventions: int
    error_distribution: dict[str, int]


@dataclass(frozen=True)
class Figure:
    """The meaning of a field of PeriodSummary, and an example value."""

    meaning: str
    example: Any


@dataclass(frozen=True)
class PeriodSummary:
    """A period's figures; a mean over nothing is None, and so is what was not logged.

    Quotients are exact, rounded half away from zero: rates to 6 places, latencies to 3, money to 9.
    """

    avg_success_rate: Annotated[Decimal | None, Figure("Mean of the days' success_rate.", 0.98)]
    avg_latency: Annotated[Decimal | None, Figure("Mean of the days' avg_latency_ms.", 840.5)]
    total_executions: Annotated[int, Figure("Sum of the days' total_executions.", 3000)]
    total_cost: Annotated[Decimal | None, Figure("Sum of the days' total_cost_usd, in USD.", 37.5)]
    success_rate: Annotated[Decimal | None, Figure("Successful / total executions of the period.", 0.98)]
    latency_ms: Annotated[Decimal | None, Figure("Mean of avg_latency_ms, weighted by executions.", 840.5)]
    cost_per_execution: Annotated[Decimal | None, Figure("Total cost / total executions, in USD.", 0.0125)]
    human_intervention_rate: Annotated[Decimal | None, Figure("Human interventions / total executions.", 0.02)]
    successful_executions: Annotated[int, Figure("Sum of the days' successful_executions.", 2940)]
    failed_executions: Annotated[int, Figure("Sum of the days' failed_executions.", 30)]
    human_interventions: Annotated[int | None, Figure("Sum of the days' human_interventions.", 60)]
    total_tokens: Annotated[int | None, Figure("Sum of the days' total_tokens.", 3852000)]
    error_distribution: Annotated[dict[str, int], Figure("Failed executions by error type.", {"timeout": 12})]


#: The figures that may be unknown: the metric of a day that each is computed from, and the sum of it.
_SOURCES = {
    "avg_latency": ("avg_latency_ms", "mean_latencies_ms"),
    "latency_ms": ("avg_latency_ms", "weighted_latencies_ms"),
    "total_cost": ("total_cost_usd", "total_cost_usd"),
    "cost_per_execution": ("total_cost_usd", "total_cost_usd"),
    "human_interventions": ("human_interventions", "human_interventions"),
    "human_intervention_rate": ("human_interventions", "human_interventions"),
    "total_tokens": ("total_tokens", "total_tokens"),
}


def summarise(totals: PeriodTotals, unlogged: Collection[str] = ()) -> PeriodSummary:
    """The figures of a period.

    unlogged: the metrics whose column the logs do not have, see computed_from(): a 0 of them was not measured.
    """
    executions = totals.total_executions
    figures = PeriodSummary(
        avg_success_rate=_quotient(totals.success_rates, totals.days_stored, _RATE_PLACES),
        avg_latency=_quotient(totals.mean_latencies_ms, totals.days_stored, _LATENCY_PLACES),
        total_executions=executions,
        total_cost=totals.total_cost_usd.quantize(Decimal(1).scaleb(-_MONEY_PLACES)),
        success_rate=_quotient(totals.successful_executions, executions, _RATE_PLACES),
        latency_ms=_quotient(totals.weighted_latencies_ms, executions, _LATENCY_PLACES),
        cost_per_execution=_quotient(totals.total_cost_usd, executions, _MONEY_PLACES),
        human_intervention_rate=_quotient(totals.human_interventions, executions, _RATE_PLACES),
        successful_executions=totals.successful_executions,
        failed_executions=totals.failed_executions,
        human_interventions=totals.human_interventions,
        total_tokens=totals.total_tokens,
        error_distribution=dict(sorted(totals.error_distribution.items())),
    )
    # By the sum, not by the figure: a small quotient is rounded to 0.
    unmeasured: dict[str, Any] = {
        name: None for name, (metric, total) in _SOURCES.items() if metric in unlogged and not getattr(totals, total)
    }
    return replace(figures, **unmeasured)


def changes(previous: PeriodSummary, current: PeriodSummary) -> PeriodSummary:
    """Each rounded figure of `current` minus that of `previous`; None if either is None.

    error_distribution holds every error type that either has, including those whose count is the same.
    """
    return PeriodSummary(
        **{
            each.name: _difference(getattr(current, each.name), getattr(previous, each.name))
            for each in fields(current)
        }
    )


def _quotient(dividend: Decimal | int, divisor: int, places: int) -> Decimal | None:
    if divisor == 0:
        return None
    scaled = Fraction(dividend) * 10**places / divisor
    whole, rest = divmod(abs(scaled), 1)
    rounded = whole + (rest >= Fraction(1, 2))
    return Decimal(rounded if scaled >= 0 else -rounded).scaleb(-places)


def _difference(current: Any, previous: Any) -> Any:
    if current is None or previous is None:
        return None
    if isinstance(current, dict):
        return {name: current.get(name, 0) - previous.get(name, 0) for name in sorted({*previous, *current})}
    return current - previous
