"""What the contenders that compute in Python share: whole days as rows, derived values, and the upsert of rows."""

from collections.abc import Iterable
from decimal import ROUND_HALF_UP, Context, Decimal
from typing import Any

_COLUMNS = (
    "agent_id", "metric_date", "total_executions", "successful_executions", "failed_executions", "success_rate",
    "avg_latency_ms", "p50_latency_ms", "p95_latency_ms", "p99_latency_ms", "total_tokens", "total_cost_usd",
    "avg_cost_per_execution", "error_distribution", "human_interventions", "unique_users",
)  # fmt: skip

#: With placeholders as psycopg names them; error_distribution is JSON.
UPSERT = f"""
INSERT INTO agent_performance_metrics ({", ".join(_COLUMNS)}, created_at)
VALUES ({", ".join(f"%({name})s" for name in _COLUMNS)}, now())
ON CONFLICT (agent_id, metric_date) DO UPDATE
SET {", ".join(f"{name} = EXCLUDED.{name}" for name in _COLUMNS[2:])}, updated_at = now()"""

# Digits enough that the quotient is rounded only once that matters, to its places.
_EXACT = Context(prec=80, rounding=ROUND_HALF_UP)

#: Over a table or view `logs`, with the parameter active: the ids of the agents.
DUCKDB_METRICS = """
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


def quotient(dividend: Decimal | int, divisor: int, places: int) -> Decimal:
    """Rounded half away from zero."""
    return _EXACT.quantize(_EXACT.divide(Decimal(dividend), divisor), Decimal(1).scaleb(-places))


def with_quotients(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Adds success_rate and avg_cost_per_execution."""
    return [
        row
        | {
            "success_rate": quotient(row["successful_executions"], total, 6) if total else Decimal(1),
            "avg_cost_per_execution": quotient(row["total_cost_usd"], total, 9) if total else Decimal(0),
        }
        for row in rows
        for total in (row["total_executions"],)
    ]
