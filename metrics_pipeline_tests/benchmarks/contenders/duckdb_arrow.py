"""What a user would write with DuckDB: the rows as a stream of Arrow batches, one query over them, upsert."""

from datetime import date, timedelta

import adbc_driver_postgresql.dbapi
import duckdb
import psycopg
from psycopg.types.json import Jsonb

from metrics_pipeline_tests.benchmarks.contenders.rows import UPSERT, with_quotients

# Cost as text, because ADBC sends numeric as text in any case.
_LOGS = """
SELECT agent_id, status, latency_ms, token_count, cost_usd::text AS cost_usd, error_type,
       metadata->>'human_intervention' = 'true' AS human_intervention, metadata->>'user_id' AS user_id
FROM agent_execution_logs WHERE "timestamp" >= '{start}' AND "timestamp" < '{end}'"""

_METRICS = """
WITH errors AS (
    SELECT agent_id, map(list(error_type), list(executions)) AS error_distribution
    FROM (SELECT agent_id, coalesce(error_type, 'unknown') AS error_type, count(*) AS executions
          FROM logs WHERE status = 'failed' GROUP BY ALL)
    GROUP BY agent_id
)
SELECT agent_id, count(logs.status) AS total_executions,
       count(*) FILTER (status = 'success') AS successful_executions,
       count(*) FILTER (status = 'failed') AS failed_executions,
       coalesce((2 * sum(latency_ms) + count(latency_ms)) // (2 * count(latency_ms)), 0)::BIGINT AS avg_latency_ms,
       coalesce(round_even(quantile_cont(latency_ms, 0.5), 0), 0)::BIGINT AS p50_latency_ms,
       coalesce(round_even(quantile_cont(latency_ms, 0.95), 0), 0)::BIGINT AS p95_latency_ms,
       coalesce(round_even(quantile_cont(latency_ms, 0.99), 0), 0)::BIGINT AS p99_latency_ms,
       coalesce(sum(token_count), 0)::BIGINT AS total_tokens,
       coalesce(sum(cost_usd::DECIMAL(18, 9)), 0) AS total_cost_usd,
       count(*) FILTER (human_intervention) AS human_interventions,
       count(DISTINCT user_id) AS unique_users,
       coalesce(any_value(error_distribution), MAP {}) AS error_distribution
FROM (SELECT unnest($active) AS agent_id) LEFT JOIN logs USING (agent_id) LEFT JOIN errors USING (agent_id)
GROUP BY agent_id"""


def run(url: str, day: str) -> dict[str, float]:
    """The batches are kept, because the query reads them twice."""
    start = date.fromisoformat(day)
    with (
        adbc_driver_postgresql.dbapi.connect(url) as source,
        source.cursor() as cursor,
        duckdb.connect() as duck,
        psycopg.connect(url) as target,
    ):
        cursor.execute(_LOGS.format(start=start, end=start + timedelta(days=1)))
        duck.register("logs", cursor.fetch_arrow_table())
        agents = target.execute("SELECT id FROM agent_registry WHERE status = 'active'").fetchall()
        result = duck.execute(_METRICS, {"active": [agent for (agent,) in agents]}).to_arrow_table()
        rows = [
            row | {"metric_date": start, "error_distribution": Jsonb(dict(row["error_distribution"]))}
            for row in result.to_pylist()
        ]
        target.cursor().executemany(UPSERT, with_quotients(rows))
    return {}
