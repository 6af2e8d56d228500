"""How gently rows are deleted: short transactions with time limits, pauses between them, and an end to a run."""

from collections.abc import Callable
from dataclasses import dataclass, field, fields
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
    """How fast rows may be deleted. Raises PermanentError for a value out of its range.

    The options of `metrics-pipeline retention` and the fields of the launchpad are made from these fields.
    """

    batch_rows: int = field(default=10_000, metadata={"description": "Rows per transaction.", "range": (1, 1_000_000)})
    pause_ms: int = field(
        default=100, metadata={"description": "Milliseconds between two transactions.", "range": (0, 60_000)}
    )
    time_budget_minutes: int = field(
        default=60,
        metadata={"description": "Minutes after which the run ends; the next run continues.", "range": (1, 24 * 60)},
    )

    def __post_init__(self) -> None:
        for limit in fields(self):
            value = getattr(self, limit.name)
            least, most = limit.metadata["range"]
            if not least <= value <= most:
                raise PermanentError(f"{limit.name} is {value}. Choose a number from {least} to {most:,}.")


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
