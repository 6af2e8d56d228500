"""Looks at the logs of days as cheaply as their source allows, and records what it finds.

A day is read in full only if nothing cheaper tells that its logs are those of the last reading. The cheaper evidence,
from the strongest to the weakest, is JudgedBy.
"""

import time
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta

from sqlalchemy import Connection, text

from metrics_pipeline.errors import TransientError
from metrics_pipeline.logs.source import LogSource
from metrics_pipeline.metrics.reconciliation import may_have_shrunk, what_is_gone
from metrics_pipeline.metrics.verification import JudgedBy, Mark, Unreadable, Verification, only_added, tells_of_day
from metrics_pipeline.metrics.windows import DayWindow, day_window
from metrics_pipeline.pipeline.reconciling import present_fingerprints
from metrics_pipeline.postgres.database import Database
from metrics_pipeline.store.ledger import ledger_rows
from metrics_pipeline.store.reads import executions_by_agent
from metrics_pipeline.store.verifications import record_verifications, verifications

#: Where nothing but a count tells that days are unchanged, and all counts are, the newest days are read in full: most
#: logs that are corrected in place are young.
_RECENT = 2

_NOW = text("SELECT now()")


@dataclass(frozen=True)
class Effort:
    """How thoroughly to look.

    is_full: read every day, whatever cheaper evidence says. trusted_for: of a day that only a count could confirm,
    believe what was found or confirmed less than this ago. seconds: read one day after the other, begin no further one
    after this time, count for at most half of it, and leave a day that cannot be read; None to go on to the end, or to
    the first error.
    """

    is_full: bool = False
    trusted_for: timedelta = timedelta(0)
    seconds: float | None = None


#: Every day, with as much effort as its source asks for.
USUAL_EFFORT = Effort()


@dataclass(frozen=True)
class Found:
    """What is known of the logs of days now.

    by_day: the days that were looked at. left: those that were not, or were counted where they should have been read,
    because the time was over or for the reason `why`.
    """

    by_day: Mapping[date, Verification]
    left: Sequence[date]
    why: str


def look_at_days(
    database: Database,
    logs: LogSource,
    days: Sequence[date],
    time_zone: str,
    effort: Effort,
    *,
    running: Set[date] = frozenset(),
) -> Found:
    """Looks at the logs of `days`, which are sorted, except those in `running`, which a run is about to write.

    Raises PermanentError, and TransientError unless the effort is limited in time. Then the smallest day is read first,
    so that one that is too large for the time costs no other; days that were never stored come last, because they are
    known to be missing without their logs.
    """
    windows = {day: day_window(day, time_zone) for day in days if day not in running}
    look = _Look(database, logs, windows, effort)
    look.take()
    return Found(look.found, [day for day in windows if day in look.unread or day not in look.found], look.why)


def record(database: Database, found: Found) -> None:
    """Records what was found, for the next look and for readers who do not look themselves."""
    with database.begin() as connection:
        record_verifications(connection, found.by_day.values())


