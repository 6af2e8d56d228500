"""The metrics of any set of agents' days, computed from their stored rows and distributions."""

from collections.abc import Collection, Mapping, Sequence
from datetime import date
from decimal import Decimal
from types import MappingProxyType
from typing import Any

import polars as pl

from metrics_pipeline.metrics.catalog import ERROR_COUNT, METRICS, OverDays
from metrics_pipeline.metrics.distributions import LATENCY_ERROR, SEVERAL_KEYS, USERS_STANDARD_ERROR, unique_users
from metrics_pipeline.metrics.expressions import decimal, rounded_quotient, weighted_percentile
from metrics_pipeline.metrics.upstream import OPTIONAL_COLUMNS

#: The metrics that add up over days, as numbers.
SUMS = [metric.name for metric in METRICS if metric.over_days is OverDays.SUM]

#: The columns of distribution_figures(). latencies: how many executions have one.
FIGURES_SCHEMA = pl.Schema(
    {
        "total_latency_ms": pl.Int64(),
        "latencies": pl.Int64(),
        "latencies_exact": pl.Boolean(),
        "users_exact": pl.Boolean(),
        "p50_latency_ms": pl.Int64(),
        "p95_latency_ms": pl.Int64(),
        "p99_latency_ms": pl.Int64(),
        "unique_users": pl.Int64(),
        "has_several_user_keys": pl.Boolean(),
    }
)
_NANO = Decimal("0.000000001")
_RATE = Decimal("0.000001")
# The 97.5th percentile of the standard normal distribution.
_Z = 1.959963984540054

# What would be 0 where no day has the column. Quotients and latencies are null there anyhow.
_ZERO_WITHOUT = {
    "token_count": "total_tokens",
    "cost_usd": "total_cost_usd",
    "human_intervention": "human_interventions",
    "user_id": "unique_users",
}

#: What a row of window metrics holds besides its keys and the metrics of the catalog, with its type and meaning.
FURTHER_COLUMNS: Mapping[str, tuple[pl.DataType, str]] = {
    "cost_per_unassisted_success": (
        pl.Decimal(38, 9),
        "Total cost / (successful executions - human interventions) in USD; null unless that is positive.",
    ),
    "human_intervention_rate": (pl.Decimal(38, 6), "Human interventions / total executions."),
    "success_rate_low": (pl.Decimal(38, 6), "Lower bound of the 95 % Wilson score interval of success_rate."),
    "success_rate_high": (pl.Decimal(38, 6), "Upper bound of the 95 % Wilson score interval of success_rate."),
    "days_stored": (pl.Int64(), "How many days of the window are stored, including those without executions."),
    "is_exact": (
        pl.Boolean(),
        "Whether percentiles and unique_users are exact; false also if a missing distribution makes them null.",
    ),
    "latency_error": (
        pl.Float64(),
        "The largest relative error of the percentiles: 0, or 2^-10 if latencies are rounded.",
    ),
    "unique_users_error": (
        pl.Float64(),
        "The relative standard error of unique_users: 0, or 0.0039 if it is estimated.",
    ),
    "days_without_distribution": (
        pl.List(pl.Date()),
        "The days with executions that lack a distribution; then mean, percentiles and unique_users are null.",
    ),
    "days_without_column": (
        pl.Struct(dict.fromkeys(OPTIONAL_COLUMNS, pl.Int64())),
        "On how many stored days the logs lacked a column, such as {cost_usd: 12}. Its figures leave these days out.",
    ),
    "has_several_user_keys": (
        pl.Boolean(),
        "Whether METRICS_USER_KEY was changed within the window. Users cannot be counted then: unique_users is null.",
    ),
}

#: The columns that are computed from distributions, or tell how.
OF_DISTRIBUTIONS = frozenset(
    {metric.name for metric in METRICS if metric.over_days is OverDays.DISTRIBUTION}
    | {"is_exact", "latency_error", "unique_users_error", "days_without_distribution", "has_several_user_keys"}
)


def period_of(by: str) -> pl.Expr:
    """The key of a row in a grouping by `day`, `week` or `month`: the first day of that period, weeks from Monday."""
    return pl.col("metric_date").dt.truncate({"day": "1d", "week": "1w", "month": "1mo"}[by])


