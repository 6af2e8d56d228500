"""Alerts about the data and the pipeline itself: what is wrong now, compared with what is open in metric_alerts.

Unlike the other alerts they do not follow from stored metrics, so a replay leaves them alone.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime, timedelta

from metrics_pipeline.metrics.alerts import Severity
from metrics_pipeline.metrics.reconciliation import DayState, DayVerdict
from metrics_pipeline.metrics.windows import last_due_day
from metrics_pipeline.metrics.wording import counted
from metrics_pipeline.pipeline.opening import open_source
from metrics_pipeline.pipeline.reconciling import before_first_day, judge_days, lookback
from metrics_pipeline.postgres.database import Database
from metrics_pipeline.settings import Settings
from metrics_pipeline.store.data_alerts import Condition, Findings, note

DAY_MISSING = "day_missing"
DAY_SHRUNK = "day_shrunk"
DAY_DIRTY_LONG = "day_dirty_long"
RETENTION_HELD_BACK = "retention_held_back"
RUN_FAILED = "run_failed"
TICK_FAILED = "tick_failed"
CHECK_FAILED = "check_failed"

#: A late log is aggregated within a quarter of an hour, and the sensor's last attempt comes after 3.5 hours.
_LONG = timedelta(hours=6)

_MOST_NAMED = 5


def note_conditions(database: Database, found: Findings, today: date) -> None:
    """Opens, changes and resolves the alerts of the rules that were judged; `today` resolves."""
    with database.begin() as connection:
        note(connection, found, today)


def judged_days(database: Database, settings: Settings, now: datetime) -> list[DayVerdict]:
    """The verdicts on the days of the look-back window without those before the first log.

    Reads no logs, except the first one while METRICS_START_DATE is unset and the oldest of these days is missing.

    A day that a run is about to write counts as what it is: otherwise each attempt of a day that cannot be aggregated
    would resolve its alert and open it again.
    """
    days = lookback(settings, now)
    with database.snapshot() as snapshot:
        verdicts = judge_days(snapshot, days, settings.time_zone)
        # To open the logs of a lake or of Spark takes seconds, and this is asked every minute.
        if settings.start_date != Settings.start_date or not verdicts or verdicts[0].state is not DayState.MISSING:
            return verdicts
        early = before_first_day(snapshot, open_source(database, settings), verdicts, settings)
    return [verdict for verdict in verdicts if verdict.metric_date not in early]


def differing_since(
    verdicts: Iterable[DayVerdict], known: Mapping[date, datetime], now: datetime
) -> dict[date, datetime]:
    """Since when each day differs from its logs; `known` is the answer of the last time."""
    differs = (DayState.DIRTY, DayState.DAMAGED, DayState.UNREADABLE)
    return {
        verdict.metric_date: known.get(verdict.metric_date, now) for verdict in verdicts if verdict.state in differs
    }


def conditions_of_days(
    verdicts: Sequence[DayVerdict], since: Mapping[date, datetime], now: datetime, time_zone: str
) -> Findings:
    """What is wrong with the days. since: as differing_since gives it."""
    due = last_due_day(now, time_zone)
    missing = [each for each in verdicts if each.state is DayState.MISSING and each.metric_date <= due]
    shrunk = [each for each in verdicts if each.state is DayState.SHRUNK]
    differing = [each for each in verdicts if each.metric_date in since and now - since[each.metric_date] >= _LONG]
    return {
        rule: Condition(
            rule,
            Severity.CRITICAL if is_critical else Severity.WARNING,
            days[0].metric_date,
            days[-1].metric_date,
            tuple(str(each.metric_date) for each in days),
            _said(days),
        )
        if days
        else None
        for rule, days, is_critical in (
            (DAY_MISSING, missing, len(missing) > 1),
            (DAY_SHRUNK, shrunk, True),
            (DAY_DIRTY_LONG, differing, False),
        )
    }


def _said(days: Sequence[DayVerdict]) -> str:
    named = [f"{each.metric_date} is {each.state.words} ({each.reason})" for each in days[:_MOST_NAMED]]
    more = len(days) - len(named)
    return "; ".join([*named, *([f"and {counted(more, 'more day')}"] if more else [])]) + "."
