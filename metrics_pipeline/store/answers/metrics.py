"""Stored metrics: the days of one agent, or the agents of one day."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import date
from functools import cache

from sqlalchemy import Connection, TextClause, text

from metrics_pipeline.metrics.catalog import AGENT_DAY
from metrics_pipeline.postgres.database import Database
from metrics_pipeline.store.answers.rows import as_array, rows_version
from metrics_pipeline.store.unlogged import ROWS_AND_DAYS, known

#: The columns of a row, in this order.
COLUMNS = (*(column.name for column in AGENT_DAY.columns), "created_at", "updated_at")
#: The columns by which a day's agents can be sorted.
SORTABLE = tuple(name for name in COLUMNS if name != "error_distribution")


#: SQL of COLUMNS of ROWS_AND_DAYS.
SELECTED = ", ".join(map(known, COLUMNS))

#: Whether the registry or the stored metrics know an agent.
IS_KNOWN = """
(EXISTS (SELECT FROM agent_performance_metrics WHERE agent_id = :agent_id)
 OR EXISTS (SELECT FROM agent_registry WHERE id::text = :agent_id))"""


_IS_KNOWN = text(f"SELECT {IS_KNOWN}")


@dataclass(frozen=True)
class Answer:
    """Rows as JSON objects, or None if the client holds their present version.

    version: changes whenever the rows may have changed. is_known: whether the agent or the day exists at all.
    total: the rows of all pages.
    """

    version: str
    is_known: bool
    rows: list[str] | None
    total: int


def is_known(connection: Connection, agent_id: str) -> bool:
    """Whether the registry or the stored metrics know the agent."""
    return bool(connection.scalar(_IS_KNOWN, {"agent_id": agent_id}))


def agent_series(
    database: Database,
    agent_id: str,
    first: date,
    last: date,
    *,
    is_ascending: bool,
    held: Collection[str],
) -> Answer:
    """The agent's stored days from `first` to `last`. `held` are the versions that the client has."""
    parameters = {"agent_id": agent_id, "first": first, "last": last, "held": list(held)}
    version, is_known, rows = database.read_row(_SERIES[is_ascending], parameters)
    return Answer(version, is_known, rows, len(rows or ()))


def day_page(
    database: Database,
    metric_date: date,
    *,
    sort: str,
    is_descending: bool,
    min_executions: int,
    limit: int,
    offset: int,
    held: Collection[str],
) -> Answer:
    """At most `limit` agents of a day, by `sort`, one of SORTABLE, and then by their ids.

    Only agents with at least `min_executions` executions. The version is that of the whole day.
    """
    parameters = {
        "metric_date": metric_date,
        "min_executions": min_executions,
        "limit": limit,
        "offset": offset,
        "held": list(held),
    }
    statement = _day_statement(SORTABLE[SORTABLE.index(sort)], is_descending)
    version, is_known, total, rows = database.read_row(statement, parameters)
    return Answer(version, is_known, rows, total)


@cache
def _day_statement(sort: str, is_descending: bool) -> TextClause:
    wanted = "AND total_executions >= :min_executions"
    order = f"ORDER BY {sort} {'DESC' if is_descending else 'ASC'} NULLS LAST, agent_id LIMIT :limit OFFSET :offset"
    total = f"(SELECT count(*) FROM agent_performance_metrics WHERE metric_date = :metric_date {wanted}) AS total"
    is_known = """
    (EXISTS (SELECT FROM metric_day_ledger WHERE metric_date = :metric_date)
     OR EXISTS (SELECT FROM agent_performance_metrics WHERE metric_date = :metric_date))"""
    return _statement("metric_date = :metric_date", f"{wanted} {order}", is_known, total)


def _statement(condition: str, order: str, is_known: str, *further: str) -> TextClause:
    select = f"SELECT {SELECTED} FROM {ROWS_AND_DAYS} WHERE {condition} {order}"
    return text(f"""
WITH version AS MATERIALIZED ({rows_version(condition)})
SELECT {", ".join(("version.value AS version", f"{is_known} AS is_known", *further))},
       CASE WHEN version.value = ANY(CAST(:held AS text[])) THEN NULL ELSE {as_array(select)} END AS rows
FROM version""")


_SERIES = [
    _statement(
        "agent_id = :agent_id AND metric_date BETWEEN :first AND :last", f"ORDER BY metric_date {order}", IS_KNOWN
    )
    for order in ("DESC", "ASC")
]
