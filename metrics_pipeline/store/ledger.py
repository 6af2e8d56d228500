"""metric_day_ledger: what was aggregated of each day, from which logs, when and by which run."""

from dataclasses import dataclass
from datetime import date, datetime

from sqlalchemy import Connection, text

from metrics_pipeline.errors import DayRefusedError
from metrics_pipeline.metrics.fingerprint import SourceFingerprint
from metrics_pipeline.metrics.reconciliation import StoredDay
from metrics_pipeline.metrics.windows import DayWindow

_STATE = text("""
SELECT stored.executions AS stored_executions, ledger.time_zone, ledger.raw_pruned_at, ledger.raw_pruned_logs,
       ledger.definition_version, ledger.xmin::text AS version
FROM (SELECT coalesce(sum(total_executions), 0)::bigint AS executions
      FROM agent_performance_metrics WHERE metric_date = :metric_date) AS stored
LEFT JOIN metric_day_ledger AS ledger ON ledger.metric_date = :metric_date""")

_SEALED_NEIGHBOUR = text("""
SELECT metric_date, time_zone FROM metric_day_ledger
WHERE metric_date <> :metric_date AND raw_pruned_at IS NOT NULL AND window_start < :end AND window_end > :start
ORDER BY metric_date LIMIT 1""")

_STORED_DAYS = text("""
SELECT metric_date, time_zone, source_fingerprint, definition_version, aggregated_at, raw_pruned_at
FROM metric_day_ledger WHERE metric_date BETWEEN :first AND :last""")


@dataclass(frozen=True)
class DayState:
    """What is stored of a day. Without a row in the ledger every field but `stored_executions` is None.

    version: changes with every write of the ledger's row (its xmin), whatever the clocks say.
    stored_executions: sum of total_executions over the day's stored metrics.
    """

    stored_executions: int
    time_zone: str | None = None
    raw_pruned_at: datetime | None = None
    raw_pruned_logs: int | None = None
    definition_version: str | None = None
    version: str | None = None


def read_day_state(connection: Connection, metric_date: date) -> DayState:
    """The day's state as the connection's transaction sees it."""
    return DayState(**connection.execute(_STATE, {"metric_date": metric_date}).mappings().one())


def refuse_unless_open(state: DayState, window: DayWindow) -> None:
    """Raises DayRefusedError for a day that must not be aggregated again: pruned, or stored under another zone."""
    if state.raw_pruned_at is not None:
        raise DayRefusedError(
            f"{window.metric_date} is sealed: {state.raw_pruned_logs} of its raw logs were pruned at "
            f"{state.raw_pruned_at:%Y-%m-%d %H:%M}Z, so its metrics can no longer be computed. "
            "The stored metrics stay as they are."
        )
    if state.time_zone is not None and state.time_zone != window.time_zone:
        raise DayRefusedError(
            f"{window.metric_date} is stored as a day of {state.time_zone}, and METRICS_TIME_ZONE is now "
            f"{window.time_zone}. Set METRICS_TIME_ZONE back, or, to recompute the day as one of {window.time_zone}, "
            f"clear it first: DELETE FROM metric_day_ledger WHERE metric_date = '{window.metric_date}'."
        )


def refuse_if_partly_pruned(connection: Connection, window: DayWindow) -> None:
    """Raises DayRefusedError where a sealed day of another zone shares hours with the window: logs may be gone."""
    bounds = {"metric_date": window.metric_date, "start": window.start, "end": window.end}
    neighbour = connection.execute(_SEALED_NEIGHBOUR, bounds).one_or_none()
    if neighbour is not None:
        raise DayRefusedError(
            f"{window.metric_date} in {window.time_zone} shares hours with {neighbour.metric_date} in "
            f"{neighbour.time_zone}, whose raw logs were pruned. Its metrics would miss those logs. "
            f"Set METRICS_TIME_ZONE back to {neighbour.time_zone} to aggregate days of that time."
        )


def refuse_if_logs_vanished(state: DayState, window: DayWindow, logs_read: int) -> None:
    """Raises DayRefusedError where metrics are stored and no log is left.

    Such a day was purged by somebody else, before or behind the ledger; aggregating it would store zeros.
    """
    if logs_read == 0 and state.stored_executions > 0:
        raise DayRefusedError(
            f"{window.metric_date} has stored metrics of {state.stored_executions} executions, but no log of that "
            "day is left in agent_execution_logs. Aggregating it would replace them by zeros, so it is refused. "
            "If these executions never happened, clear the day first: "
            f"DELETE FROM agent_performance_metrics WHERE metric_date = '{window.metric_date}'."
        )


def stored_days(connection: Connection, first: date, last: date) -> dict[date, StoredDay]:
    """The ledger's rows from `first` to `last`, as reconciliation needs them."""
    days = {}
    for row in map(dict, connection.execute(_STORED_DAYS, {"first": first, "last": last}).mappings()):
        day = row.pop("metric_date")
        fingerprint = SourceFingerprint.from_text(row.pop("source_fingerprint"))
        days[day] = StoredDay(source_fingerprint=fingerprint, **row)
    return days
