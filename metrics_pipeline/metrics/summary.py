"""The exact figures of an agent's period: rates and means from totals over its stored days."""

from dataclasses import dataclass, fields
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
    latency times its executions. days_with_latency and executions_with_… count those of the days whose logs had the
    column; a sum is None if no stored day has it.
    """

    days_stored: int
    success_rates: Decimal
    mean_latencies_ms: int
    days_with_latency: int
    weighted_latencies_ms: int
    executions_with_latency: int
    total_executions: int
    successful_executions: int
    failed_executions: int
    total_tokens: int | None
    total_cost_usd: Decimal | None
    executions_with_cost: int
    human_interventions: int | None
    executions_with_help: int
    error_distribution: dict[str, int]


@dataclass(frozen=True)
class Figure:
    """The meaning of a field of PeriodSummary, and an example value."""

    meaning: str
    example: Any


@dataclass(frozen=True)
class PeriodSummary:
    """A period's figures; a mean over nothing is None, and so is what no day logged.

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


def summarise(totals: PeriodTotals) -> PeriodSummary:
    """The figures of a period."""
    cost, interventions, executions = totals.total_cost_usd, totals.human_interventions, totals.total_executions
    return PeriodSummary(
        avg_success_rate=_quotient(totals.success_rates, totals.days_stored, _RATE_PLACES),
        avg_latency=_quotient(totals.mean_latencies_ms, totals.days_with_latency, _LATENCY_PLACES),
        total_executions=executions,
        total_cost=None if cost is None else cost.quantize(Decimal(1).scaleb(-_MONEY_PLACES)),
        success_rate=_quotient(totals.successful_executions, executions, _RATE_PLACES),
        latency_ms=_quotient(totals.weighted_latencies_ms, totals.executions_with_latency, _LATENCY_PLACES),
        cost_per_execution=_quotient(cost or 0, totals.executions_with_cost, _MONEY_PLACES),
        human_intervention_rate=_quotient(interventions or 0, totals.executions_with_help, _RATE_PLACES),
        successful_executions=totals.successful_executions,
        failed_executions=totals.failed_executions,
        human_interventions=interventions,
        total_tokens=totals.total_tokens,
        error_distribution=dict(sorted(totals.error_distribution.items())),
    )


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
