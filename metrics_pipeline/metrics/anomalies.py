"""Which agents behave unusually: robust statistics of a day against the agent's own past.

A value is unusual if it is outside the usual range of the trailing days and outside that of the same weekday. So
neither a quiet Sunday nor a change that has lasted for weeks is reported. The usual range is the median ± the largest
of three distances: SPREADS robust standard deviations (1.4826 times the median absolute deviation; of means and
percentiles, as a factor), the metric's smallest change worth a look, and what chance alone does to a number of
executions: the binomial distribution for a rate, Poisson's for a count. Two failures in 30 are not reported for an
agent that had none in a thousand. The standard deviation of a rate is only the part of its variation that exceeds
chance. A metric is unusual only in the direction that somebody should know of: a success rate down, latency and costs
up, executions in both.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from enum import Enum
from math import asin, expm1, inf, sin, sqrt

import polars as pl

#: The trailing days, and how many of them must have a value.
TRAILING_DAYS = 28
MIN_TRAILING_DAYS = 10
#: For how many weeks back the same weekday is compared, and how many of those days must have a value.
SAME_WEEKDAYS = 8
MIN_SAME_WEEKDAYS = 3
#: Rates, percentiles and averages of fewer executions than this say little, so these days are left out.
MIN_EXECUTIONS = 30
#: One normally distributed value in two million is more than five standard deviations from the mean.
SPREADS = 5.0
#: Of what chance does to a rate. The binomial distribution is known and not estimated, so five would only hide drops.
_SPREADS_OF_CHANCE = 3.25
#: A day of the past that is further from the others than so many standard deviations counts as if it were not.
_SPREADS_OF_OUTLIER = 3.0
# The logarithm of a factor that no value reaches.
_LARGEST_FACTOR = 50.0
#: Scales the median absolute deviation of normally distributed values to their standard deviation.
MAD_TO_SIGMA = 1.4826


class Kind(Enum):
    """What chance does to a value: to the rate of a number of executions, to a count, to a mean or a percentile."""

    RATE = "rate"
    COUNT = "count"
    MEAN = "mean"


@dataclass(frozen=True)
class Judged:
    """How a metric is judged.

    minimum_change: the smallest change worth a look; a multiple of the median if is_relative.
    needs_executions: whether days with fewer than MIN_EXECUTIONS say nothing. is_news_below, is_news_above: the
    directions in which a value may be unusual.
    """

    minimum_change: float
    is_relative: bool
    needs_executions: bool
    kind: Kind
    is_news_below: bool = True
    is_news_above: bool = True


#: The columns that are judged.
JUDGED = {
    "success_rate": Judged(0.05, is_relative=False, needs_executions=True, kind=Kind.RATE, is_news_above=False),
    "p95_latency_ms": Judged(0.5, is_relative=True, needs_executions=True, kind=Kind.MEAN, is_news_below=False),
    "avg_cost_per_execution": Judged(0.5, is_relative=True, needs_executions=True, kind=Kind.MEAN, is_news_below=False),
    "total_executions": Judged(0.5, is_relative=True, needs_executions=False, kind=Kind.COUNT),
}

#: A row of history. Floats, even for costs: a statistic is not exact, and it is not stored.
HISTORY_SCHEMA = pl.Schema(
    {"agent_id": pl.String(), "metric_date": pl.Date(), **{name: pl.Float64() for name in JUDGED}}
)

_VALUES_SCHEMA = pl.Schema(
    {
        "agent_id": pl.String(),
        "metric": pl.String(),
        **dict.fromkeys(
            ("value", "executions", "trailing_median", "weekday_median", "usual_low", "usual_high", "times_limit"),
            pl.Float64(),
        ),
    }
)


@dataclass(frozen=True)
class Unusual:
    """The findings of a day.

    values: agent_id, metric, value, executions, trailing_median, weekday_median, usual_low, usual_high, times_limit
    (Float64: the distance from a median as a multiple of its limit, the smaller of both). The most unusual first.
    agents: how many have a row of the day. agents_with_history: how many of these have enough past to be judged.
    """

    values: pl.DataFrame
    agents: int
    agents_with_history: int


def days_of_interest(*days: date) -> list[date]:
    """The days whose rows are needed to judge `days`: themselves, the trailing days, and the earlier same weekdays."""
    trailing = {day - timedelta(days=n) for day in days for n in range(TRAILING_DAYS + 1)}
    return sorted(trailing | {day - timedelta(weeks=n) for day in days for n in range(1, SAME_WEEKDAYS + 1)})


def unusual_values(history: pl.DataFrame, day: date) -> Unusual:
    """Judges the rows of `day` in `history` (HISTORY_SCHEMA) against the rows of the days before it."""
    first = day - timedelta(days=7 * SAME_WEEKDAYS)
    found, agents, with_history = [], 0, 0
    for (agent_id,), rows in history.filter(pl.col("metric_date").is_between(first, day)).group_by("agent_id"):
        by_day = {row["metric_date"]: row for row in rows.iter_rows(named=True)}
        if day not in by_day:
            continue
        agents += 1
        days = [by_day.get(first + timedelta(days=n), {}) for n in range(7 * SAME_WEEKDAYS + 1)]
        executions = [row.get("total_executions") for row in days]
        ranges = {
            name: usual_range(metric, [row.get(name) for row in days], executions, len(days) - 1)
            for name, metric in JUDGED.items()
        }
        with_history += any(ranges.values())
        for name, usual in ranges.items():
            value = by_day[day][name]
            if usual is not None and usual.is_unusual(value):
                bounds = (*usual.medians, usual.low, usual.high, usual.times_limit(value))
                found.append((agent_id, name, value, executions[-1], *bounds))
    values = pl.DataFrame(found, schema=_VALUES_SCHEMA, orient="row")
    return Unusual(
        values.sort("times_limit", "agent_id", "metric", descending=[True, False, False]), agents, with_history
    )


@dataclass(frozen=True)
class UsualRange:
    """What is usual for a value of a day.

    medians, limits: of the trailing days and of the same weekdays. If the smallest change alone makes the value usual,
    limits are that change, although the real ones may be larger. is_large: whether there are enough executions to say
    that a value outside is unusual.
    """

    metric: Judged
    medians: tuple[float, float]
    limits: tuple[float, float]
    is_large: bool

    @property
    def low(self) -> float:
        """The lowest value that is usual for one of both pasts."""
        return min(median - limit for median, limit in zip(self.medians, self.limits, strict=True))

    @property
    def high(self) -> float:
        """The highest value that is usual for one of both pasts."""
        return max(median + limit for median, limit in zip(self.medians, self.limits, strict=True))

    def is_unusual(self, value: float) -> bool:
        """Whether the value is outside, in a direction that is news."""
        is_below, is_above = value < self.low, value > self.high
        return self.is_large and ((is_below and self.metric.is_news_below) or (is_above and self.metric.is_news_above))

    def times_limit(self, value: float) -> float:
        """The distance of a value from a median, as a multiple of its limit; the smaller of both."""
        distances = [(abs(value - median), limit) for median, limit in zip(self.medians, self.limits, strict=True)]
        # If nothing ever changed, the limit may be 0: no change is then none, and any change infinite.
        return min(distance / limit if limit else (inf if distance else 0.0) for distance, limit in distances)


def usual_range(
    metric: Judged,
    values: Sequence[float | None],
    executions: Sequence[float | None],
    today: int,
    smallest: float | None = None,
) -> UsualRange | None:
    """What is usual for the value of the day `today`; None if there is no value, or not enough past.

    values, executions: of consecutive days, None for a day without row. today: the index of the day.
    smallest: the smallest change worth a look, if it is not the metric's own.
    Plain numbers and not a data frame: the medians and deviations of 50 agents take 2 ms, and took 17 ms with
    expressions of Polars, each of which takes 0.03 ms for any number of rows.
    """
    value, n = values[today], executions[today]
    if value is None or n is None or (metric.needs_executions and n < MIN_EXECUTIONS):
        return None
    least = MIN_EXECUTIONS if metric.needs_executions else 0
    change_worth = metric.minimum_change if smallest is None else smallest
    pasts = []
    for past, minimum in (
        (slice(max(0, today - TRAILING_DAYS), today), MIN_TRAILING_DAYS),
        (slice(max(today % 7, today - 7 * SAME_WEEKDAYS), today, 7), MIN_SAME_WEEKDAYS),
    ):
        days = zip(values[past], executions[past], strict=True)
        told = [(value, of) for value, of in days if value is not None and of is not None and of >= least]
        if len(told) < minimum:
            return None
        pasts.append(told)
    medians = [_median(sorted([value for value, _ in told])) for told in pasts]
    changes = [change_worth * abs(median) if metric.is_relative else change_worth for median in medians]
    bounds = list(zip(medians, changes, strict=True))
    if min(median - change for median, change in bounds) <= value <= max(median + change for median, change in bounds):
        # The smallest change alone makes this value usual, as that of nearly every day: the rest is not computed.
        limits = changes
    elif metric.kind is Kind.RATE:
        lowest = _lowest_rates(pasts, medians, n)
        limits = [max(change, median - low) for (median, change), low in zip(bounds, lowest, strict=True)]
    else:
        limits = [_limit(metric.kind, past, *each, n) for past, each in zip(pasts, bounds, strict=True)]
    is_large = n >= MIN_EXECUTIONS or _is_large_past(executions[max(0, today - TRAILING_DAYS) : today])
    return UsualRange(metric, (medians[0], medians[1]), (limits[0], limits[1]), is_large)


def _is_large_past(executions: Sequence[float | None]) -> bool:
    """For an agent with a handful of executions a day, none or twice as many is usual."""
    return _median(sorted(of for of in executions if of is not None)) >= MIN_EXECUTIONS


def _median(ordered: Sequence[float]) -> float:
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def _limit(kind: Kind, past: Sequence[tuple[float, float]], median: float, change: float, n: float) -> float:
    """How far a count or a mean of n executions may be from the median of the past, of (value, executions)."""
    spread = sqrt(_variance([abs(value - median) for value, _ in past]))
    if kind is Kind.COUNT:
        return max(SPREADS * spread, change, SPREADS * sqrt(median + 1))
    # Means and percentiles of skewed values vary by a factor, and more on a day with fewer executions.
    fewer = max(1.0, _median(sorted([of for _, of in past])) / n)
    factor = SPREADS * spread / median * sqrt(fewer) if median > 0 else 0.0
    return max(median * expm1(min(factor, _LARGEST_FACTOR)), change)


def _lowest_rates(pasts: Sequence[Sequence[tuple[float, float]]], medians: Sequence[float], n: float) -> list[float]:
    """The lowest usual rate of a day of n executions by each past, of (rate, executions); the first one is the longest.

    Computed with angles, because the variance of one is 1 / executions by chance, whatever the rate.
    """
    extra = _extra_variance(pasts[0])
    lowest = []
    for past, median in zip(pasts, medians, strict=True):
        usual, executions = _angle(median), sum([of for _, of in past])
        # An earlier incident counts as the worst usual day.
        successes = sum([of * max(rate, _lowest_rate(usual, 1 / of, extra)) for rate, of in past])
        # Both the day and the past differ from what is usual.
        chance = 1 / n + 1 / executions
        lowest.append(_lowest_rate(_angle(successes / executions), chance, extra * (1 + 1 / len(past))))
    return lowest


def _lowest_rate(angle: float, chance: float, extra: float) -> float:
    """chance, extra: the variance of the angle by chance, and beside it."""
    distance = sqrt(_SPREADS_OF_CHANCE**2 * chance + SPREADS**2 * extra)
    return sin(max(0.0, angle - distance) / 2) ** 2


def _extra_variance(past: Sequence[tuple[float, float]]) -> float:
    """How much the angles of the days vary beside what chance does to them; 0 if chance may explain it."""
    chance = _median(sorted([1 / of for _, of in past]))
    # With Anscombe's correction, so that the variance of few failures is not larger than that of many.
    angles = [_angle((rate * of + 0.375) / (of + 0.75)) for rate, of in past]
    middle = _median(sorted(angles))
    seen = _variance([abs(angle - middle) for angle in angles], sqrt(chance))
    # By chance, the variance of k days has a standard error of sqrt(2 / k).
    return max(0.0, seen - chance * (1 + sqrt(2 / len(past))))


def _variance(distances: Sequence[float], least: float = 0.0) -> float:
    """The mean of the squared distances from a median, of which none counts as an outlier.

    least: the smallest standard deviation that days may have. Varies less by chance than the median distance alone.
    """
    furthest = _SPREADS_OF_OUTLIER * max(MAD_TO_SIGMA * _median(sorted(distances)), least)
    return sum([min(distance, furthest) ** 2 for distance in distances]) / len(distances)


def _angle(rate: float) -> float:
    return 2 * asin(sqrt(rate))
