"""How gently rows are deleted: the pace of a run, and transactions with time limits."""

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from metrics_pipeline.errors import PermanentError

_Result = TypeVar("_Result")

#: Called with a sentence on what was just done, never inside a transaction.
OnProgress = Callable[[str], None]

# SET takes no snapshot, while SELECT set_config() does. Others wait behind whoever waits for a table: so not for long.
# Reading ten million logs takes ten seconds. Naive times are compared in the zone, which a pooler may have lost.
_SETTINGS = "SET LOCAL lock_timeout = '500ms'; SET LOCAL statement_timeout = '15min'; SET LOCAL TimeZone = 'UTC'"

# What concerns the connection or the whole server: connection lost, resources, shutdown, input and output, internal.
_OF_THE_SERVER = ("08", "53", "57P", "58", "XX")


class HeldBackError(Exception):
    """Rolls back a transaction, because what it would delete stays. Says why. Never leaves the package."""


def why_not(error: DBAPIError | HeldBackError) -> str:
    """Why a transaction was rolled back. Raises an error that other transactions would meet too."""
    if isinstance(error, HeldBackError):
        return str(error)
    sqlstate: str | None = getattr(error.orig, "sqlstate", None)
    if sqlstate is None or sqlstate.startswith(_OF_THE_SERVER) or error.connection_invalidated:
        raise error
    return f"could not be deleted: {str(error.orig).splitlines()[0]} (SQLSTATE {sqlstate})"


@dataclass(frozen=True)
class Pace:
    """How fast rows may be deleted. Raises PermanentError for a value out of its range.

    The options of `metrics-pipeline retention` and the fields of the launchpad are made from these fields.
    """

    batch_rows: int = field(
        default=10_000,
        metadata={"description": "Rows per DELETE, about; a day is one transaction of many.", "range": (1, 1_000_000)},
    )
    pause_ms: int = field(
        default=1_000,
        metadata={"description": "Milliseconds of pause per second of work, between two days.", "range": (0, 60_000)},
    )
    time_budget_minutes: int = field(
        default=60,
        metadata={"description": "Minutes after which no further day is begun.", "range": (1, 24 * 60)},
    )

    def __post_init__(self) -> None:
        for limit in fields(self):
            value = getattr(self, limit.name)
            least, most = limit.metadata["range"]
            if not least <= value <= most:
                raise PermanentError(f"{limit.name} is {value}. Choose a number from {least} to {most:,}.")


class RetentionConnection:
    """One connection for short transactions, each in one snapshot.

    faults: the errors that ended a part of the work while the rest was done.
    """

    def __init__(self, connection: Connection) -> None:
        self.faults: list[DBAPIError] = []
        self._connection = connection.execution_options(isolation_level="REPEATABLE READ")

    def transaction(self, work: Callable[[Connection], _Result]) -> _Result:
        """Runs `work`, whose first statement that needs a snapshot takes it."""
        with self._connection.begin():
            self._connection.exec_driver_sql(_SETTINGS)
            return work(self._connection)

    def attempt(self, work: Callable[[], None]) -> None:
        """Does a part of the run's work. A fault that leaves the other parts possible is kept for the run's end."""
        try:
            work()
        except DBAPIError as error:
            why_not(error)
            self.faults.append(error)
