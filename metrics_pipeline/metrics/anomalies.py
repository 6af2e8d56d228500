"""Which agents behave unusually: robust statistics of a day against the agent's own past.

A value is unusual if it is outside the usual range of the trailing days and outside that of the same weekday. So
neither a quiet Sunday nor a change that has lasted for weeks is reported. The usual range is the median ± SPREADS
robust standard deviations (1.4826 times the median absolute deviation), or ± the metric's smallest change worth a look
if that is larger.
"""

from dataclasses import dataclass
from datetime import date, timedelta

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
#: Scales the median absolute deviation of normally distributed values to their standard deviation.
_MAD_TO_SIGMA = 1.4826


@dataclass(frozen=True)
class _Metric:
    """minimum_change: the smallest change worth a look; a multiple of the median if is_relative."""

    minimum_change: float
    is_relative: bool
    needs_executions: bool


#: The columns that are judged.
JUDGED = {
    "success_rate": _Metric(0.05, is_relative=False, needs_executions=True),
    "p95_latency_ms": _Metric(0.5, is_relative=True, needs_executions=True),
    "avg_cost_per_execution": _Metric(0.5, is_relative=True, needs_executions=True),
    "total_executions": _Metric(0.5, is_relative=True, needs_executions=False),
}

#: A row of history. Floats, even for costs: a statistic is not exact, and it is not stored.
HISTORY_SCHEMA = pl.Schema(
    {"agent_id": pl.String(), "metric_date": pl.Date(), **{name: pl.Float64() for name in JUDGED}}
)


@dataclass(frozen=True)
class Unusual:
    """The findings of a day.

    values: agent_id, metric, value, trailing_median, weekday_median, times_limit (Float64: the distance from a median
    as a multiple of its limit, the smaller of both). The most unusual first.
    agents: how many have a row of the day. agents_with_history: how many of these have enough past to be judged.
    """

    values: pl.DataFrame
    agents: int
    agents_with_history: int


def days_of_interest(day: date) -> list[date]:
    """The days whose rows `unusual_values` needs: `day`, the trailing days, and the earlier same weekdays."""
    trailing = {day - timedelta(days=n) for n in range(TRAILING_DAYS + 1)}
    return sorted(trailing | {day - timedelta(weeks=n) for n in range(1, SAME_WEEKDAYS + 1)})


def unusual_values(history: pl.DataFrame, day: date) -> Unusual:
    """Judges the rows of `day` in `history` (HISTORY_SCHEMA) against the rows of the days before it."""
    values = (
        history.with_columns(executions=pl.col("total_executions"))
        .unpivot(on=list(JUDGED), index=["agent_id", "metric_date", "executions"], variable_name="metric")
        .join(_limits(), on="metric")
        .filter(~pl.col("needs_executions") | (pl.col("executions") >= MIN_EXECUTIONS))
    )
    today = values.filter(pl.col("metric_date") == day)
    age = (pl.lit(day) - pl.col("metric_date")).dt.total_days()
    trailing = _usual(values.filter(age.is_between(1, TRAILING_DAYS)), "trailing", MIN_TRAILING_DAYS)
    weekdays = _usual(
        values.filter((age > 0) & (age % 7 == 0) & (age <= 7 * SAME_WEEKDAYS)), "weekday", MIN_SAME_WEEKDAYS
    )
    judged = today.join(trailing, on=["agent_id", "metric"]).join(weekdays, on=["agent_id", "metric"])
    unusual = (
        judged.with_columns(
            times_limit=pl.min_horizontal(
                # If nothing ever changed, the limit may be 0: no change is then 0 / 0, and any change infinite.
                ((pl.col("value") - pl.col(f"{past}_median")).abs() / pl.col(f"{past}_limit")).fill_nan(0.0)
                for past in ("trailing", "weekday")
            )
        )
        # For an agent with a handful of executions a day, none or twice as many is usual.
        .filter(pl.max_horizontal("executions", "trailing_executions") >= MIN_EXECUTIONS)
        .filter(pl.col("times_limit") > 1.0)
        .sort("times_limit", "agent_id", "metric", descending=[True, False, False])
        .select("agent_id", "metric", "value", "trailing_median", "weekday_median", "times_limit")
    )
    return Unusual(
        unusual,
        agents=history.filter(pl.col("metric_date") == day)["agent_id"].n_unique(),
        agents_with_history=judged["agent_id"].n_unique(),
    )


def _limits() -> pl.DataFrame:
    return pl.DataFrame(
        [
            {
                "metric": name,
                "needs_executions": metric.needs_executions,
                "relative_change": metric.minimum_change if metric.is_relative else 0.0,
                "absolute_change": 0.0 if metric.is_relative else metric.minimum_change,
            }
            for name, metric in JUDGED.items()
        ]
    )


def _usual(past: pl.DataFrame, name: str, minimum_days: int) -> pl.DataFrame:
    value = pl.col("value")
    deviation = (value - value.median()).abs().median()
    return (
        past.group_by("agent_id", "metric")
        .agg(
            value.median().alias(f"{name}_median"),
            pl.max_horizontal(
                SPREADS * _MAD_TO_SIGMA * deviation,
                pl.col("relative_change").first() * value.median().abs() + pl.col("absolute_change").first(),
            ).alias(f"{name}_limit"),
            pl.col("executions").median().alias(f"{name}_executions"),
            pl.len().alias("days"),
        )
        .filter(pl.col("days") >= minimum_days)
        .drop("days")
    )
