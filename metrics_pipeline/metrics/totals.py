"""What is true of a whole day and cannot be added up from its agents' rows."""

from dataclasses import dataclass

import polars as pl

from metrics_pipeline.metrics.calculator import LogAggregates, latency_percentiles


@dataclass(frozen=True)
class DayTotals:
    """Over all aggregated logs of a day.

    p95_latency_ms: the 95th percentile of their latencies, defined as an agent's is; 0 without any.
    unique_users: distinct user_id; who used three agents counts once.
    """

    p95_latency_ms: int
    unique_users: int


def day_totals(aggregates: LogAggregates, agents: pl.Series) -> DayTotals:
    """The totals over the logs of `agents` (String, distinct); logs of other agents are left out."""

    def in_scope(frame: pl.DataFrame) -> pl.LazyFrame:
        # In the type of the frame, which compares whole numbers where agents are categories.
        scope = agents.cast(frame.schema["agent_id"]).to_frame("agent_id")
        return frame.lazy().join(scope.lazy(), on="agent_id", how="semi")

    percentiles = latency_percentiles(in_scope(aggregates.latencies).with_columns(agent_id=pl.lit("all")))
    users = in_scope(aggregates.users).select(pl.col("user_id").n_unique())
    latency_frame, users_frame = pl.collect_all([percentiles, users])
    return DayTotals(
        p95_latency_ms=0 if latency_frame.is_empty() else latency_frame["p95_latency_ms"].item(),
        unique_users=users_frame.item(),
    )
