"""What is true of a whole day and cannot be added up from its agents' rows."""

from dataclasses import dataclass

import polars as pl

from metrics_pipeline.metrics.calculator import percentile


@dataclass(frozen=True)
class DayTotals:
    """Over all aggregated logs of a day.

    p95_latency_ms: the 95th percentile of their latencies, defined as an agent's is; 0 without any.
    unique_users: distinct user_id; who used three agents counts once.
    """

    p95_latency_ms: int
    unique_users: int


def day_totals(partials: pl.DataFrame, agents: pl.Series) -> DayTotals:
    """The totals over the logs of `agents` (String, distinct) in PARTIALS_SCHEMA; other agents' are left out."""
    in_scope = partials.lazy().filter(pl.col("agent_id").is_in(agents.implode()))
    totals = in_scope.select(
        pl.col("latencies_ms").explode(empty_as_null=False).implode(),
        pl.col("user_ids").explode(empty_as_null=False).n_unique().alias("unique_users"),
    ).select(percentile(pl.col("latencies_ms"), 0.95).fill_null(0).alias("p95_latency_ms"), "unique_users")
    return DayTotals(**totals.collect(engine="in-memory").row(0, named=True))