def distribution_figures(distributions: pl.DataFrame, keys: Sequence[str]) -> pl.DataFrame:
    """What windows show of merged distributions, in a small part of their size: FIGURES_SCHEMA for each row.

    distributions: `keys`, which the result has as well, and DISTRIBUTION_SCHEMA.
    """
    counts = pl.col("latency_counts")
    executions = counts.list.agg(pl.element().struct.field("executions").sum())
    return distributions.select(
        *keys,
        "total_latency_ms",
        "latencies_exact",
        "users_exact",
        latencies=executions,
        p50_latency_ms=weighted_percentile(counts, 0.50),
        p95_latency_ms=weighted_percentile(counts, 0.95),
        p99_latency_ms=weighted_percentile(counts, 0.99),
        unique_users=unique_users(),
        has_several_user_keys=pl.col("user_key_id").eq_missing(SEVERAL_KEYS),
    ).select(*keys, *(pl.col(name).cast(dtype) for name, dtype in FIGURES_SCHEMA.items()))


def window_metrics(
    days: pl.DataFrame,
    errors: pl.DataFrame,
    figures: pl.DataFrame,
    keys: Sequence[str],
    without: Mapping[str, Collection[date]] = MappingProxyType({}),
) -> pl.DataFrame:
    """One row for each combination of `keys` in `days`, sorted by them: the keys, the metrics, and FURTHER_COLUMNS.

    days: metric_date and the metrics that add up, of stored rows, with the columns `keys`, and has_distribution:
    whether the distribution of the row is merged into that of `figures`. errors: `keys`, error_type and executions, in
    any parts. figures: what distribution_figures() says of each combination that has a distribution. without: the days
    whose logs did not have a column, by its name.
    A metric has the type and the rounding of a day's, and the value that it would have for a day with all the logs;
    only total_cost_usd may have more digits. What has nothing to be computed from is null, and not 1 or 0 as for a day:
    rates and means without executions, latencies without a latency. unique_users is also null if the users were hashed
    with several keys. A quotient is that of the days that have both of its sides.
    """
    lacks = ~pl.col("has_distribution") & (pl.col("total_executions") > 0)
    day, total_cost = pl.col("metric_date"), pl.col("total_cost_usd").cast(pl.Decimal(38, 9))
    lacking = {name: day.is_in(list(dates)) for name, dates in without.items()}
    has_cost, has_help = (~lacking.get(name, pl.lit(False)) for name in ("cost_usd", "human_intervention"))
    sums = (
        days.lazy()
        .with_columns(
            total_cost,
            executions_with_cost=pl.when(has_cost).then("total_executions"),
            executions_with_help=pl.when(has_help).then("total_executions"),
            cost_beside_help=pl.when(has_cost & has_help).then(total_cost),
            unassisted=pl.when(has_cost & has_help).then(
                pl.col("successful_executions") - pl.col("human_interventions")
            ),
        )
        .group_by(keys)
        .agg(
            pl.col(SUMS).sum(),
            pl.col("executions_with_cost", "executions_with_help", "cost_beside_help", "unassisted").sum(),
            day.n_unique().cast(pl.Int64).alias("days_stored"),
            day.filter(lacks).unique().sort().alias("days_without_distribution"),
            *(day.filter(each).n_unique().cast(pl.Int64).alias(f"days_without_{n}") for n, each in lacking.items()),
        )
        .with_columns(
            days_without_column=pl.struct(
                (pl.col(f"days_without_{name}") if name in lacking else pl.lit(0, pl.Int64)).alias(name)
                for name in OPTIONAL_COLUMNS
            )
        )
    )
    by_type = (
        errors.lazy()
        .group_by(*keys, "error_type")
        .agg(pl.col("executions").sum())
        .sort("error_type")
        .group_by(keys, maintain_order=True)
        .agg(error_distribution=pl.struct("error_type", "executions"))
    )
    is_known = pl.col("days_without_distribution").list.len() == 0
    cost, cost_beside_help = (
        pl.col(name).to_physical().cast(pl.Int128) for name in ("total_cost_usd", "cost_beside_help")
    )
    executions, interventions = pl.col("total_executions"), pl.col("human_interventions")
    low, high = _wilson_bounds(pl.col("successful_executions"), executions)
    from_distribution = {
        "avg_latency_ms": _quotient(pl.col("total_latency_ms"), pl.col("latencies")),
        **{name: pl.col(name) for name in ("p50_latency_ms", "p95_latency_ms", "p99_latency_ms", "unique_users")},
    }
    # Of a group without a distribution.
    nothing = {"total_latency_ms": 0, "latencies": 0, "latencies_exact": True, "users_exact": True,
               "has_several_user_keys": False}  # fmt: skip
    return (
        sums.join(by_type, on=keys, how="left", nulls_equal=True)
        .join(figures.lazy().with_columns(has_figures=True), on=keys, how="left", nulls_equal=True)
        .with_columns(
            pl.col("error_distribution").fill_null(pl.lit([], pl.List(ERROR_COUNT))),
            *(pl.col(name).fill_null(value) for name, value in nothing.items()),
            unique_users=pl.when("has_figures").then("unique_users").otherwise(0),
        )
        .with_columns(
            success_rate=decimal(_quotient(pl.col("successful_executions") * 1_000_000, executions), _RATE),
            avg_cost_per_execution=decimal(_quotient(cost, pl.col("executions_with_cost")), _NANO),
            cost_per_unassisted_success=decimal(_quotient(cost_beside_help, pl.col("unassisted")), _NANO),
            human_intervention_rate=decimal(
                _quotient(interventions * 1_000_000, pl.col("executions_with_help")), _RATE
            ),
            success_rate_low=low,
            success_rate_high=high,
            latency_error=pl.when("latencies_exact").then(0.0).otherwise(LATENCY_ERROR),
            unique_users_error=pl.when("users_exact").then(0.0).otherwise(USERS_STANDARD_ERROR),
            **{name: pl.when(is_known).then(value) for name, value in from_distribution.items()},
        )
        .with_columns(is_exact=pl.col("unique_users").is_not_null() & pl.col("latencies_exact") & pl.col("users_exact"))
        .with_columns(
            pl.when(pl.col(f"days_without_{name}") < pl.col("days_stored")).then(figure).alias(figure)
            for name, figure in _ZERO_WITHOUT.items()
            if name in lacking
        )
        .select(*keys, *(pl.col(name).cast(dtype) for name, dtype in _TYPES.items()))
        .sort(keys)
        .collect(engine="in-memory")
    )


