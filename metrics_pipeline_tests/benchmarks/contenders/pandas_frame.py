"""What a user would write with pandas and SQLAlchemy: read_sql, groupby, upsert."""

from datetime import date, timedelta

import pandas as pd
from psycopg.types.json import Jsonb
from sqlalchemy import create_engine, text

from metrics_pipeline_tests.benchmarks.contenders.rows import UPSERT, with_quotients

_LOGS = text("""
SELECT agent_id, status, latency_ms, token_count, cost_usd, error_type,
       metadata->>'human_intervention' = 'true' AS human_intervention, metadata->>'user_id' AS user_id
FROM agent_execution_logs WHERE "timestamp" >= :start AND "timestamp" < :end""")


def run(url: str, day: str) -> dict[str, float]:
    """Costs stay decimal, which pandas adds up as objects. As floats, read_sql's default, a mean was wrong."""
    start = date.fromisoformat(day)
    engine = create_engine(url.replace("postgresql:", "postgresql+psycopg:", 1))
    with engine.connect() as connection:
        bounds = {"start": start, "end": start + timedelta(days=1)}
        logs = pd.read_sql(_LOGS, connection, params=bounds, coerce_float=False)
        active = pd.read_sql(text("SELECT id FROM agent_registry WHERE status = 'active'"), connection)["id"]
    by_agent = logs.assign(
        is_successful=logs["status"] == "success",
        is_failed=logs["status"] == "failed",
        cost_usd=logs["cost_usd"].where(logs["cost_usd"].notna(), 0),
        human_intervention=logs["human_intervention"].eq(True),
    ).groupby("agent_id")
    metrics = by_agent.agg(
        total_executions=("status", "size"),
        successful_executions=("is_successful", "sum"),
        failed_executions=("is_failed", "sum"),
        latency_ms=("latency_ms", "sum"),
        latencies=("latency_ms", "count"),
        total_tokens=("token_count", "sum"),
        total_cost_usd=("cost_usd", "sum"),
        human_interventions=("human_intervention", "sum"),
        unique_users=("user_id", "nunique"),
    )
    # The exact mean, half away from zero: no latency is negative.
    metrics["avg_latency_ms"] = (2 * metrics["latency_ms"] + metrics["latencies"]) // (2 * metrics["latencies"])
    percentiles = by_agent["latency_ms"].quantile([0.5, 0.95, 0.99]).round().unstack()
    metrics[["p50_latency_ms", "p95_latency_ms", "p99_latency_ms"]] = percentiles
    metrics = metrics.reindex(active).fillna(0)
    whole = metrics.columns.drop("total_cost_usd")
    metrics[whole] = metrics[whole].astype("int64")
    failed = logs[logs["status"] == "failed"]
    errors = failed.groupby(["agent_id", failed["error_type"].fillna("unknown")]).size()
    distributions = {agent: counts.droplevel(0).to_dict() for agent, counts in errors.groupby(level=0)}
    rows = [
        row | {"agent_id": agent, "metric_date": start, "error_distribution": Jsonb(distributions.get(agent, {}))}
        for agent, row in zip(metrics.index, metrics.to_dict("records"), strict=True)
    ]
    with engine.begin() as connection:
        connection.connection.cursor().executemany(UPSERT, with_quotients(rows))
    return {}
