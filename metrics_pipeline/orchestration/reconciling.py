"""The state of the last days: ledger and logs from the database, running runs from Dagster."""

from collections import Counter
from datetime import date, datetime, timedelta

import dagster as dg
from dagster._core.storage.dagster_run import IN_PROGRESS_RUN_STATUSES

from metrics_pipeline.logs.contract import UpstreamContract
from metrics_pipeline.logs.fingerprints import present_fingerprints
from metrics_pipeline.metrics.reconciliation import DayState, DayVerdict, reconcile
from metrics_pipeline.metrics.windows import day_window, days_between, last_complete_day
from metrics_pipeline.names import (
    DAY_STATE_TAG,
    FAILED_PERMANENTLY_TAG,
    PARTITION_RANGE_END_TAG,
    PARTITION_RANGE_START_TAG,
    PARTITION_TAG,
    REASON_TAG,
)
from metrics_pipeline.orchestration.asset_keys import METRICS_ASSET_KEY
from metrics_pipeline.orchestration.processes import end_if_orphaned
from metrics_pipeline.postgres.database import Database
from metrics_pipeline.settings import Settings
from metrics_pipeline.store.ledger import stored_days
from metrics_pipeline.store.publishing import Reason

# Dagster's list has neither the runs that wait nor those that are just being created.
_UNFINISHED = [dg.DagsterRunStatus.NOT_STARTED, dg.DagsterRunStatus.QUEUED, *IN_PROGRESS_RUN_STATUSES]


def lookback_days(settings: Settings, now: datetime, days: int) -> list[date]:
    """The last `days` days that have ended at `now`, not before METRICS_START_DATE, oldest first."""
    last = last_complete_day(now, settings.time_zone)
    return days_between(max(settings.start_date, last - timedelta(days=days - 1)), last)


def judge(
    instance: dg.DagsterInstance,
    database: Database,
    contract: UpstreamContract,
    settings: Settings,
    days: list[date],
    *,
    apart_from: str | None = None,
) -> list[DayVerdict]:
    """The verdict on each of `days`, which follow one another. One pass over their logs, in the server.

    `apart_from` is a run whose days are not taken for running: the one that asks.
    Database faults become TransientError or PermanentError.
    """
    # Before the database: a run that ends in between is then seen as running, and not as undone.
    running = running_days(instance, apart_from=apart_from)
    with database.snapshot() as connection:
        stored = stored_days(connection, days[0], days[-1]) if days else {}
        present = present_fingerprints(connection, contract, [day_window(day, settings.time_zone) for day in days])
    return reconcile(days, time_zone=settings.time_zone, stored=stored, present=present, running=running)


def running_days(instance: dg.DagsterInstance, *, apart_from: str | None = None) -> set[date]:
    """The days of all runs of our asset that have not ended, queued ones included and the run `apart_from` excepted.

    Runs whose process was killed are ended on the way.
    """
    days: set[date] = set()
    for run in instance.get_runs(dg.RunsFilter(statuses=_UNFINISHED)):
        is_ours = run.asset_selection is None or METRICS_ASSET_KEY in run.asset_selection
        if is_ours and run.run_id != apart_from and not end_if_orphaned(instance, run):
            days.update(_days_of(run))
    return days


def request_for(verdict: DayVerdict, run_key: str) -> dg.RunRequest:
    """Asks for a run of the day, and notes on it which state of the day it answers to."""
    return dg.RunRequest(
        run_key=run_key,
        partition_key=verdict.metric_date.isoformat(),
        tags={DAY_STATE_TAG: verdict.fingerprint, REASON_TAG: Reason.LATE_LOGS.value},
    )


def has_failed_permanently(instance: dg.DagsterInstance, verdict: DayVerdict) -> bool:
    """Whether a run that was asked for because of this very state of the day failed for good."""
    tags = {
        PARTITION_TAG: verdict.metric_date.isoformat(),
        DAY_STATE_TAG: verdict.fingerprint,
        FAILED_PERMANENTLY_TAG: "true",
    }
    return instance.get_runs_count(dg.RunsFilter(tags=tags)) > 0


def findings(verdicts: list[DayVerdict]) -> str:
    """What an operator should know of the days, in a sentence or two."""
    if not verdicts:
        return "No day has ended yet."
    counts = Counter(verdict.state for verdict in verdicts)
    days = "1 day" if len(verdicts) == 1 else f"{len(verdicts)} days"
    said = [f"{days}: " + ", ".join(f"{counts[state]} {state}" for state in DayState if counts[state])]
    said += [
        f"{verdict.metric_date} is {verdict.state} ({verdict.reason})" for verdict in verdicts if verdict.needs_run
    ]
    outdated = [verdict.metric_date for verdict in verdicts if verdict.is_outdated]
    if outdated:
        said.append(
            f"{len(outdated)} stored under an older definition, the first {outdated[0]}: a backfill renews them"
        )
    return "; ".join(said) + "."


def _days_of(run: dg.DagsterRun) -> list[date]:
    first = run.tags.get(PARTITION_TAG) or run.tags.get(PARTITION_RANGE_START_TAG, "")
    last = run.tags.get(PARTITION_TAG) or run.tags.get(PARTITION_RANGE_END_TAG, "")
    try:
        return days_between(date.fromisoformat(first), date.fromisoformat(last))
    except ValueError:
        # A run without partitions, or of another code location's job, whose partitions are no days.
        return []
