"""Comparing the logs of a day that stand with those that were aggregated, and sealing the day if they are the same."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from functools import partial
from zoneinfo import ZoneInfo

from sqlalchemy import Connection, text

from metrics_pipeline.metrics.fingerprint import SourceFingerprint
from metrics_pipeline.metrics.retention import UNSETTLED, PruningProgress, StandingLogs, reason_to_hold_back
from metrics_pipeline.metrics.windows import DayWindow, day_window
from metrics_pipeline.storage.contract import UpstreamContract
from metrics_pipeline.storage.ledger import stored_days
from metrics_pipeline.storage.log_columns import FINGERPRINT, FINGERPRINT_INPUT
from metrics_pipeline.storage.pruning.pace import PacedConnection
from metrics_pipeline.storage.pruning.partitions import Leaf
from metrics_pipeline.storage.pruning.transaction_ids import OLDEST_OPEN, WRITER
from metrics_pipeline.storage.publishing import lock_day

#: Reading a day of ten million logs takes ten seconds; nobody waits for it but publishers of that day.
VERIFICATION_TIMEOUT_MS = 15 * 60_000
# Logs of a month ago were written long ago, so only freshly loaded ones make anybody wait.
_SETTLING_SECONDS = 30.0
_EARLIEST = date(1900, 1, 1)

#: The table itself, all its partitions included.
ALL_LOGS = Leaf("agent_execution_logs", is_droppable=False)

_NEXT_LOG = """
SELECT min("timestamp") FROM {leaf} WHERE "timestamp" >= :after AND "timestamp" < :before"""

_STANDING = f"""
SELECT writer < coalesce(CAST(:verified_before AS bigint), {OLDEST_OPEN}) AS is_verifiable,
       {OLDEST_OPEN} AS oldest_open, {FINGERPRINT}
FROM (
    SELECT {WRITER} AS writer, {FINGERPRINT_INPUT}
    FROM {{leaf}}
    WHERE "timestamp" >= :start AND "timestamp" < :end
    OFFSET 0
) AS log
GROUP BY 1"""

_PROGRESS = text("SELECT verified_before, pruned_fingerprint FROM metric_day_pruning WHERE metric_date = :metric_date")

_OVERLAPPING = text("""
SELECT metric_date FROM metric_day_ledger
WHERE metric_date <> :metric_date AND raw_pruned_at IS NULL AND time_zone <> :time_zone
  AND window_start < :end AND window_end > :start
LIMIT 1""")

_SEAL = text("""
WITH sealed AS (
    UPDATE metric_day_ledger SET raw_pruned_at = now(), raw_pruned_logs = 0 WHERE metric_date = :metric_date
    RETURNING metric_date
)
INSERT INTO metric_day_pruning (metric_date, verified_before, pruned_fingerprint)
SELECT metric_date, :verified_before, :nothing FROM sealed""")


@dataclass(frozen=True)
class ExaminedDay:
    """A day with logs, at the moment when it was looked at.

    reason: why no log of it may be deleted; None if the verifiable ones may.
    verified_before: logs written by transactions before this one are the verifiable ones.
    is_sealed: the ledger had it sealed before.
    """

    window: DayWindow
    standing: StandingLogs
    reason: str | None
    verified_before: int
    is_sealed: bool

    @property
    def metric_date(self) -> date:
        """The day."""
        return self.window.metric_date


def days_with_logs(
    connection: Connection, leaf: Leaf, contract: UpstreamContract, time_zone: str, before: date
) -> list[date]:
    """The days that have logs in the table, oldest first, by one look into the index for each."""
    after = day_window(_EARLIEST, time_zone).start
    end = day_window(before, time_zone).start
    days: list[date] = []
    while True:
        bounds = {"after": contract.instant(after), "before": contract.instant(end)}
        moment: datetime | None = connection.execute(leaf.sql(_NEXT_LOG), bounds).scalar_one()
        if moment is None:
            return days
        instant = moment.replace(tzinfo=UTC) if contract.timestamp_is_naive else moment
        days.append(instant.astimezone(ZoneInfo(time_zone)).date())
        after = day_window(days[-1], time_zone).end


def examine(paced: PacedConnection, contract: UpstreamContract, window: DayWindow) -> ExaminedDay:
    """Looks at the day's logs and at what is stored of it. Writes nothing, and waits as `seal` does."""
    return _when_settled(paced, partial(_examine, contract=contract, window=window))


