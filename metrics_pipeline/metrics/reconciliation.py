"""Which days of a window need a run, and why: stored days against the logs that stand there now."""

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from datetime import date, datetime
from enum import StrEnum

from metrics_pipeline.metrics.fingerprint import SourceFingerprint
from metrics_pipeline.metrics.schema import DEFINITION_VERSION


class DayState(StrEnum):
    """What is to be said of a day. Only MISSING and DIRTY days need a run."""

    FINE = "fine"
    MISSING = "missing"
    DIRTY = "dirty"
    SEALED = "sealed"
    RUNNING = "running"
    OTHER_ZONE = "other zone"


@dataclass(frozen=True)
class StoredDay:
    """The ledger's row of a day, as far as it decides the day's state."""

    time_zone: str
    source_fingerprint: SourceFingerprint
    definition_version: str
    aggregated_at: datetime
    raw_pruned_at: datetime | None


@dataclass(frozen=True)
class DayVerdict:
    """A day's state, and why.

    is_outdated: stored under an older definition of the metrics; such a day is aggregated again only on request.
    fingerprint: identifies this state of the day. It changes with the logs and with each time the day is stored.
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


def reconcile(
    days: Iterable[date],
    *,
    time_zone: str,
    stored: Mapping[date, StoredDay],
    present: Mapping[date, SourceFingerprint],
    running: Set[date],
) -> list[DayVerdict]:
    """One verdict per day, in the order of `days`.

    stored: the ledger; a day that is not in it was never aggregated, or cleared. present: the fingerprint of each day's
    logs; a day that is not in it has none. running: the days that a run is about to write.
    """
    verdicts = []
    for day in days:
        logs = present.get(day, SourceFingerprint.of_no_logs())
        state, reason = _state(day, time_zone, stored.get(day), logs, running)
        is_outdated = day in stored and stored[day].definition_version != DEFINITION_VERSION
        stored_at = stored[day].aggregated_at.isoformat() if day in stored else "never"
        verdicts.append(DayVerdict(day, state, reason, is_outdated, logs.digest(stored_at)))
    return verdicts


def _state(
    day: date, time_zone: str, stored: StoredDay | None, logs: SourceFingerprint, running: Set[date]
) -> tuple[DayState, str]:
    if day in running:
        return DayState.RUNNING, "a run is writing it"
    if stored is None:
        return DayState.MISSING, f"never aggregated, {logs.logs} logs"
    if stored.raw_pruned_at is not None:
        late = f", {logs.logs} logs have arrived since or were left" if logs.logs else ""
        return DayState.SEALED, f"raw logs pruned {stored.raw_pruned_at:%Y-%m-%d}{late}"
    if stored.time_zone != time_zone:
        return DayState.OTHER_ZONE, f"stored as a day of {stored.time_zone}"
    differences = stored.source_fingerprint.differences(logs)
    if differences:
        return DayState.DIRTY, ", ".join(differences)
    return DayState.FINE, "equal to its logs"
