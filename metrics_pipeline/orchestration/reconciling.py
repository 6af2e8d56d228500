"""The state of days including what Dagster knows: the runs that are about to write them, and those that failed."""

from datetime import date

import dagster as dg

from metrics_pipeline.logs.source import LogSource
from metrics_pipeline.metrics.reconciliation import DayVerdict
from metrics_pipeline.metrics.windows import days_between
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
from metrics_pipeline.pipeline.reconciling import judge_days
from metrics_pipeline.postgres.database import Database
from metrics_pipeline.store.publishing import Reason

_ENDED = (dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED)
_UNFINISHED = [status for status in dg.DagsterRunStatus if status not in _ENDED]


def judge(
    instance: dg.DagsterInstance,
    database: Database,
    logs: LogSource,
    time_zone: str,
    days: list[date],
    *,
    apart_from: str | None = None,
) -> list[DayVerdict]:
    """The verdict on each of `days`, which are consecutive.

    `apart_from` is the id of the calling run, whose days do not count as running.
    Database faults become TransientError or PermanentError.
    """
    # Before the database is read: the days of a run that ends in between then count as running, not as missing.
    running = running_days(instance, apart_from=apart_from)
    with database.snapshot() as snapshot:
        return judge_days(snapshot, logs, days, time_zone, running=running)


def running_days(instance: dg.DagsterInstance, *, apart_from: str | None = None) -> set[date]:
    """The days of all unfinished runs of our asset, including queued ones, without those of the run `apart_from`.

    Ends the runs whose process was killed.
    """
    days: set[date] = set()
    for run in instance.get_runs(dg.RunsFilter(statuses=_UNFINISHED)):
        is_ours = run.asset_selection is None or METRICS_ASSET_KEY in run.asset_selection
        if is_ours and run.run_id != apart_from and not end_if_orphaned(instance, run):
            days.update(_days_of(run))
    return days


def request_for(verdict: DayVerdict, run_key: str) -> dg.RunRequest:
    """A request for a run of the day, tagged with the state of the day that caused it."""
    return dg.RunRequest(
        run_key=run_key,
        partition_key=verdict.metric_date.isoformat(),
        tags={DAY_STATE_TAG: verdict.fingerprint, REASON_TAG: Reason.LATE_LOGS.value},
    )


def has_failed_permanently(instance: dg.DagsterInstance, verdict: DayVerdict) -> bool:
    """Whether a run that was requested for exactly this state of the day failed permanently."""
    tags = {
        PARTITION_TAG: verdict.metric_date.isoformat(),
        DAY_STATE_TAG: verdict.fingerprint,
        FAILED_PERMANENTLY_TAG: "true",
    }
    return instance.get_runs_count(dg.RunsFilter(tags=tags)) > 0


def _days_of(run: dg.DagsterRun) -> list[date]:
    first = run.tags.get(PARTITION_TAG) or run.tags.get(PARTITION_RANGE_START_TAG, "")
    last = run.tags.get(PARTITION_TAG) or run.tags.get(PARTITION_RANGE_END_TAG, "")
    try:
        return days_between(date.fromisoformat(first), date.fromisoformat(last))
    except ValueError:
        # A run without partitions, or of another code location's job, whose partitions are not days.
        return []
