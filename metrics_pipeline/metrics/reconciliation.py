"""Which days need a run, and why: the ledger's rows against the logs as they are now."""

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from datetime import date, datetime
from enum import StrEnum

from metrics_pipeline.metrics.catalog import DEFINITION_VERSION
from metrics_pipeline.metrics.fingerprint import SourceFingerprint


class DayState(StrEnum):
    """The state of a day, under the name that commands, checks, API and gauges share.

    Only MISSING and DIRTY days need a run.
    """

    AGGREGATED = "aggregated"
    NO_ACTIVITY = "no_activity"
    MISSING = "missing"
    DIRTY = "dirty"
    SEALED = "sealed"
    RUNNING = "running"
    OTHER_ZONE = "other_zone"

    @property
    def words(self) -> str:
        """The name in messages."""
        return self.value.replace("_", " ")


#: What each state means.
STATE_MEANINGS = {
    DayState.AGGREGATED: "its metrics equal its logs",
    DayState.NO_ACTIVITY: "its metrics equal its logs, and there is not one log",
    DayState.MISSING: "never aggregated",
    DayState.DIRTY: "its logs have changed since: a late one, a correction, a deletion",
    DayState.SEALED: "its raw logs were pruned, its metrics are final",
    DayState.RUNNING: "a run is about to write it",
    DayState.OTHER_ZONE: "stored as a day of another METRICS_TIME_ZONE",
}


@dataclass(frozen=True)
class LedgerRow:
    """A row of metric_day_ledger.

    version: the row's xmin, which changes with every write, whatever the clocks say.
    """

    metric_date: date
    time_zone: str
    window_start: datetime
    window_end: datetime
    source_logs: int
    aggregated_logs: int
    skipped_logs: int
    agents: int
    source_fingerprint: SourceFingerprint
    definition_version: str
    snapshot_at: datetime
    aggregated_at: datetime
    run_id: str
    raw_pruned_at: datetime | None
    raw_pruned_logs: int | None
    version: str

    @property
    def is_sealed(self) -> bool:
        """Whether raw logs of the day were pruned."""
        return self.raw_pruned_at is not None


@dataclass(frozen=True)
class Closed:
    """Why a day must not be aggregated again: SEALED or OTHER_ZONE, and a sentence with what to do."""

    state: DayState
    reason: str


@dataclass(frozen=True)
class DayVerdict:
    """A day's state, and why.

    is_outdated: stored under an older definition of the metrics, or with a fingerprint that cannot be compared any
    more; such a day is aggregated again only on request.
    fingerprint: identifies this state of the day. It changes with the logs, and each time the day is stored.
    """

    metric_date: date
    state: DayState
    reason: str
    is_outdated: bool
    fingerprint: str

    @property
    def needs_run(self) -> bool:
        """Whether the day is unfinished."""
        return self.state in (DayState.MISSING, DayState.DIRTY)


def why_closed(stored: LedgerRow, time_zone: str) -> Closed | None:
    """Why the day must not be aggregated again under METRICS_TIME_ZONE `time_zone`; None if it may."""
    day = stored.metric_date
    if stored.raw_pruned_at is not None:
        return Closed(
            DayState.SEALED,
            f"{day} is sealed: {stored.raw_pruned_logs} of its raw logs were pruned at "
            f"{stored.raw_pruned_at:%Y-%m-%d %H:%M}Z, so its metrics can no longer be computed. "
            "The stored metrics stay as they are.",
        )
    if stored.time_zone != time_zone:
        return Closed(
            DayState.OTHER_ZONE,
            f"{day} is stored as a day of {stored.time_zone}, and METRICS_TIME_ZONE is now {time_zone}. Set "
            f"METRICS_TIME_ZONE back, or, to recompute the day as one of {time_zone}, clear it first: "
            f"DELETE FROM metric_day_ledger WHERE metric_date = '{day}'.",
        )
    return None


def is_finished(stored: LedgerRow, present: SourceFingerprint) -> bool:
    """Whether the day is stored under the present definition and aggregating the present logs would change nothing."""
    if stored.is_sealed:
        return stored.definition_version == DEFINITION_VERSION
    return stored.definition_version == DEFINITION_VERSION and stored.source_fingerprint.equals(present)


def reconcile(
    days: Iterable[date],
    *,
    time_zone: str,
    stored: Mapping[date, LedgerRow],
    present: Mapping[date, SourceFingerprint],
    running: Set[date],
) -> list[DayVerdict]:
    """One verdict per day, in the order of `days`.

    stored: the ledger; a day that is not in it was never aggregated, or was cleared. present: the fingerprint of each
    day's logs, of the kind that the day was stored with if that can still be computed. running: the days that a run is
    about to write.
    """
    verdicts = []
    for day in days:
        row, logs = stored.get(day), present[day]
        state, reason = _state(day, time_zone, row, logs, running)
        is_outdated = row is not None and (
            row.definition_version != DEFINITION_VERSION or row.source_fingerprint.kind != logs.kind
        )
        stored_at = row.aggregated_at.isoformat() if row is not None else "never"
        verdicts.append(DayVerdict(day, state, reason, is_outdated, logs.digest(stored_at)))
    return verdicts


def _state(
    day: date, time_zone: str, stored: LedgerRow | None, logs: SourceFingerprint, running: Set[date]
) -> tuple[DayState, str]:
    if day in running:
        return DayState.RUNNING, "a run is writing it"
    if stored is None:
        return DayState.MISSING, f"never aggregated, {logs.logs} logs"
    closed = why_closed(stored, time_zone)
    if closed is not None and stored.raw_pruned_at is not None:
        late = f", {logs.logs} logs have arrived since or were left" if logs.logs else ""
        return closed.state, f"raw logs pruned {stored.raw_pruned_at:%Y-%m-%d}{late}"
    if closed is not None:
        return closed.state, f"stored as a day of {stored.time_zone}"
    if stored.source_fingerprint.kind != logs.kind:
        engine, version = stored.source_fingerprint.kind
        return DayState.AGGREGATED, f"not compared: its fingerprint is version {version} of {engine}"
    differences = stored.source_fingerprint.differences(logs)
    if differences:
        return DayState.DIRTY, ", ".join(differences)
    return (DayState.AGGREGATED if logs.logs else DayState.NO_ACTIVITY), "equal to its logs"
