"""Comparing a day's metrics with its distributions."""

from dataclasses import dataclass
from datetime import date

import polars as pl
from sqlalchemy import Connection, text

from metrics_pipeline.metrics.catalog import AGENT_DAY, ERROR_COUNT
from metrics_pipeline.metrics.window_metrics import window_metrics
from metrics_pipeline.store.distributions import DIGEST
from metrics_pipeline.store.reads import metrics_of_day
from metrics_pipeline.store.stored_rows import StoredRows, figures_of

_DAMAGED = text(f"""
SELECT agent_id FROM agent_day_distributions WHERE metric_date = :metric_date AND digest <> {DIGEST}""")


@dataclass(frozen=True)
class DistributionAudit:
    """The distributions of a day against its rows of metrics.

    distributions: how many there are; not_exact: how many of them are rounded or estimated; without: rows with
    executions and no distribution. contradictory_agents: sorted.
    """

    distributions: int
    not_exact: int
    without: int
    contradictory_agents: tuple[str, ...]


def audit_day(connection: Connection, metric_date: date) -> DistributionAudit:
    """Computes from each distribution of the day what agent_performance_metrics says, and its digest."""
    stored = StoredRows(connection, AGENT_DAY, {"first": metric_date, "last": metric_date, "agent_id": None})
    rows = stored.with_distribution(stored.sums(), stored.lacking())
    figures = figures_of(stored, rows, ["agent_id"])
    again = window_metrics(
        rows, pl.DataFrame(schema={"agent_id": pl.String, **ERROR_COUNT.to_schema()}), figures, ["agent_id"]
    )
    both = (
        metrics_of_day(connection, metric_date)
        .join(again, on="agent_id", suffix="_again")
        .join(figures.select("agent_id", "latencies", "latencies_exact", "users_exact"), on="agent_id")
    )
    of_latencies = ("avg_latency_ms", "p50_latency_ms", "p95_latency_ms", "p99_latency_ms")
    differs = [
        # The mean is exact in any case. Without latencies it is 0 for a day, and null for a window.
        (pl.col("latencies_exact") | (name == "avg_latency_ms"))
        & (pl.col(name) != pl.col(f"{name}_again").fill_null(0))
        for name in of_latencies
    ]
    differs += [
        pl.col("users_exact") & (pl.col("unique_users") != pl.col("unique_users_again")),
        pl.col("latencies") > pl.col("total_executions"),
    ]
    contradictory = both.filter(pl.any_horizontal(differs))["agent_id"].to_list()
    damaged = connection.execute(_DAMAGED, {"metric_date": metric_date}).scalars()
    return DistributionAudit(
        distributions=both.height,
        not_exact=both.filter(~(pl.col("latencies_exact") & pl.col("users_exact"))).height,
        without=rows.filter(~pl.col("has_distribution") & (pl.col("total_executions") > 0)).height,
        contradictory_agents=tuple(sorted({*contradictory, *damaged})),
    )
