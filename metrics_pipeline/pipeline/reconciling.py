"""Compares the ledger with the logs: the verdict on each day of a window, and a summary of the verdicts in words."""

from collections import Counter
from collections.abc import Mapping, Sequence, Set
from datetime import date, datetime, timedelta
from itertools import takewhile
from zoneinfo import ZoneInfo

from sqlalchemy import Connection

from metrics_pipeline.logs.source import LogSource
from metrics_pipeline.metrics.conservation import contradictions
from metrics_pipeline.metrics.dimensions import Dimension, are_declared
from metrics_pipeline.metrics.fingerprint import FingerprintKind, SourceFingerprint
from metrics_pipeline.metrics.reconciliation import (
    DayEvidence,
    DayState,
    DayVerdict,
    LedgerRow,
    is_finished,
    reconcile,
)
from metrics_pipeline.metrics.verification import JudgedBy, Unreadable, Verification
from metrics_pipeline.metrics.windows import DayWindow, day_window, days_between, last_complete_day
from metrics_pipeline.metrics.wording import counted
from metrics_pipeline.settings import Settings
from metrics_pipeline.store.audit import stored_totals
from metrics_pipeline.store.ledger import first_stored_at, ledger_rows
from metrics_pipeline.store.verifications import verifications


def lookback(settings: Settings, now: datetime, days: int | None = None) -> list[date]:
    """The last `days` days (default METRICS_LOOKBACK_DAYS) that have ended at `now`, oldest first.

    None is before METRICS_START_DATE.
    """
    last = last_complete_day(now, settings.time_zone)
    number = settings.lookback_days if days is None else days
    return days_between(max(settings.start_date, last - timedelta(days=number - 1)), last)


def judge_days(
    snapshot: Connection,
    days: Sequence[date],
    time_zone: str,
    *,
    running: Set[date] = frozenset(),
    found: Mapping[date, Verification] | None = None,
) -> list[DayVerdict]:
    """The verdict on each of `days`, which are sorted, from what is stored of them. Reads no logs.

    `found` is what watching.look_at_days has found; of the other days counts what was recorded. A day that was stored
    since its logs were read is judged by what that run recorded.
    `snapshot` is a transaction that sees one state of the database. `running` are the days that a run will write.
    """
    if not days:
        return []
    windows = {day: day_window(day, time_zone) for day in days}
    totals = {total.ledger.metric_date: total for total in stored_totals(snapshot, days[0], days[-1])}
    recorded = verifications(snapshot, days[0], days[-1])

    def verified(day: date) -> Verification | None:
        version = totals[day].ledger.version if day in totals else None
        known = ((found or {}).get(day), recorded.get(day))
        return next((each for each in known if each is not None and each.is_about(windows[day], version)), None)

    return reconcile(
        {
            day: DayEvidence(
                totals[day].ledger if day in totals else None,
                verified(day),
                contradictions(totals[day], None) if day in totals else (),
                day in running,
            )
            for day in days
        },
        time_zone,
    )


def finished_days(snapshot: Connection, logs: LogSource, windows: Sequence[DayWindow]) -> set[date]:
    """The days of `windows`, which are sorted by day, that another aggregation would not change."""
    if not windows:
        return set()
    stored = ledger_rows(snapshot, windows[0].metric_date, windows[-1].metric_date)
    present = present_fingerprints(snapshot, logs, windows, stored)
    return {day for day, now in present.items() if day in stored and is_finished(stored[day], now)}


def other_dimensions(ledger: Mapping[date, LedgerRow], dimensions: Sequence[Dimension]) -> set[date]:
    """The days of `ledger` whose metrics are broken down by other dimensions than these, METRICS_DIMENSIONS."""
    return {
        day
        for day, row in ledger.items()
        if row.metrics_expired_at is None and not are_declared(row.dimensions, dimensions)
    }


def first_day(snapshot: Connection, logs: LogSource, time_zone: str) -> date | None:
    """The day of the oldest log, or the oldest stored day if that is earlier; None if there is neither."""
    instants = [at for at in (logs.first_log_at(snapshot), first_stored_at(snapshot)) if at is not None]
    return min(instants).astimezone(ZoneInfo(time_zone)).date() if instants else None


