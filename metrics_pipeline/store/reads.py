"""Reading what is stored: metrics, the ledger for people, and restatements."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Any

import polars as pl
from sqlalchemy import Connection, text

from metrics_pipeline.metrics.schema import KEY_COLUMNS, METRIC_COLUMNS, METRICS_SCHEMA

_COLUMNS = ", ".join(column.name for column in KEY_COLUMNS + METRIC_COLUMNS)
_DAY = text(f"SELECT {_COLUMNS} FROM agent_performance_metrics WHERE metric_date = :metric_date ORDER BY agent_id")

_LEDGER = text("""
SELECT metric_date, source_logs, aggregated_logs, skipped_logs, agents, definition_version, aggregated_at, run_id
FROM metric_day_ledger WHERE metric_date BETWEEN :first AND :last""")

_RESTATEMENTS = text("""
SELECT agent_id, metric_date, replaced_at, run_id, reason, old_row::text, new_row::text
FROM metric_restatements
WHERE (CAST(:agent_id AS text) IS NULL OR agent_id = :agent_id) AND metric_date BETWEEN :first AND :last
ORDER BY replaced_at DESC, metric_date DESC, agent_id
LIMIT :limit""")


@dataclass(frozen=True)
class LedgerRow:
    """What the ledger tells a person of a day."""

    metric_date: date
    source_logs: int
    aggregated_logs: int
    skipped_logs: int
    agents: int
    definition_version: str
    aggregated_at: datetime
    run_id: str


@dataclass(frozen=True)
class Restatement:
    """A stored row that was replaced, with its metric columns before and after."""

    agent_id: str
    metric_date: date
    replaced_at: datetime
    run_id: str
    reason: str
    old_row: dict[str, Any]
    new_row: dict[str, Any]


def metrics_of_day(connection: Connection, metric_date: date) -> pl.DataFrame:
    """The stored rows of a day as METRICS_SCHEMA, sorted by agent_id, error distributions by error_type."""
    rows = []
    for row in connection.execute(_DAY, {"metric_date": metric_date}).mappings():
        counts = sorted(row["error_distribution"].items())
        distribution = [{"error_type": error_type, "executions": executions} for error_type, executions in counts]
        rows.append({**row, "error_distribution": distribution})
    return pl.DataFrame(rows, schema=METRICS_SCHEMA)


def ledger_rows(connection: Connection, first: date, last: date) -> dict[date, LedgerRow]:
    """The ledger from `first` to `last`, by day."""
    rows = connection.execute(_LEDGER, {"first": first, "last": last}).mappings()
    return {row["metric_date"]: LedgerRow(**row) for row in rows}


def restatements(
    connection: Connection, first: date, last: date, *, agent_id: str | None, limit: int
) -> Sequence[Restatement]:
    """The latest `limit` restatements of days from `first` to `last`, of one agent or of all, newest first.

    Numbers in the rows are exact: decimals are Decimal, not float.
    """
    rows = connection.execute(_RESTATEMENTS, {"agent_id": agent_id, "first": first, "last": last, "limit": limit})
    return [
        Restatement(**{**row, "old_row": _exact(row["old_row"]), "new_row": _exact(row["new_row"])})
        for row in rows.mappings()
    ]


def _exact(row: str) -> dict[str, Any]:
    return dict(json.loads(row, parse_float=Decimal))
