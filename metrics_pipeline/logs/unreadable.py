"""Logs that PostgreSQL, or a view, cannot read: which days they spoil, and which logs they are."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import date, timedelta
from typing import Any

from sqlalchemy import Connection, Row, text
from sqlalchemy.exc import DBAPIError

from metrics_pipeline.logs.contract import UpstreamContract
from metrics_pipeline.metrics.verification import Unreadable
from metrics_pipeline.metrics.windows import DayWindow
from metrics_pipeline.names import LOGS_TABLE, REGISTRY_TABLE

# A platform that keeps whole seconds has many logs at one instant. An id may be NULL, or of a type without an order.
_LOGS_AT = text("""
SELECT coalesce(id::text, 'NULL') AS id, coalesce(agent_id::text, 'NULL') AS agent, count(*) OVER () AS logs
FROM agent_execution_logs WHERE "timestamp" >= :start AND "timestamp" < :end ORDER BY 1 LIMIT 5""")

# The SQLSTATE classes of faults that lie in the logs: data exception, limit exceeded, an error raised by a function of
# a view, and a damaged page.
_FAULTS_OF_LOGS = ("22", "54", "P0", "XX")
_TOO_LARGE = "22003"
_SHORTEST_SPAN = timedelta(microseconds=1)

#: Reads the logs of windows, and keeps what it finds.
Read = Callable[[Sequence[DayWindow]], None]


def is_fault_of_logs(error: BaseException) -> bool:
    """Whether an exception of the driver, of SQLAlchemy or of database_faults() comes from what the logs hold."""
    return _sqlstate(error)[:2] in _FAULTS_OF_LOGS


def remedy(error: BaseException) -> str:
    """What to do about the log that such an exception comes from."""
    if _sqlstate(error) != _TOO_LARGE:
        return "Correct or delete it, or have a view leave the value out."
    return (
        "latency_ms and token_count have 32 bits, so a latency ends at 24.8 days. Correct the log, or read the logs "
        "through a view in which such a value is NULL: CASE WHEN latency_ms <= 2147483647 THEN latency_ms END AS "
        f"latency_ms. It is printed by metrics-pipeline db adapt --from {LOGS_TABLE} --agents {REGISTRY_TABLE}."
    )


def _sqlstate(error: BaseException) -> str:
    causes = (getattr(error, "orig", None), error, error.__cause__)
    return next(filter(None, (getattr(cause, "sqlstate", None) for cause in causes)), "")


def unreadable_days(
    snapshot: Connection, contract: UpstreamContract, windows: Sequence[DayWindow], read: Read
) -> dict[date, Unreadable]:
    """Has `read` keep what it finds in all windows, and returns those in which it fails, with the log."""
    return {
        window.metric_date: Unreadable(f"{_unreadable_log(snapshot, contract, window, read)}: {_server_words(fault)}")
        for window, fault in day_by_day(snapshot, windows, read)
    }


def day_by_day(snapshot: Connection, windows: Sequence[DayWindow], read: Read) -> list[tuple[DayWindow, DBAPIError]]:
    """Reads all windows at once, or, if a log makes that fail, each alone. Returns the windows that fail alone."""
    if _fault(snapshot, read, windows) is None:
        return []
    alone = ((window, _fault(snapshot, read, [window])) for window in windows)
    return [(window, fault) for window, fault in alone if fault is not None]


def _unreadable_log(snapshot: Connection, contract: UpstreamContract, window: DayWindow, read: Read) -> str:
    """Where `read` fails within the window, by halving it: a log, the logs of one instant, or a span of time."""
    while window.end - window.start > _SHORTEST_SPAN:
        middle = window.start + (window.end - window.start) / 2
        halves = (replace(window, end=middle), replace(window, start=middle))
        failing = next((half for half in halves if _fault(snapshot, read, [half])), None)
        if failing is None:
            return f"the logs from {window.start:%H:%M:%S}Z to {window.end:%H:%M:%S}Z cannot be read together"
        window = failing
    logs: list[Row[Any]] = []
    # Of a view, the agent itself may be what cannot be read.
    _fault(snapshot, lambda _: logs.extend(snapshot.execute(_LOGS_AT, contract.bounds(window))), [window])
    named = ", ".join(f"{log.id} of agent {log.agent}" for log in logs)
    if len(logs) == 1:
        return f"log {named} at {window.start:%H:%M:%S}Z cannot be read"
    if not logs:
        return f"a log of {window.start:%H:%M:%S.%f}Z cannot be read, nor can its id or its agent"
    more = ", …" if logs[0].logs > len(logs) else ""
    return f"one of the {logs[0].logs:,} logs of {window.start:%H:%M:%S.%f}Z ({named}{more}) cannot be read"


def _fault(snapshot: Connection, read: Read, windows: Sequence[DayWindow]) -> DBAPIError | None:
    """The fault of the logs that ends `read`. The transaction goes on. Any other fault is raised."""
    try:
        with snapshot.begin_nested():
            read(windows)
    except DBAPIError as error:
        if not is_fault_of_logs(error):
            raise
        return error
    return None


def _server_words(error: DBAPIError) -> str:
    diagnosis: Any = getattr(error.orig, "diag", None)
    return f"{diagnosis.message_primary} (SQLSTATE {diagnosis.sqlstate})"
