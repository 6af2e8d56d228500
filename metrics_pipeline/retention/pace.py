"""How gently rows are deleted: short transactions with time limits, pauses between them, and an end to a run."""

from collections.abc import Callable
from dataclasses import dataclass, field
from time import monotonic, sleep
from typing import TypeVar

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from metrics_pipeline.errors import PermanentError

_Result = TypeVar("_Result")

#: Serialisation failure, deadlock, lock not available.
_PASSING = ("40001", "40P01", "55P03")
_ATTEMPTS = 6
_FIRST_WAIT_SECONDS = 0.25

_LIMITS = text("""
SELECT set_config('lock_timeout', :lock, true), set_config('statement_timeout', :statement, true)""")
_LOCK_TIMEOUT_MS = 2_000
_STATEMENT_TIMEOUT_MS = 60_000


def is_in_the_way(error: DBAPIError) -> bool:
    """Whether a lock or another transaction made a statement fail, and nothing else."""
    return getattr(error.orig, "sqlstate", None) in _PASSING


class OutOfTimeError(Exception):
    """The run's time budget is used up; what is left is the next run's. Never leaves the package."""


@dataclass(frozen=True)
class Pace:
    """How fast rows may go.

    batch_rows: rows per transaction. pause_ms: between two transactions. time_budget_minutes: of a whole run.
    Raises PermanentError for a value out of its range.
    """

    batch_rows: int = 10_000
    pause_ms: int = 100
    time_budget_minutes: int = 60

    def __post_init__(self) -> None:
        ranges = {"batch_rows": (1, 1_000_000), "pause_ms": (0, 60_000), "time_budget_minutes": (1, 24 * 60)}
        for name, (least, most) in ranges.items():
            if not least <= getattr(self, name) <= most:
                raise PermanentError(f"{name} is {getattr(self, name)}. Choose a number from {least} to {most:,}.")


@dataclass
class PacedConnection:
    """One connection on which transactions run at the given pace."""

    connection: Connection
    pace: Pace
    _started: float = field(default_factory=monotonic)

    def transaction(
        self,
        work: Callable[[Connection], _Result],
        *,
        lock_timeout_ms: int = _LOCK_TIMEOUT_MS,
        statement_timeout_ms: int = _STATEMENT_TIMEOUT_MS,
    ) -> _Result:
        """Runs `work` as one transaction, again up to five times when a lock or another transaction is in the way.

        Raises OutOfTimeError, with nothing done, when the time budget is used up.
        """
        if monotonic() - self._started > self.pace.time_budget_minutes * 60:
            raise OutOfTimeError
        limits = {"lock": str(lock_timeout_ms), "statement": str(statement_timeout_ms)}
        for attempt in range(_ATTEMPTS):
            if attempt:
                sleep(_FIRST_WAIT_SECONDS * 2 ** (attempt - 1))
            try:
                with self.connection.begin():
                    self.connection.execute(_LIMITS, limits)
                    return work(self.connection)
            except DBAPIError as error:
                if not is_in_the_way(error) or attempt == _ATTEMPTS - 1:
                    raise
        raise AssertionError("unreachable")

    def pause(self) -> None:
        """Lets others work."""
        sleep(self.pace.pause_ms / 1000)
