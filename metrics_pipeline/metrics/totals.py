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

    def in_scope(frame: pl.DataFrame) -> pl.DataFrame:
        # In the type of the frame, which compares whole numbers where agents are categories.
        return frame.join(agents.cast(frame.schema["agent_id"]).to_frame("agent_id"), on="agent_id", how="semi")

    latencies = in_scope(aggregates.latencies).select(pl.lit("all").alias("agent_id"), pl.col("latency_ms").sort())
    percentiles = latency_percentiles(latencies)
    return DayTotals(
        p95_latency_ms=0 if percentiles.is_empty() else percentiles["p95_latency_ms"].item(),
        unique_users=in_scope(aggregates.users)["user_id"].n_unique(),
    )
