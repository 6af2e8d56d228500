"""Reads stored metrics and restatements as Python values."""

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Any

import polars as pl
from sqlalchemy import Connection, text

from metrics_pipeline.metrics.catalog import AGENT_DAY, GRAINS, Grain

_DAYS = {
    grain: text(
        f"SELECT {', '.join(column.name for column in grain.columns)} FROM {grain.table} "
        f"WHERE metric_date = :metric_date ORDER BY {', '.join(grain.day_keys)}"
    )
    for grain in GRAINS
}
_EXECUTIONS = text(
    f"SELECT metric_date, agent_id, total_executions FROM {AGENT_DAY.table} WHERE metric_date = ANY(:days)"
)

_RESTATEMENTS = text("""
SELECT agent_id, metric_date, replaced_at, run_id, reason, old_row::text, new_row::text,
       old_distribution, new_distribution
FROM metric_restatements
WHERE (CAST(:agent_id AS text) IS NULL OR agent_id = :agent_id) AND metric_date BETWEEN :first AND :last
  AND breakdown IS NULL
ORDER BY replaced_at DESC, metric_date DESC, agent_id
LIMIT :limit""")


@dataclass(frozen=True)
class Restatement:
    """A stored row that was replaced, with its metric columns before and after; None after its day was cleared.

    old_distribution, new_distribution: the digests of the row's distribution; None if there was none.
    """

    agent_id: str
    metric_date: date
    replaced_at: datetime
    run_id: str
    reason: str
    old_row: dict[str, Any]
    new_row: dict[str, Any] | None
    old_distribution: str | None
    new_distribution: str | None


def metrics_of_day(connection: Connection, metric_date: date) -> pl.DataFrame:
    """The stored rows of a day in the schema of AGENT_DAY, sorted by agent_id, error distributions by error_type."""
    return rows_of_day(connection, metric_date, AGENT_DAY)


def rows_of_day(connection: Connection, metric_date: date, grain: Grain) -> pl.DataFrame:
    """The stored rows of a day in the schema of the grain, sorted by its keys, error distributions by error_type."""
    rows = []
    for row in connection.execute(_DAYS[grain], {"metric_date": metric_date}).mappings():
        counts = sorted(row["error_distribution"].items())
        distribution = [{"error_type": error_type, "executions": executions} for error_type, executions in counts]
        rows.append({**row, "error_distribution": distribution})
    return pl.DataFrame(rows, schema=grain.schema)


def executions_by_agent(connection: Connection, days: Collection[date]) -> dict[date, dict[str, int]]:
    """total_executions of each agent that has a row, for each of `days`; days without rows are left out."""
    agents: dict[date, dict[str, int]] = {}
    for row in connection.execute(_EXECUTIONS, {"days": list(days)}):
        agents.setdefault(row.metric_date, {})[row.agent_id] = row.total_executions
    return agents


def restatements(
    connection: Connection, first: date, last: date, *, agent_id: str | None, limit: int
) -> Sequence[Restatement]:
    """The latest `limit` restatements of days from `first` to `last`, of one agent or all, newest first.

    Numbers in the rows are exact: decimals are Decimal, not float.
    """
    rows = connection.execute(_RESTATEMENTS, {"agent_id": agent_id, "first": first, "last": last, "limit": limit})
    return [
        Restatement(**{**row, **{name: json.loads(row[name], parse_float=Decimal) for name in ("old_row", "new_row")}})
        for row in rows.mappings()
    ]
