"""metric_day_ledger: what was aggregated for each day, from which logs, when and by which run."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from datetime import date, datetime
from typing import Any

from sqlalchemy import Connection, RowMapping, text

from metrics_pipeline.errors import DayRefusedError
from metrics_pipeline.metrics.fingerprint import SourceFingerprint
from metrics_pipeline.metrics.reconciliation import LedgerRow, what_is_gone, why_closed
from metrics_pipeline.metrics.windows import DayWindow

#: The columns of the table, in its order.
LEDGER_COLUMNS = tuple(column.name for column in fields(LedgerRow) if column.name != "version")

_ROW = f"ledger.{', ledger.'.join(LEDGER_COLUMNS)}, ledger.xmin::text AS version"

_ROWS = text(f"SELECT {_ROW} FROM metric_day_ledger AS ledger WHERE metric_date BETWEEN :first AND :last ORDER BY 1")

_STATE = text(f"""
SELECT {_ROW}, stored.agent_ids, stored.executions
FROM (SELECT array_agg(agent_id) AS agent_ids, array_agg(total_executions) AS executions
      FROM agent_performance_metrics WHERE metric_date = :metric_date) AS stored
LEFT JOIN metric_day_ledger AS ledger ON ledger.metric_date = :metric_date""")

_VERSION = text("SELECT xmin::text FROM metric_day_ledger WHERE metric_date = :metric_date")

_SEALED_NEIGHBOUR = text("""
SELECT metric_date, time_zone FROM metric_day_ledger
WHERE metric_date <> :metric_date AND raw_pruned_at IS NOT NULL AND window_start < :end AND window_end > :start
ORDER BY metric_date LIMIT 1""")

_NEWEST_DAY = text("SELECT max(metric_date) FROM metric_day_ledger WHERE metric_date <= :last")

_DAYS_OF_RUN = text("SELECT metric_date FROM metric_day_ledger WHERE run_id = :run_id ORDER BY 1")

_FIRST_STORED = text("SELECT min(window_start) FROM metric_day_ledger")


@dataclass(frozen=True)
class StoredDay:
    """What is stored for a day before it is aggregated again.

    ledger: its row, None for a day that was never aggregated or was cleared. executions: total_executions by agent, of
    the agents that have a row of metrics.
    """

    ledger: LedgerRow | None
    executions: Mapping[str, int]


def read_stored_day(connection: Connection, metric_date: date) -> StoredDay:
    """The day as the connection's transaction sees it."""
    row = dict(connection.execute(_STATE, {"metric_date": metric_date}).mappings().one())
    agent_ids, executions = row.pop("agent_ids") or (), row.pop("executions") or ()
    ledger = ledger_row(row) if row["version"] is not None else None
    return StoredDay(ledger, dict(zip(agent_ids, executions, strict=True)))


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


def days_of_run(connection: Connection, run_id: str) -> list[date]:
    """The days that the run was the last to store, oldest first."""
    return list(connection.execute(_DAYS_OF_RUN, {"run_id": run_id}).scalars())


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


def refuse_if_shrunk(
    stored: StoredDay,
    window: DayWindow,
    present: SourceFingerprint,
    unlogged: Collection[str],
    present_logs: Mapping[str, int],
) -> None:
    """Raises DayRefusedError if logs or columns that are in the stored metrics are gone.

    The other arguments are those of what_is_gone(). A platform's own pruning, a cascading delete, row-level security or
    a dropped column would otherwise turn history into zeros.
    """
    gone = what_is_gone(stored.ledger, present, unlogged, stored.executions, present_logs)
    if gone is not None:
        day = window.metric_date
        raise DayRefusedError(
            f"{day} has shrunk: {gone}. Its stored metrics stay as they are. If they are right, keep them for good: "
            f"metrics-pipeline seal --date {day}. If what is gone was wrong, such as executions that never happened, "
            f"aggregate what is left: metrics-pipeline aggregate --date {day} --accept-deleted-logs"
        )


def ledger_row(row: RowMapping | dict[str, Any]) -> LedgerRow:
    """The LedgerRow of a row that holds LEDGER_COLUMNS and version."""
    values = {name: row[name] for name in (*LEDGER_COLUMNS, "version")}
    return LedgerRow(**values | {"source_fingerprint": SourceFingerprint.from_text(values["source_fingerprint"])})
