"""How gently rows are deleted: transactions with time limits, pauses between them, and an end to a run."""

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from time import monotonic, sleep
from typing import TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from metrics_pipeline.errors import PermanentError

_Result = TypeVar("_Result")

#: Called with a sentence on what was just done, never inside a transaction.
OnProgress = Callable[[str], None]

# Serialization failure, deadlock, lock not available.
_PASSING = ("40001", "40P01", "55P03")
_ATTEMPTS = 4
_FIRST_WAIT_SECONDS = 0.5
_LOCK_TIMEOUT_MS = 2_000
# Verifying a day of ten million logs takes ten seconds.
_STATEMENT_TIMEOUT_MS = 15 * 60_000
_LONGEST_PAUSE_SECONDS = 60.0

# What concerns the connection or the whole server: connection lost, resources, shutdown, input and output, internal.
_OF_THE_SERVER = ("08", "53", "57P", "58", "XX")


def concerns_one_statement(error: DBAPIError) -> bool:
    """Whether the server refused a statement for the tables it touches, so that other work can still be done."""
    sqlstate: str | None = getattr(error.orig, "sqlstate", None)
    return sqlstate is not None and not sqlstate.startswith(_OF_THE_SERVER) and not error.connection_invalidated


def server_words(error: DBAPIError) -> str:
    """What the server said, with the SQLSTATE."""
    return f"{str(error.orig).splitlines()[0]} (SQLSTATE {getattr(error.orig, 'sqlstate', None)})"


class OutOfTimeError(Exception):
    """The run's time budget is used up; what is left is the next run's. Never leaves the package."""


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
        metadata={
            "description": "Minutes after which no further day of logs is begun; the next run continues.",
            "range": (1, 24 * 60),
        },
    )

    def __post_init__(self) -> None:
        for limit in fields(self):
            value = getattr(self, limit.name)
            least, most = limit.metadata["range"]
            if not least <= value <= most:
                raise PermanentError(f"{limit.name} is {value}. Choose a number from {least} to {most:,}.")


@dataclass
class PacedConnection:
    """One connection on which transactions run at the given pace.

    faults: the errors that ended a part of the work while the rest was done.
    """

    connection: Connection
    pace: Pace
    faults: list[Exception] = field(default_factory=list)
    _started: float = field(default_factory=monotonic)
    _worked_seconds: float = 0.0

    def transaction(
        self,
        work: Callable[[Connection], _Result],
        *,
        in_one_snapshot: bool = False,
        lock_timeout_ms: int | None = None,
    ) -> _Result:
        """Runs `work` as one transaction, again up to three times when a lock or another transaction is in the way.

        in_one_snapshot: REPEATABLE READ; the snapshot is not taken before the first statement of `work` that needs one.
        """
        # SET takes no snapshot, while SELECT set_config() does.
        settings = f"SET LOCAL lock_timeout = {lock_timeout_ms or _LOCK_TIMEOUT_MS}; "
        settings += f"SET LOCAL statement_timeout = {_STATEMENT_TIMEOUT_MS}"
        if in_one_snapshot:
            settings = f"SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; {settings}"
        for attempt in range(_ATTEMPTS):
            if attempt:
                sleep(_FIRST_WAIT_SECONDS * 2 ** (attempt - 1))
            started = monotonic()
            try:
                with self.connection.begin():
                    self.connection.exec_driver_sql(settings)
                    return work(self.connection)
            except DBAPIError as error:
                if getattr(error.orig, "sqlstate", None) not in _PASSING or attempt == _ATTEMPTS - 1:
                    raise
            finally:
                self._worked_seconds += monotonic() - started
        raise AssertionError("unreachable")

    def attempt(self, work: Callable[[], None]) -> None:
        """Does a part of the run's work. A fault that leaves the other parts possible is kept for the run's end."""
        try:
            work()
        except PermanentError as error:
            self.faults.append(error)
        except DBAPIError as error:
            if not concerns_one_statement(error):
                raise
            self.faults.append(error)

    def check_time(self) -> None:
        """Raises OutOfTimeError when the time budget is used up."""
        if monotonic() - self._started > self.pace.time_budget_minutes * 60:
            raise OutOfTimeError

    def pause(self) -> None:
        """Lets others work, in proportion to the time worked since the last pause."""
        sleep(min(self._worked_seconds * self.pace.pause_ms / 1000, _LONGEST_PAUSE_SECONDS))
        self._worked_seconds = 0.0
