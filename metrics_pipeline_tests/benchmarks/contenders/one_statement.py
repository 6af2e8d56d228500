"""One SQL statement: GROUP BY with percentile_cont and COUNT(DISTINCT), and the upsert, in the server."""

from datetime import date, timedelta

import psycopg

# The mean cost is rounded twice here, by numeric's division and to nine places; random data does not show it.
_STATEMENT = """
WITH errors AS MATERIALIZED (
    SELECT agent_id, jsonb_object_agg(error_type, executions) AS distribution
    FROM (
        SELECT agent_id, coalesce(error_type, 'unknown') AS error_type, count(*) AS executions
        FROM agent_execution_logs
        WHERE status = 'failed' AND "timestamp" >= %(start)s AND "timestamp" < %(end)s
        GROUP BY 1, 2
    ) AS counts
    GROUP BY agent_id
)
INSERT INTO agent_performance_metrics
SELECT agent.id, %(start)s, count(log.id),
       count(*) FILTER (WHERE log.status = 'success'), count(*) FILTER (WHERE log.status = 'failed'),
       coalesce(round(count(*) FILTER (WHERE log.status = 'success')::numeric / nullif(count(log.id), 0), 6), 1),
       coalesce(avg(log.latency_ms)::int, 0),
       coalesce(percentile_cont(0.5) WITHIN GROUP (ORDER BY log.latency_ms)::int, 0),
       coalesce(percentile_cont(0.95) WITHIN GROUP (ORDER BY log.latency_ms)::int, 0),
       coalesce(percentile_cont(0.99) WITHIN GROUP (ORDER BY log.latency_ms)::int, 0),
       coalesce(sum(log.token_count), 0), coalesce(sum(log.cost_usd), 0),
       coalesce(round(sum(log.cost_usd) / nullif(count(log.id), 0), 9), 0),
       coalesce((SELECT distribution FROM errors WHERE errors.agent_id = agent.id), '{}'),
       count(*) FILTER (WHERE log.metadata->>'human_intervention' = 'true'),
       count(DISTINCT log.metadata->>'user_id'), now(), NULL
FROM agent_registry AS agent
LEFT JOIN agent_execution_logs AS log
  ON log.agent_id = agent.id AND log."timestamp" >= %(start)s AND log."timestamp" < %(end)s
WHERE agent.status = 'active'
GROUP BY agent.id
ON CONFLICT (agent_id, metric_date) DO UPDATE SET
    total_executions = EXCLUDED.total_executions, successful_executions = EXCLUDED.successful_executions,
    failed_executions = EXCLUDED.failed_executions, success_rate = EXCLUDED.success_rate,
    avg_latency_ms = EXCLUDED.avg_latency_ms, p50_latency_ms = EXCLUDED.p50_latency_ms,
    p95_latency_ms = EXCLUDED.p95_latency_ms, p99_latency_ms = EXCLUDED.p99_latency_ms,
    total_tokens = EXCLUDED.total_tokens, total_cost_usd = EXCLUDED.total_cost_usd,
    avg_cost_per_execution = EXCLUDED.avg_cost_per_execution, error_distribution = EXCLUDED.error_distribution,
    human_interventions = EXCLUDED.human_interventions, unique_users = EXCLUDED.unique_users, updated_at = now()"""


def run(url: str, day: str) -> dict[str, float]:
    """Everything happens in the server."""
    start = date.fromisoformat(day)
    with psycopg.connect(url) as connection:
        connection.execute(_STATEMENT, {"start": start, "end": start + timedelta(days=1)})
    return {}
