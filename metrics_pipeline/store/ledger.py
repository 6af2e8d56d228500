"""metric_day_ledger: what was aggregated for each day, from which logs, when and by which run."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import date, datetime
from typing import Any

from sqlalchemy import Connection, RowMapping, text

from metrics_pipeline.errors import DayRefusedError
from metrics_pipeline.metrics.fingerprint import SourceFingerprint
from metrics_pipeline.metrics.reconciliation import LedgerRow, why_closed
from metrics_pipeline.metrics.windows import DayWindow

#: The columns of the table, in its order.
LEDGER_COLUMNS = tuple(column.name for column in fields(LedgerRow) if column.name != "version")

_ROW = f"ledger.{', ledger.'.join(LEDGER_COLUMNS)}, ledger.xmin::text AS version"

_ROWS = text(f"SELECT {_ROW} FROM metric_day_ledger AS ledger WHERE metric_date BETWEEN :first AND :last ORDER BY 1")

_STATE = text(f"""
SELECT {_ROW}, stored.executions, stored.agent_ids
FROM (SELECT coalesce(sum(total_executions), 0)::bigint AS executions, array_agg(agent_id) AS agent_ids
      FROM agent_performance_metrics WHERE metric_date = :metric_date) AS stored
LEFT JOIN metric_day_ledger AS ledger ON ledger.metric_date = :metric_date""")

_VERSION = text("SELECT xmin::text FROM metric_day_ledger WHERE metric_date = :metric_date")

_SEALED_NEIGHBOUR = text("""
SELECT metric_date, time_zone FROM metric_day_ledger
WHERE metric_date <> :metric_date AND raw_pruned_at IS NOT NULL AND window_start < :end AND window_end > :start
ORDER BY metric_date LIMIT 1""")

_NEWEST_DAY = text("SELECT max(metric_date) FROM metric_day_ledger WHERE metric_date <= :last")

_FIRST_STORED = text("SELECT min(window_start) FROM metric_day_ledger")


@dataclass(frozen=True)
class StoredDay:
    """What is stored for a day before it is aggregated again.

    ledger: its row, None for a day that was never aggregated or was cleared. executions: the sum of total_executions
    over its stored metrics. agent_ids: the agents that have a row of metrics.
    """

    ledger: LedgerRow | None
    executions: int
    agent_ids: Sequence[str]


def read_stored_day(connection: Connection, metric_date: date) -> StoredDay:
    """The day as the connection's transaction sees it."""
    row = dict(connection.execute(_STATE, {"metric_date": metric_date}).mappings().one())
    executions, agent_ids = row.pop("executions"), row.pop("agent_ids") or ()
    return StoredDay(ledger_row(row) if row["version"] is not None else None, executions, agent_ids)


def ledger_version(connection: Connection, metric_date: date) -> str | None:
    """LedgerRow.version of the day's row as the connection sees it now; None if there is no row."""
    return connection.execute(_VERSION, {"metric_date": metric_date}).scalar_one_or_none()


def ledger_rows(connection: Connection, first: date, last: date) -> dict[date, LedgerRow]:
    """The ledger from `first` to `last`, by day, oldest first."""
    rows = connection.execute(_ROWS, {"first": first, "last": last}).mappings()
    return {row["metric_date"]: ledger_row(row) for row in rows}


def newest_stored_day(connection: Connection, last: date = date.max) -> date | None:
    """The newest day in the ledger, not after `last`."""
    newest: date | None = connection.execute(_NEWEST_DAY, {"last": last}).scalar_one()
    return newest


def first_stored_at(connection: Connection) -> datetime | None:
    """The instant at which the oldest day in the ledger begins."""
    first: datetime | None = connection.execute(_FIRST_STORED).scalar_one()
    return first


def refuse_unless_open(stored: StoredDay, window: DayWindow) -> None:
    """Raises DayRefusedError for a day that must not be aggregated again: sealed, or stored under another zone."""
    closed = why_closed(stored.ledger, window.time_zone) if stored.ledger is not None else None
    if closed is not None:
        raise DayRefusedError(closed.reason)


def refuse_if_partly_pruned(connection: Connection, window: DayWindow) -> None:
    """Raises DayRefusedError if a sealed day of another zone overlaps the window: logs may have been deleted."""
    bounds = {"metric_date": window.metric_date, "start": window.start, "end": window.end}
    neighbour = connection.execute(_SEALED_NEIGHBOUR, bounds).one_or_none()
    if neighbour is not None:
        raise DayRefusedError(
            f"{window.metric_date} in {window.time_zone} shares hours with {neighbour.metric_date} in "
            f"{neighbour.time_zone}, whose raw logs were pruned. Its metrics would miss those logs. "
            f"Set METRICS_TIME_ZONE back to {neighbour.time_zone} to aggregate days of that time."
        )


def refuse_if_logs_vanished(stored: StoredDay, window: DayWindow, logs_read: int) -> None:
    """Raises DayRefusedError if metrics are stored and no log is left.

    Another system deleted the logs, before there was a ledger or without updating it. Aggregating would store zeros.
    """
    if logs_read == 0 and stored.executions > 0:
        raise DayRefusedError(
            f"{window.metric_date} has stored metrics of {stored.executions} executions, but no log of that "
            "day is left in agent_execution_logs. Aggregating it would replace them by zeros, so it is refused. "
            "If these executions never happened, clear the day first: "
            f"DELETE FROM agent_performance_metrics WHERE metric_date = '{window.metric_date}'."
        )


def ledger_row(row: RowMapping | dict[str, Any]) -> LedgerRow:
    """The LedgerRow of a row that holds LEDGER_COLUMNS and version."""
    values = {name: row[name] for name in (*LEDGER_COLUMNS, "version")}
    return LedgerRow(**values | {"source_fingerprint": SourceFingerprint.from_text(values["source_fingerprint"])})
