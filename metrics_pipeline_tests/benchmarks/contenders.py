"""What is measured: ours, the wire's floor, and the statement that one would write in SQL instead."""

from datetime import datetime

import psycopg
from psycopg import sql
from sqlalchemy import text

from metrics_pipeline.metrics.windows import DayWindow
from metrics_pipeline.orchestration.aggregation import aggregate_day
from metrics_pipeline.storage.contract import UpstreamContract
from metrics_pipeline.storage.database import Database
from metrics_pipeline.storage.publishing import Reason

_FLOOR = """
COPY (
    SELECT agent_id, status, latency_ms, token_count, cost_usd, error_type,
           metadata->>'human_intervention' = 'true', metadata->>'user_id'
    FROM agent_execution_logs WHERE "timestamp" >= {} AND "timestamp" < {}
) TO STDOUT (FORMAT binary)"""

# The mean cost is rounded twice here, by numeric's division and to nine places; random data does not show it.
_ONE_STATEMENT = text("""
WITH errors AS MATERIALIZED (
    SELECT agent_id, jsonb_object_agg(error_type, executions) AS distribution
    FROM (
        SELECT agent_id, coalesce(error_type, 'unknown') AS error_type, count(*) AS executions
        FROM agent_execution_logs
        WHERE status = 'failed' AND "timestamp" >= :start AND "timestamp" < :end
        GROUP BY 1, 2
    ) AS counts
    GROUP BY agent_id
)
INSERT INTO agent_performance_metrics
SELECT agent.id, :metric_date, count(log.id),
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
  ON log.agent_id = agent.id AND log."timestamp" >= :start AND log."timestamp" < :end
WHERE agent.status = 'active'
GROUP BY agent.id
ON CONFLICT (agent_id, metric_date) DO NOTHING""")


def copy_to_nowhere(uri: str, window: DayWindow) -> None:
    """The floor: the columns that are needed, in the server's own binary form, received and thrown away."""
    statement = sql.SQL(_FLOOR).format(sql.Literal(window.start), sql.Literal(window.end))
    with psycopg.connect(uri) as connection, connection.cursor().copy(statement) as rows:
        for _ in rows:
            pass


def ours(database: Database, contract: UpstreamContract, window: DayWindow) -> dict[str, float]:
    """The asset's steps; returns the seconds of each."""
    day = aggregate_day(
        database, contract, window, include_inactive_agents=False, run_id="benchmark", reason=Reason.MANUAL
    )
    return day.timings.seconds


def one_sql_statement(database: Database, window: DayWindow) -> None:
    """GROUP BY with percentile_cont and COUNT(DISTINCT) in the server."""
    bounds: dict[str, datetime | object] = {"start": window.start, "end": window.end}
    with database.engine.begin() as connection:
        connection.execute(_ONE_STATEMENT, {**bounds, "metric_date": window.metric_date})
