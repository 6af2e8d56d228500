"""The day's metrics again, in SQL, as the documents and PostgreSQL define them. Shares no code with the package.

The mean cost is the one exception: numeric's division rounds before it could be rounded to nine places, so the
quotient is formed from whole numbers in Python.
"""

from collections.abc import Iterable
from datetime import date, datetime
from decimal import Decimal
from fractions import Fraction
from typing import Any

from sqlalchemy import Connection, text

_ORACLE = text(r"""
WITH errors AS MATERIALIZED (
    SELECT agent_id, jsonb_object_agg(error_type, executions) AS distribution
      FROM (SELECT agent_id::text,
                   CASE WHEN length(error_type::text) > 256
                        THEN regexp_replace(error_type::text, '^(.{200}).*$', '\1')
                             || U&'\2026' || substr(sha256(convert_to(error_type::text, 'UTF8'))::text, 3, 16)
                        ELSE coalesce(error_type::text, 'unknown') END AS error_type,
                   count(*) AS executions
              FROM agent_execution_logs
             WHERE status::text = 'failed' AND "timestamp" >= :start AND "timestamp" < :end
             GROUP BY 1, 2) AS counts
     GROUP BY agent_id
)
SELECT agent.id AS agent_id,
       count(log) AS total_executions,
       count(*) FILTER (WHERE log.status::text = 'success') AS successful_executions,
       count(*) FILTER (WHERE log.status::text = 'failed') AS failed_executions,
       CASE WHEN count(log) = 0 THEN 1
            ELSE round(count(*) FILTER (WHERE log.status::text = 'success')::numeric / count(log), 6)
       END AS success_rate,
       coalesce(avg(log.latency_ms)::int, 0) AS avg_latency_ms,
       coalesce(percentile_cont(0.5) WITHIN GROUP (ORDER BY log.latency_ms)::int, 0) AS p50_latency_ms,
       coalesce(percentile_cont(0.95) WITHIN GROUP (ORDER BY log.latency_ms)::int, 0) AS p95_latency_ms,
       coalesce(percentile_cont(0.99) WITHIN GROUP (ORDER BY log.latency_ms)::int, 0) AS p99_latency_ms,
       coalesce(sum(log.token_count), 0) AS total_tokens,
       coalesce(sum(log.cost_usd) FILTER (WHERE log.cost_usd::text NOT IN ('NaN', 'Infinity', '-Infinity')), 0)
           AS exact_cost_usd,
       coalesce((SELECT distribution FROM errors WHERE errors.agent_id = agent.id), '{}') AS error_distribution,
       count(*) FILTER (WHERE log.metadata->>'human_intervention' = 'true') AS human_interventions,
       count(DISTINCT log.metadata->>'user_id') AS unique_users
  FROM (SELECT id::text FROM agent_registry
         WHERE status::text = 'active' OR :include_inactive OR id::text = ANY(:retired)) AS agent
  LEFT JOIN agent_execution_logs AS log
    ON log.agent_id::text = agent.id AND log."timestamp" >= :start AND log."timestamp" < :end
 GROUP BY agent.id""")

_STORED = text("SELECT * FROM agent_performance_metrics WHERE metric_date = :metric_date")

_NANO = 10**9


def expected_metrics(
    connection: Connection,
    start: datetime,
    end: datetime,
    *,
    include_inactive: bool = False,
    retired: Iterable[str] = (),
) -> dict[str, dict[str, Any]]:
    """What must be stored of the window [start, end), by agent.

    `retired` are agents that are no longer active, but were when the day was first aggregated.
    """
    parameters = {"start": start, "end": end, "include_inactive": include_inactive, "retired": list(retired)}
    rows = connection.execute(_ORACLE, parameters).mappings()
    expected = {}
    for row in map(dict, rows):
        cost = Fraction(row.pop("exact_cost_usd"))
        row["total_cost_usd"] = _rounded(cost)
        row["avg_cost_per_execution"] = _rounded(cost / max(row["total_executions"], 1))
        expected[row.pop("agent_id")] = row
    return expected


def stored_metrics(connection: Connection, metric_date: date) -> dict[str, dict[str, Any]]:
    """What is stored of the day, by agent, without the keys and the times of writing."""
    stored = {}
    for row in map(dict, connection.execute(_STORED, {"metric_date": metric_date}).mappings()):
        for name in ("metric_date", "created_at", "updated_at"):
            del row[name]
        stored[row.pop("agent_id")] = row
    return stored


def _rounded(usd: Fraction) -> Decimal:
    nano, half = divmod(abs(usd) * _NANO, 1)
    whole = nano + (half >= Fraction(1, 2))
    return Decimal(int(whole if usd >= 0 else -whole)).scaleb(-9)
