"""The original demand, taken at its word: three queries and one upsert per active agent, one agent after the other."""

from datetime import date

import psycopg
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from metrics_pipeline_tests.benchmarks.contenders.rows import UPSERT, with_quotients

_OF_AGENT = 'FROM agent_execution_logs WHERE agent_id = %(agent_id)s AND DATE("timestamp") = %(metric_date)s'
_TOTALS = f"""
SELECT count(*) AS total_executions,
       count(*) FILTER (WHERE status = 'success') AS successful_executions,
       count(*) FILTER (WHERE status = 'failed') AS failed_executions,
       coalesce(avg(latency_ms)::int, 0) AS avg_latency_ms,
       coalesce(percentile_cont(0.5) WITHIN GROUP (ORDER BY latency_ms)::int, 0) AS p50_latency_ms,
       coalesce(percentile_cont(0.95) WITHIN GROUP (ORDER BY latency_ms)::int, 0) AS p95_latency_ms,
       coalesce(percentile_cont(0.99) WITHIN GROUP (ORDER BY latency_ms)::int, 0) AS p99_latency_ms,
       coalesce(sum(token_count), 0) AS total_tokens, coalesce(sum(cost_usd), 0) AS total_cost_usd,
       count(DISTINCT metadata->>'user_id') AS unique_users
{_OF_AGENT}"""
_ERRORS = f"SELECT coalesce(error_type, 'unknown'), count(*) {_OF_AGENT} AND status = 'failed' GROUP BY 1"
_INTERVENTIONS = f"SELECT count(*) {_OF_AGENT} AND metadata->>'human_intervention' = 'true'"


def run(url: str, day: str) -> dict[str, float]:
    """One connection, one transaction per statement."""
    with psycopg.connect(url, autocommit=True) as connection:
        agents = connection.execute("SELECT id FROM agent_registry WHERE status = 'active'").fetchall()
        for (agent_id,) in agents:
            key = {"agent_id": agent_id, "metric_date": date.fromisoformat(day)}
            totals = connection.cursor(row_factory=dict_row).execute(_TOTALS, key).fetchone()
            errors = dict(connection.execute(_ERRORS, key).fetchall())
            (interventions,) = connection.execute(_INTERVENTIONS, key).fetchone()
            row = key | totals | {"error_distribution": Jsonb(errors), "human_interventions": interventions}
            connection.execute(UPSERT, with_quotients([row])[0])
    return {}
