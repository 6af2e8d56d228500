"""Reads stored metrics as Python values."""

from collections.abc import Collection
from datetime import date

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