def seal(paced: PacedConnection, contract: UpstreamContract, window: DayWindow) -> ExaminedDay:
    """Examines the day and, if its logs may go, marks it as sealed in the ledger, in one transaction.

    From then on nobody aggregates it again. A day whose logs were written only just now is looked at again for some
    seconds, until older transactions have ended and its logs can be verified.
    """

    def examine_and_seal(connection: Connection) -> ExaminedDay:
        lock_day(connection, window)
        examined = _examine(connection, contract, window)
        if examined.reason is None and not examined.is_sealed:
            connection.execute(
                _SEAL,
                {
                    "metric_date": window.metric_date,
                    "verified_before": examined.verified_before,
                    "nothing": SourceFingerprint.of_no_logs().to_text(),
                },
            )
        return examined

    return _when_settled(paced, examine_and_seal)


def standing_logs(
    connection: Connection, contract: UpstreamContract, leaf: Leaf, window: DayWindow, verified_before: int | None
) -> tuple[StandingLogs, int]:
    """The logs of the window in the table, and the oldest transaction that was open when they were read.

    verified_before: None takes that very transaction as the limit of what can be verified.
    """
    nothing = SourceFingerprint.of_no_logs()
    parts = {True: nothing, False: nothing}
    oldest_open = 0
    parameters = {
        "verified_before": verified_before,
        "start": contract.instant(window.start),
        "end": contract.instant(window.end),
    }
    for row in map(dict, connection.execute(leaf.sql(_STANDING), parameters).mappings()):
        oldest_open = row.pop("oldest_open")
        is_verifiable = row.pop("is_verifiable")
        parts[is_verifiable] = SourceFingerprint(**{name: int(value) for name, value in row.items()})
    return StandingLogs(verifiable=parts[True], later=parts[False]), oldest_open


def read_progress(connection: Connection, metric_date: date) -> PruningProgress | None:
    """How far the day is pruned; None unless it is sealed and not pruned to its end."""
    row = connection.execute(_PROGRESS, {"metric_date": metric_date}).one_or_none()
    if row is None:
        return None
    return PruningProgress(row.verified_before, SourceFingerprint.from_text(row.pruned_fingerprint))


def _when_settled(paced: PacedConnection, look: Callable[[Connection], ExaminedDay]) -> ExaminedDay:
    patience = time.monotonic() + _SETTLING_SECONDS
    while True:
        examined = paced.transaction(look, statement_timeout_ms=VERIFICATION_TIMEOUT_MS)
        if examined.reason != UNSETTLED or time.monotonic() > patience:
            return examined
        time.sleep(0.5)


def _examine(connection: Connection, contract: UpstreamContract, window: DayWindow) -> ExaminedDay:
    day = window.metric_date
    stored = stored_days(connection, day, day).get(day)
    progress = read_progress(connection, day)
    standing, oldest_open = standing_logs(
        connection, contract, ALL_LOGS, window, progress.verified_before if progress else None
    )
    reason = reason_to_hold_back(
        standing, stored, progress, time_zone=window.time_zone, overlapping=_overlapping(connection, window)
    )
    return ExaminedDay(
        window,
        standing,
        reason,
        verified_before=progress.verified_before if progress else oldest_open,
        is_sealed=stored is not None and stored.raw_pruned_at is not None,
    )


def _overlapping(connection: Connection, window: DayWindow) -> date | None:
    parameters = {
        "metric_date": window.metric_date,
        "time_zone": window.time_zone,
        "start": window.start,
        "end": window.end,
    }
    day: date | None = connection.execute(_OVERLAPPING, parameters).scalar_one_or_none()
    return day