def before_first_day(
    snapshot: Connection, logs: LogSource, verdicts: Sequence[DayVerdict], settings: Settings
) -> set[date]:
    """The missing days with which `verdicts` begin that are before the first day, while METRICS_START_DATE is unset.

    Whoever sets it wants rows of its first days too, without logs: nobody was active. Looks for the first log only if
    the first of the days is missing, because through a view without an index that can read all logs.
    """
    missing = [each.metric_date for each in takewhile(lambda verdict: verdict.state is DayState.MISSING, verdicts)]
    if not missing or settings.start_date != Settings.start_date:
        return set()
    first = first_day(snapshot, logs, settings.time_zone)
    return {day for day in missing if first is not None and day < first}


def why_start_later(settings: Settings, first: date | None) -> str:
    """Proposes METRICS_START_DATE if it has its default and the first day is later; otherwise an empty text."""
    if first is None or settings.start_date != Settings.start_date or first <= settings.start_date:
        return ""
    return (
        f"METRICS_START_DATE is {settings.start_date}, and the first log is of {first}: set "
        f"METRICS_START_DATE={first}, so that the days before are not shown as missing."
    )


def days_not_stored(snapshot: Connection, first: date, until: date) -> list[date]:
    """The days that the ledger lacks, from `first` to the day before `until`."""
    stored = ledger_rows(snapshot, first, until)
    return [day for day in days_between(first, until)[:-1] if day not in stored]


def how_judged(verdicts: Sequence[DayVerdict]) -> str:
    """By which evidence the days were compared with their logs, and since when each of them was read in full."""
    counts = Counter(verdict.judged_by for verdict in verdicts)
    said = [f"{counts[evidence]} by {evidence}" for evidence in JudgedBy if counts[evidence]]
    said += [f"{counts[None]} not since they were stored"] if counts[None] else []
    oldest = min((verdict.verified_at for verdict in verdicts if verdict.verified_at is not None), default=None)
    since = f"; the oldest reading of a whole day is of {oldest:%Y-%m-%d %H:%M}Z" if oldest is not None else ""
    return f"Compared with the logs: {', '.join(said)}{since}." if said else ""


def findings(verdicts: Sequence[DayVerdict], *, names_days: bool = True) -> str:
    """What an operator should know about the days, in a sentence or two.

    Without `names_days`, for a reader who has the days before them: how many are in each state.
    """
    if not verdicts:
        return "No day has ended yet."
    counts = Counter(verdict.state for verdict in verdicts)
    said = [
        f"{counted(len(verdicts), 'day')}: "
        + ", ".join(f"{counts[state]} {state.words}" for state in DayState if counts[state])
    ]
    if names_days:
        said += [_said(days) for days in _alike([verdict for verdict in verdicts if verdict.state.is_fault])]
    outdated = [verdict.metric_date for verdict in verdicts if verdict.is_outdated]
    if outdated:
        said.append(
            f"{len(outdated)} stored under an older definition, the first {outdated[0]}: a backfill renews them"
        )
    return "; ".join(said) + "."


def _alike(verdicts: Sequence[DayVerdict]) -> list[list[DayVerdict]]:
    """Runs of consecutive days with the same state and reason: a year of missing days is one sentence, not 365."""
    runs: list[list[DayVerdict]] = []
    for verdict in verdicts:
        last = runs[-1][-1] if runs else None
        follows = last is not None and verdict.metric_date - last.metric_date == timedelta(days=1)
        if last is not None and follows and (verdict.state, verdict.reason) == (last.state, last.reason):
            runs[-1].append(verdict)
        else:
            runs.append([verdict])
    return runs


def _said(alike: Sequence[DayVerdict]) -> str:
    first, last = alike[0], alike[-1]
    days = f"{first.metric_date} is" if len(alike) == 1 else f"{first.metric_date} to {last.metric_date} are"
    return f"{days} {first.state.words} ({first.reason})"


def present_fingerprints(
    snapshot: Connection, logs: LogSource, windows: Sequence[DayWindow], stored: dict[date, LedgerRow]
) -> dict[date, SourceFingerprint | Unreadable]:
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
