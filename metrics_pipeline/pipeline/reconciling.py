"""Compares the ledger with the logs: the verdict on each day of a window, and a summary of the verdicts in words."""

from collections import Counter
from collections.abc import Sequence, Set
from datetime import date, datetime, timedelta

from sqlalchemy import Connection

from metrics_pipeline.logs.source import LogSource
from metrics_pipeline.metrics.fingerprint import FingerprintKind, SourceFingerprint
from metrics_pipeline.metrics.reconciliation import DayState, DayVerdict, LedgerRow, is_finished, reconcile
from metrics_pipeline.metrics.windows import DayWindow, day_window, days_between, last_complete_day
from metrics_pipeline.settings import Settings
from metrics_pipeline.store.ledger import ledger_rows


def lookback(settings: Settings, now: datetime, days: int | None = None) -> list[date]:
    """The last `days` days (default METRICS_LOOKBACK_DAYS) that have ended at `now`, oldest first.

    None is before METRICS_START_DATE.
    """
    last = last_complete_day(now, settings.time_zone)
    number = settings.lookback_days if days is None else days
    return days_between(max(settings.start_date, last - timedelta(days=number - 1)), last)


def judge_days(
    snapshot: Connection, logs: LogSource, days: Sequence[date], time_zone: str, *, running: Set[date] = frozenset()
) -> list[DayVerdict]:
    """The verdict on each of `days`, which are sorted. One pass over their logs per kind of fingerprint.

    `snapshot` is a transaction that sees one state of the database. `running` are the days that a run will write.
    """
    if not days:
        return []
    stored = ledger_rows(snapshot, days[0], days[-1])
    present = _present(snapshot, logs, [day_window(day, time_zone) for day in days], stored)
    return reconcile(days, time_zone=time_zone, stored=stored, present=present, running=running)


def finished_days(snapshot: Connection, logs: LogSource, windows: Sequence[DayWindow]) -> set[date]:
    """The days of `windows`, which are sorted by day, that another aggregation would not change."""
    if not windows:
        return set()
    stored = ledger_rows(snapshot, windows[0].metric_date, windows[-1].metric_date)
    present = _present(snapshot, logs, windows, stored)
    return {day for day, now in present.items() if day in stored and is_finished(stored[day], now)}


def findings(verdicts: Sequence[DayVerdict]) -> str:
    """What an operator should know about the days, in a sentence or two."""
    if not verdicts:
        return "No day has ended yet."
    counts = Counter(verdict.state for verdict in verdicts)
    days = "1 day" if len(verdicts) == 1 else f"{len(verdicts)} days"
    said = [f"{days}: " + ", ".join(f"{counts[state]} {state.words}" for state in DayState if counts[state])]
    said += [
        f"{verdict.metric_date} is {verdict.state.words} ({verdict.reason})"
        for verdict in verdicts
        if verdict.needs_run
    ]
    outdated = [verdict.metric_date for verdict in verdicts if verdict.is_outdated]
    if outdated:
        said.append(
            f"{len(outdated)} stored under an older definition, the first {outdated[0]}: a backfill renews them"
        )
    return "; ".join(said) + "."


def _present(
    snapshot: Connection, logs: LogSource, windows: Sequence[DayWindow], stored: dict[date, LedgerRow]
) -> dict[date, SourceFingerprint]:
    """The present fingerprint of each day, of the kind that the day was stored with if that can still be computed.

    Otherwise it is of the present kind, and cannot be compared with the stored one.
    """
    present_kind, *_ = logs.fingerprint_kinds
    by_kind: dict[FingerprintKind, list[DayWindow]] = {}
    for window in windows:
        row = stored.get(window.metric_date)
        kind = row.source_fingerprint.kind if row is not None else present_kind
        by_kind.setdefault(kind if kind in logs.fingerprint_kinds else present_kind, []).append(window)
    return {
        day: fingerprint
        for kind, of_kind in by_kind.items()
        for day, fingerprint in logs.fingerprints(snapshot, of_kind, kind).items()
    }