_TYPES = {
    **{metric.name: pl.Decimal(38, 9) if metric.name == "total_cost_usd" else metric.dtype for metric in METRICS},
    **{name: dtype for name, (dtype, _) in FURTHER_COLUMNS.items()},
}


def window_objects(frame: pl.DataFrame) -> list[dict[str, Any]]:
    """The rows of a frame of window metrics as JSON objects: an error distribution is {error_type: count}.

    days_without_column has the columns that a day lacked only.
    """
    rows = frame.to_dicts()
    for row in rows:
        if "error_distribution" in row:
            row["error_distribution"] = {each["error_type"]: each["executions"] for each in row["error_distribution"]}
        if "days_without_column" in row:
            row["days_without_column"] = {name: days for name, days in row["days_without_column"].items() if days}
    return rows


def _quotient(numerator: pl.Expr, denominator: pl.Expr) -> pl.Expr:
    return pl.when(denominator > 0).then(rounded_quotient(numerator, denominator))


def _wilson_bounds(successes: pl.Expr, executions: pl.Expr) -> tuple[pl.Expr, pl.Expr]:
    """The bounds of the 95 % Wilson score interval, in double precision, rounded to 6 places."""
    centre = successes + _Z**2 / 2
    half = _Z * (successes * (1 - successes / executions) + _Z**2 / 4).sqrt()
    low, high = (
        decimal(
            # A bound without executions is not a number, which a strict cast refuses.
            (bound / (executions + _Z**2) * 1_000_000).round().cast(pl.Int64, strict=False),
            _RATE,
        )
        for bound in (centre - half, centre + half)
    )
    return low, high
