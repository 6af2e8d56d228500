"""Comparing the logs of a day that stand with those that were aggregated, and sealing the day if they are the same."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import partial
from zoneinfo import ZoneInfo

from sqlalchemy import Connection, text

from metrics_pipeline.logs.contract import UpstreamContract
from metrics_pipeline.logs.log_columns import FINGERPRINT_KINDS, fingerprint_columns, log_columns
from metrics_pipeline.metrics.fingerprint import FingerprintKind, SourceFingerprint
from metrics_pipeline.metrics.reconciliation import LedgerRow
from metrics_pipeline.metrics.retention import UNSETTLED, PruningProgress, StandingLogs, reason_to_hold_back
from metrics_pipeline.metrics.windows import DayWindow, day_window
from metrics_pipeline.retention.pace import PacedConnection
from metrics_pipeline.retention.partitions import SourceTable
from metrics_pipeline.retention.transaction_ids import OLDEST_OPEN, WRITER
from metrics_pipeline.store.ledger import ledger_rows
from metrics_pipeline.store.publishing import lock_day

#: Reading a day of ten million logs takes ten seconds; nobody waits for it but publishers of that day.
VERIFICATION_TIMEOUT_MS = 15 * 60_000
# Logs of a month ago were written long ago, so only freshly loaded ones make anybody wait.
_SETTLING_SECONDS = 30.0
_EARLIEST = date(1900, 1, 1)

#: The table itself, all its partitions included.
ALL_LOGS = SourceTable("agent_execution_logs")

_NEXT_LOG = """
SELECT min("timestamp") FROM {leaf} WHERE "timestamp" >= :after AND "timestamp" < :before"""

_OLDEST_OPEN = text(f"SELECT {OLDEST_OPEN}")

_STANDING = f"""
SELECT writer < :verified_before AS is_verifiable, {{fingerprint}}
FROM (
    SELECT {WRITER} AS writer, {{log_columns}}
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
SELECT metric_date, :verified_before, :nothing FROM sealed
ON CONFLICT (metric_date) DO UPDATE
    SET verified_before = EXCLUDED.verified_before, pruned_fingerprint = EXCLUDED.pruned_fingerprint""")

_SEAL_ANEW = text("""
UPDATE metric_day_pruning SET verified_before = :verified_before
WHERE metric_date = :metric_date AND verified_before <> :verified_before""")


@dataclass(frozen=True)
class ExaminedDay:
    """A day with logs, at the moment when it was looked at.

    reason: why no log of it may be deleted; None if the verifiable ones may.
    verified_before: logs written by transactions before this one are the verifiable ones.
    is_sealed: the ledger had it sealed before.
    kind: that of the fingerprints by which its logs are verified.
    """

    window: DayWindow
    standing: StandingLogs
    reason: str | None
    verified_before: int
    is_sealed: bool
    kind: FingerprintKind

    @property
    def metric_date(self) -> date:
        """The day."""
        return self.window.metric_date


def days_with_logs(
    connection: Connection, leaf: SourceTable, contract: UpstreamContract, time_zone: str, before: date
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
        window = day_window(instant.astimezone(ZoneInfo(time_zone)).date(), time_zone)
        if window.end <= instant:
            # Clocks that go back over midnight show the day before again after the new one has begun.
            window = day_window(window.metric_date + timedelta(days=1), time_zone)
        days.append(window.metric_date)
        after = window.end


def examine(paced: PacedConnection, contract: UpstreamContract, window: DayWindow, *, is_patient: bool) -> ExaminedDay:
    """Looks at the day's logs and at what is stored of it. Writes nothing, and waits as `seal` does."""
    return _when_settled(paced, partial(_examine, contract=contract, window=window), is_patient=is_patient)


def seal(paced: PacedConnection, contract: UpstreamContract, window: DayWindow, *, is_patient: bool) -> ExaminedDay:
    """Examines the day and, if its logs may go, marks it as sealed in the ledger, in one transaction.

    From then on nobody aggregates it again. If `is_patient`, a day whose logs were written only just now is looked at
    again for some seconds, until older transactions have ended and its logs can be verified.
    """

    def examine_and_seal(connection: Connection) -> ExaminedDay:
        lock_day(connection, window)
        examined = _examine(connection, contract, window)
        if examined.reason is None:
            parameters = {"metric_date": window.metric_date, "verified_before": examined.verified_before}
            nothing = SourceFingerprint.of_no_logs(examined.kind)
            if examined.is_sealed:
                connection.execute(_SEAL_ANEW, parameters)
            else:
                connection.execute(_SEAL, {**parameters, "nothing": nothing.to_text()})
        return examined

    return _when_settled(paced, examine_and_seal, is_patient=is_patient)


def standing_logs(
    connection: Connection,
    contract: UpstreamContract,
    leaf: SourceTable,
    window: DayWindow,
    verified_before: int,
    kind: FingerprintKind,
) -> StandingLogs:
    """The logs of the window in the table, by fingerprints of `kind`.

    Verifiable are those that transactions before `verified_before` wrote.
    """
    nothing = SourceFingerprint.of_no_logs(kind)
    parts = {True: nothing, False: nothing}
    parameters = {"verified_before": verified_before, **contract.bounds(window)}
    statement = leaf.sql(
        _STANDING.replace("{log_columns}", log_columns(contract)).replace("{fingerprint}", fingerprint_columns(kind))
    )
    for row in map(dict, connection.execute(statement, parameters).mappings()):
        is_verifiable = row.pop("is_verifiable")
        parts[is_verifiable] = SourceFingerprint.of(row, kind)
    return StandingLogs(verifiable=parts[True], later=parts[False])


def verification_kind(stored: LedgerRow | None) -> FingerprintKind:
    """The kind of fingerprint that the day was stored with; the present one if that cannot be computed any more."""
    if stored is not None and stored.source_fingerprint.kind in FINGERPRINT_KINDS:
        return stored.source_fingerprint.kind
    return FINGERPRINT_KINDS[0]


def read_progress(connection: Connection, metric_date: date) -> PruningProgress | None:
    """How far the day is pruned; None unless it is sealed and not pruned to its end."""
    row = connection.execute(_PROGRESS, {"metric_date": metric_date}).one_or_none()
    if row is None:
        return None
    return PruningProgress(row.verified_before, SourceFingerprint.from_text(row.pruned_fingerprint))


def _when_settled(
    paced: PacedConnection, look: Callable[[Connection], ExaminedDay], *, is_patient: bool
) -> ExaminedDay:
    patience = time.monotonic() + (_SETTLING_SECONDS if is_patient else 0)
    while True:
        examined = paced.transaction(look, statement_timeout_ms=VERIFICATION_TIMEOUT_MS)
        if examined.reason != UNSETTLED or time.monotonic() >= patience:
            return examined
        time.sleep(0.5)


def _examine(connection: Connection, contract: UpstreamContract, window: DayWindow) -> ExaminedDay:
    day = window.metric_date
    stored = ledger_rows(connection, day, day).get(day)
    is_sealed = stored is not None and stored.is_sealed
    kind = verification_kind(stored)
    progress = read_progress(connection, day) if is_sealed else None
    overlapping = _overlapping(connection, window)

    def look(verified_before: int) -> ExaminedDay:
        standing = standing_logs(connection, contract, ALL_LOGS, window, verified_before, kind)
        reason = reason_to_hold_back(standing, stored, progress, time_zone=window.time_zone, overlapping=overlapping)
        return ExaminedDay(window, standing, reason, verified_before, is_sealed, kind)

    oldest_open = connection.execute(_OLDEST_OPEN).scalar_one()
    if progress is None:
        return look(oldest_open)
    # A database that was restored counts its transactions anew, so the limit of the seal may lie in the future and let
    # pass what is yet to come, or lie before all rows. Then the day is verified once more with the limit of today.
    examined = look(min(progress.verified_before, oldest_open))
    return look(oldest_open) if examined.reason == UNSETTLED else examined


def _overlapping(connection: Connection, window: DayWindow) -> date | None:
    parameters = {
        "metric_date": window.metric_date,
        "time_zone": window.time_zone,
        "start": window.start,
        "end": window.end,
    }
    day: date | None = connection.execute(_OVERLAPPING, parameters).scalar_one_or_none()
    return day
