"""Whether the due days are stored and still equal their logs, and whether the newest of them is stored."""

from collections import Counter
from datetime import timedelta

import dagster as dg

from metrics_pipeline.metrics.reconciliation import DayState
from metrics_pipeline.metrics.verification import JudgedBy
from metrics_pipeline.metrics.windows import DUE_HOUR, day_window, last_due_day
from metrics_pipeline.metrics.wording import counted
from metrics_pipeline.orchestration.checks.evaluation import Situation
from metrics_pipeline.orchestration.links import day_links
from metrics_pipeline.orchestration.markdown import markdown_table
from metrics_pipeline.orchestration.reconciling import attempts, failed_runs, judge
from metrics_pipeline.pipeline.reconciling import lookback
from metrics_pipeline.pipeline.watching import Effort
from metrics_pipeline.store.ledger import first_stored_at, newest_stored_day

#: Four ticks of late_logs_sensor.
_TRUSTED_FOR = timedelta(hours=1)
_MAX_LINKED_DAYS = 5

NO_MISSING_OR_DIRTY_DAYS = f"""
Every day of the last METRICS_LOOKBACK_DAYS that is due is stored and still equals its logs: none is missing, and none
is dirty because a log arrived late, was corrected or was deleted. A day is due at {DUE_HOUR:02}:00 of the next one. A
day that another run is writing is left to that run, and days before the first log are left out.

At night it reads all logs of these days. After an aggregation it believes what that run, or `late_logs_sensor` within
the last hour, has found.

**When it is red**, `late_logs_sensor` and `daily_metrics_schedule` ask for the named days by themselves, except for
those that an operator has to decide about, such as a shrunk day, or that a run has refused: the result names that run.
Read its error, mend the cause, and materialise the day. If its logs were deleted: `metrics-pipeline seal --date
2025-07-11` keeps the stored metrics (the executions did happen), `metrics-pipeline clear --date 2025-07-11` removes
them (they never happened).
"""

FRESHNESS = f"""
The newest day that is due is stored: from {DUE_HOUR:02}:00 in METRICS_TIME_ZONE on, yesterday. It looks at that very
day in the ledger, so storing an older day never turns it green.

Evaluated at {DUE_HOUR:02}:05 by `daily_checks_schedule`, and with every materialisation.

**When it is red**, read the error of last night's run of `daily_metrics_job`; without such a run, see that the daemon
and `daily_metrics_schedule` are running. Then materialise the day.
"""


def no_missing_or_dirty_days(situation: Situation) -> dg.AssetCheckResult:
    """Judges the due days of the look-back window as schedule and sensor do; fails with severity ERROR."""
    settings, due = situation.settings, last_due_day(situation.now, situation.settings.time_zone)
    due_days = [day for day in lookback(settings, situation.now) if day <= due]
    logs = situation.logs
    with situation.database.snapshot() as connection:
        firsts = (logs.first_log_at(connection), first_stored_at(connection))
    start = min((first for first in firsts if first is not None), default=None)
    # Days before the first log have no logs to miss. Storing them is left to the schedule.
    days = [day for day in due_days if start is not None and start < day_window(day, settings.time_zone).end]
    verdicts = judge(
        situation.instance,
        situation.database,
        logs,
        settings.time_zone,
        days,
        Effort(trusted_for=_TRUSTED_FOR) if situation.is_after_aggregation else Effort(is_full=True),
        apart_from=situation.run_id,
    )
    counts = Counter(verdict.state for verdict in verdicts)
    judged = Counter(verdict.judged_by for verdict in verdicts)
    oldest = min((verdict.verified_at for verdict in verdicts if verdict.verified_at is not None), default=None)
    broken = [verdict for verdict in verdicts if verdict.state.is_fault]
    ended = {verdict.metric_date: attempts(situation.instance, verdict) for verdict in broken}
    refused = {day: runs.refused_by for day, runs in ended.items() if runs.refused_by is not None}
    # A run of them was started by hand: no schedule or sensor asks for them.
    undecided = [verdict.metric_date for verdict in broken if not verdict.needs_run][:_MAX_LINKED_DAYS]
    failed = {day: runs[0].run_id for day in undecided if (runs := failed_runs(situation.instance, day))}
    return dg.AssetCheckResult(
        passed=not broken,
        severity=dg.AssetCheckSeverity.ERROR,
        description=(
            f"{len(broken)} of {counted(len(days), 'day')} {'is' if len(broken) == 1 else 'are'} not right: "
            f"{', '.join(f'{verdict.metric_date} is {verdict.state.words}' for verdict in broken[:5])}"
            f"{' …' if len(broken) > 5 else ''}."
            + (f" A run refused {', '.join(map(str, refused))}, so nothing asks for it again." if refused else "")
            if broken
            else f"All days are stored and equal their logs ({len(days)})."
        ),
        metadata={
            "days": f"{days[0]} to {days[-1]}" if days else "none",
            **{f"run_that_refused_{day}": dg.MetadataValue.dagster_run(run) for day, run in refused.items()},
            **{f"last_failed_run_of_{day}": dg.MetadataValue.dagster_run(run) for day, run in failed.items()},
            **{
                f"{name}_of_{verdict.metric_date}": link
                for verdict in broken[:_MAX_LINKED_DAYS]
                for name, link in day_links(settings, verdict.metric_date).items()
            },
            "days_checked": len(days),
            "logs_of": logs.name,
            "days_before_the_first_log": len(due_days) - len(days),
            **{f"days_{state}": counts[state] for state in DayState},
            **{f"days_judged_by_{evidence}": judged[evidence] for evidence in JudgedBy},
            "oldest_reading": dg.MetadataValue.timestamp(oldest) if oldest is not None else "none",
            "days_of_older_definition": sum(verdict.is_outdated for verdict in verdicts),
            "unfinished_days": markdown_table(
                ("day", "state", "why", "what happens next"),
                [
                    (
                        verdict.metric_date,
                        verdict.state.words,
                        verdict.reason,
                        ended[verdict.metric_date].why_refused(settings.ui_url)
                        or ("it is asked for by itself" if verdict.needs_run else "nothing, until an operator decides"),
                    )
                    for verdict in broken
                ],
                nothing="None.",
            ),
        },
    )


def freshness(situation: Situation) -> dg.AssetCheckResult:
    """Looks for the newest due day in the ledger; fails with severity ERROR."""
    settings, due = situation.settings, last_due_day(situation.now, situation.settings.time_zone)
    newest = newest_stored_day(situation.connection, due)
    is_any_due = due >= settings.start_date
    passed = newest == due or not is_any_due
    failed = [] if passed else failed_runs(situation.instance, due)
    return dg.AssetCheckResult(
        passed=passed,
        severity=dg.AssetCheckSeverity.ERROR,
        description=(
            f"No day since METRICS_START_DATE, {settings.start_date}, is due yet."
            if not is_any_due
            else f"{due} is stored."
            if passed
            else f"{due} was due at {DUE_HOUR:02}:00 {settings.time_zone} of the next day and is not stored. "
            f"The newest day that is: {newest or 'none'}."
        ),
        metadata={
            "day_due": str(due) if is_any_due else "none",
            **({"last_failed_run": dg.MetadataValue.dagster_run(failed[0].run_id)} if failed else {}),
            **(day_links(settings, due) if is_any_due else {}),
            "newest_stored_day": str(newest or "none"),
            "days_behind": max(0, (due - (newest or settings.start_date - timedelta(days=1))).days),
            "evaluated_at": dg.MetadataValue.timestamp(situation.now),
            "time_zone": settings.time_zone,
        },
    )
