"""What a person wants to know of an agent's period, exactly: from totals over stored days to rates and means."""

from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction

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
class PeriodSummary:
    """A period's figures; a mean over nothing is None.

    Means of the days' values: avg_success_rate, avg_latency (ms). Weighted by executions: success_rate, latency_ms,
    cost_per_execution (USD), human_intervention_rate. total_cost is in USD. Quotients are exact, rounded half away from
    zero: rates to 6 places, latencies to 3, money to 9.
    """

    avg_success_rate: Decimal | None
    avg_latency: Decimal | None
    total_executions: int
    total_cost: Decimal
    success_rate: Decimal | None
    latency_ms: Decimal | None
    cost_per_execution: Decimal | None
    human_intervention_rate: Decimal | None
    successful_executions: int
    failed_executions: int
    human_interventions: int
    total_tokens: int
    error_distribution: dict[str, int]


def summarise(totals: PeriodTotals) -> PeriodSummary:
    """The figures of a period."""
    executions = totals.total_executions
    return PeriodSummary(
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


def changes(previous: PeriodSummary, current: PeriodSummary) -> PeriodSummary:
    """Each figure of `current` minus that of `previous`, as they are rounded; None where one of the two is None.

    error_distribution holds every error type that either has, also those whose count stayed the same.
    """
    error_types = sorted({*previous.error_distribution, *current.error_distribution})
    return PeriodSummary(
        avg_success_rate=_difference(current.avg_success_rate, previous.avg_success_rate),
        avg_latency=_difference(current.avg_latency, previous.avg_latency),
        total_executions=current.total_executions - previous.total_executions,
        total_cost=current.total_cost - previous.total_cost,
        success_rate=_difference(current.success_rate, previous.success_rate),
        latency_ms=_difference(current.latency_ms, previous.latency_ms),
        cost_per_execution=_difference(current.cost_per_execution, previous.cost_per_execution),
        human_intervention_rate=_difference(current.human_intervention_rate, previous.human_intervention_rate),
        successful_executions=current.successful_executions - previous.successful_executions,
        failed_executions=current.failed_executions - previous.failed_executions,
        human_interventions=current.human_interventions - previous.human_interventions,
        total_tokens=current.total_tokens - previous.total_tokens,
        error_distribution={
            error_type: current.error_distribution.get(error_type, 0) - previous.error_distribution.get(error_type, 0)
            for error_type in error_types
        },
    )


def _quotient(dividend: Decimal | int, divisor: int, places: int) -> Decimal | None:
    if divisor == 0:
        return None
    scaled = Fraction(dividend) * 10**places / divisor
    whole, rest = divmod(abs(scaled), 1)
    rounded = whole + (rest >= Fraction(1, 2))
    return Decimal(rounded if scaled >= 0 else -rounded).scaleb(-places)


def _difference(current: Decimal | None, previous: Decimal | None) -> Decimal | None:
    return None if current is None or previous is None else current - previous