class _Look:
    """One look at some days. What it has found before an error is kept in `found`; `unread` could not be read."""

    def __init__(self, database: Database, logs: LogSource, windows: Mapping[date, DayWindow], effort: Effort) -> None:
        self.found: dict[date, Verification] = {}
        self.unread: set[date] = set()
        self.why = ""
        self._database = database
        self._logs = logs
        self._windows = windows
        self._effort = effort
        self._began_at = time.monotonic()
        self._known: dict[date, Verification] = {}
        self._marks: Mapping[date, Mark] = {}
        self._stored_logs: dict[date, int] = {}

    def take(self) -> None:
        if not self._windows:
            return
        with self._leaving_errors():
            unchanged, now = self._cheap_evidence()
            to_read: list[date] = []
            to_count: list[date] = []
            for day in reversed([*self._windows]):
                known = self._known.get(day)
                if known is None or self._effort.is_full:
                    to_read.append(day)
                elif day in unchanged:
                    self.found[day] = replace(known, confirmed_at=now, judged_by=unchanged[day])
                elif tells_of_day(self._marks.get(day)) or tells_of_day(known.mark):
                    # The latter: what could tell whether it changed since can do so no longer.
                    to_read.append(day)
                elif timedelta(0) <= now - known.confirmed_at < self._effort.trusted_for:
                    self.found[day] = known
                elif isinstance(known.present, Unreadable):
                    to_read.append(day)
                else:
                    to_count.append(day)
            changed = self._count(to_count, now)
            self._read([*to_read, *changed])
            if not changed:
                newest = [*self._windows][-_RECENT:]
                in_doubt = {day for day, known in self.found.items() if known.judged_by is JudgedBy.COUNT}
                self._read([day for day in to_count if day in newest and day in in_doubt], is_urgent=False)

    @contextmanager
    def _leaving_errors(self) -> Iterator[None]:
        """Ends the block at an error that may pass, if the effort is limited in time. The first one is kept."""
        try:
            yield
        except TransientError as error:
            if self._effort.seconds is None:
                raise
            self.why = self.why or str(error)

    def _is_over(self, share: float = 1) -> bool:
        seconds = self._effort.seconds
        return seconds is not None and time.monotonic() - self._began_at > seconds * share

    def _cheap_evidence(self) -> tuple[Mapping[date, JudgedBy], datetime]:
        """What tells without reading a log that days are unchanged, and the time before it was asked for."""
        first, *_, last = [*self._windows, *self._windows]
        # Not a snapshot, and before any: see LogSource.marks.
        with self._database.connect() as connection:
            now: datetime = connection.execute(_NOW).scalar_one()
            self._marks = self._logs.marks(connection, list(self._windows.values()))
            stored = ledger_rows(connection, first, last)
            self._stored_logs = {day: row.source_logs for day, row in stored.items()}
            for day, known in verifications(connection, first, last).items():
                version = stored[day].version if day in stored else None
                is_comparable = isinstance(known.present, Unreadable) or (
                    known.present.kind in self._logs.fingerprint_kinds
                )
                if day in self._windows and is_comparable and known.is_about(self._windows[day], version):
                    self._known[day] = known
            since = {day: known.mark for day, known in self._known.items() if known.mark is not None}
            return self._logs.unchanged(connection, [self._windows[day] for day in since], since, self._marks), now

    def _count(self, days: Sequence[date], now: datetime) -> list[date]:
        """Counts the logs of the days, and returns those whose number has changed.

        The day that was confirmed longest ago comes first, so that each is counted once in a few looks.
        """
        changed: list[date] = []
        if not days:
            return changed
        with self._leaving_errors(), self._database.snapshot() as snapshot:
            for number, day in enumerate(sorted(days, key=lambda day: self._known[day].confirmed_at)):
                if number and self._is_over(0.5):
                    break
                known = self._known[day]
                logs = self._logs.counts(snapshot, [self._windows[day]])[day]
                if isinstance(known.present, Unreadable) or known.present.logs != logs:
                    changed.append(day)
                else:
                    is_certain = only_added(known.mark, self._marks.get(day))
                    judged_by = JudgedBy.INSERTS if is_certain else JudgedBy.COUNT
                    self.found[day] = replace(known, confirmed_at=now, judged_by=judged_by)
        return changed

    def _read(self, days: Sequence[date], *, is_urgent: bool = True) -> None:
        """Reads the days: in one pass, or one after the other if time is limited.

        Of urgent days one at least, so that every look gets further.
        """
        self.unread.update(days)
        smallest_first = sorted(days, key=lambda day: self._stored_logs.get(day, float("inf")))
        batches = [sorted(days)] if self._effort.seconds is None else [[day] for day in smallest_first]
        for number, batch in enumerate(filter(None, batches)):
            if (number or not is_urgent) and self._is_over():
                return
            windows = [self._windows[day] for day in batch]
            with self._leaving_errors(), self._database.snapshot() as snapshot:
                self.found.update(_read(snapshot, self._logs, windows, self._marks))
                self.unread.difference_update(batch)


def _read(
    snapshot: Connection, logs: LogSource, windows: Sequence[DayWindow], marks: Mapping[date, Mark]
) -> dict[date, Verification]:
    """Reads the logs of the windows, which are sorted.

    A day that may have lost logs costs another pass over its logs, which counts those of each agent.
    """
    now: datetime = snapshot.execute(_NOW).scalar_one()
    stored = ledger_rows(snapshot, windows[0].metric_date, windows[-1].metric_date)
    present = present_fingerprints(snapshot, logs, windows, stored)
    executions = executions_by_agent(
        snapshot, [day for day in present if may_have_shrunk(stored.get(day), present[day])]
    )
    counted = logs.logs_by_agent(snapshot, [window for window in windows if window.metric_date in executions])

    def gone(day: date) -> str | None:
        fingerprint = present[day]
        if isinstance(fingerprint, Unreadable):
            return None
        of_day = {each.agent_id: each.logs for each in counted if each.metric_date == day and each.agent_id is not None}
        return what_is_gone(stored.get(day), fingerprint, logs.unlogged, executions.get(day, {}), of_day)

    return {
        window.metric_date: Verification(
            window.metric_date,
            window.start,
            window.end,
            stored[window.metric_date].version if window.metric_date in stored else None,
            present[window.metric_date],
            gone(window.metric_date),
            now,
            marks.get(window.metric_date),
            now,
            JudgedBy.CONTENT,
        )
        for window in windows
    }
