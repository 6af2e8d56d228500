"""Tries whether an adopted table stores our rows as they are written: triggers and constraints may not let it."""

from datetime import date
from decimal import Decimal

import psycopg
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

# A row of an agent without logs, and one that needs every place of every type.
_IDLE = {
    "total_executions": 0,
    "successful_executions": 0,
    "failed_executions": 0,
    "success_rate": Decimal(1),
    "avg_latency_ms": 0,
    "p50_latency_ms": 0,
    "p95_latency_ms": 0,
    "p99_latency_ms": 0,
    "total_tokens": 0,
    "total_cost_usd": Decimal(0),
    "avg_cost_per_execution": Decimal(0),
    "error_distribution": "{}",
    "human_interventions": 0,
    "unique_users": 0,
}
_BUSY = _IDLE | {
    "total_executions": 3_000_000_000,
    "successful_executions": 1_000_000_000,
    "failed_executions": 2_000_000_000,
    "success_rate": Decimal("0.333333"),
    "avg_latency_ms": 1003,
    "p99_latency_ms": 3_000_000_000,
    "total_tokens": 3_000_000_000,
    "total_cost_usd": Decimal("99999999999.123456789"),
    "avg_cost_per_execution": Decimal("33.333333333"),
    "error_distribution": '{"Timeout": 2000000000}',
    "unique_users": 7,
}

_VALUES = ", ".join(f":{name}" for name in _IDLE).replace(":error_distribution", "CAST(:error_distribution AS jsonb)")
_UPSERT = text(f"""
    INSERT INTO agent_performance_metrics (agent_id, metric_date, {", ".join(_IDLE)})
    VALUES (:agent_id, :metric_date, {_VALUES})
    ON CONFLICT (agent_id, metric_date) DO UPDATE SET {", ".join(f"{name} = EXCLUDED.{name}" for name in _IDLE)}""")
_STORED = text(f"""
    SELECT {", ".join(_IDLE).replace("error_distribution", "error_distribution::text AS error_distribution")}
    FROM agent_performance_metrics WHERE agent_id = :agent_id AND metric_date = :metric_date""")
_NEWEST = text("SELECT agent_id, metric_date FROM agent_performance_metrics ORDER BY metric_date DESC LIMIT 1")


def try_rows(connection: Connection) -> list[str]:
    """What the table changes in two rows, or that it drops them. Undoes both; a sequence of the table advances by two.

    Raises DBAPIError if the table refuses a row.
    """
    newest = connection.execute(_NEWEST).mappings().one_or_none()
    key = dict(newest or {"agent_id": "agent", "metric_date": date(2025, 1, 1)})
    differences = []
    for row in (_IDLE, _BUSY):
        savepoint = connection.begin_nested()
        try:
            connection.execute(_UPSERT, key | row)
        except DBAPIError as error:
            savepoint.rollback()
            if newest is None and _concerns_key(error.orig):
                return []
            raise
        stored = connection.execute(_STORED, key).mappings().one_or_none()
        savepoint.rollback()
        if stored is None:
            differences.append(f"the row of {row['total_executions']} executions is missing")
        else:
            changed = [name for name in row if stored[name] != row[name]]
            differences += [f"{name} is {stored[name]} instead of {row[name]}" for name in changed]
    return differences


def _concerns_key(error: BaseException | None) -> bool:
    """Whether the table has no partition for a made-up day, or a foreign key refuses a made-up agent."""
    return isinstance(error, psycopg.errors.ForeignKeyViolation) or (
        isinstance(error, psycopg.errors.CheckViolation) and error.diag.constraint_name is None
    )
