"""The schedules. Time comes from the tick, never from the clock."""

import dagster as dg

from metrics_pipeline.errors import TransientError
from metrics_pipeline.metrics.reconciliation import DayVerdict
from metrics_pipeline.metrics.windows import DUE_HOUR
from metrics_pipeline.names import (
    DAILY_CHECKS_SCHEDULE,
    DAILY_METRICS_SCHEDULE,
    DATA_RETENTION_SCHEDULE,
    REASON_TAG,
    SCHEDULED_AT_TAG,
)
from metrics_pipeline.orchestration.dagster_internals import AssetJob
from metrics_pipeline.orchestration.reconciling import (
    has_failed_permanently,
    judge,
    request_for,
)
from metrics_pipeline.pipeline.opening import open_logs
from metrics_pipeline.pipeline.reconciling import findings, lookback
from metrics_pipeline.postgres.database import Database
from metrics_pipeline.settings import Settings
from metrics_pipeline.store.publishing import Reason

_DAILY_METRICS = """
Every night at 02:00, two hours after the end of yesterday so that late logs are in, asks for yesterday and for every
day of the last METRICS_LOOKBACK_DAYS that is missing or whose logs have changed since. One tick thus heals a week of
downtime. It leaves out days that a run will write, and days that a run refused, as long as nothing about them changes:
mend the cause, then materialise those by hand. The tick's log says what was found.
"""

_DATA_RETENTION = """
Every night at 03:30 deletes the raw logs, metrics and resolved alerts that are older than the policy keeps. Raw logs of
a day are deleted only if its metrics are stored and equal them. The run names the days that are held back, and why.
"""


_DAILY_CHECKS = f"""
Every night at {DUE_HOUR:02}:05, when yesterday is due, evaluates all checks: a night without a run, and logs that
nobody aggregates, are then seen too.
"""


def build_daily_checks_schedule(job: AssetJob, settings: Settings) -> dg.ScheduleDefinition:
    """The schedule of the checks, in METRICS_TIME_ZONE and running by default."""
    return dg.ScheduleDefinition(
        name=DAILY_CHECKS_SCHEDULE,
        job=job,
        cron_schedule=f"5 {DUE_HOUR} * * *",
        execution_timezone=settings.time_zone,
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description=_DAILY_CHECKS,
    )


def build_daily_metrics_schedule(job: AssetJob, settings: Settings) -> dg.ScheduleDefinition:
    """The nightly schedule, in METRICS_TIME_ZONE and running by default."""

    @dg.schedule(
        name=DAILY_METRICS_SCHEDULE,
        job=job,
        cron_schedule="0 2 * * *",
        execution_timezone=settings.time_zone,
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description=_DAILY_METRICS,
    )
    def daily_metrics_schedule(
        context: dg.ScheduleEvaluationContext, database: dg.ResourceParam[Database]
    ) -> list[dg.RunRequest] | dg.SkipReason:
        days = lookback(settings, context.scheduled_execution_time)
        if not days:
            return dg.SkipReason(f"No day has ended since METRICS_START_DATE, {settings.start_date}.")
        try:
            verdicts = judge(context.instance, database, open_logs(database), settings.time_zone, days)
        except TransientError as error:
            # A run is retried, a tick is not: without this, an outage at 02:00 would cost the night.
            context.log.warning(f"Only yesterday is asked for, because the other days cannot be looked at. {error}")
            yesterday = days[-1].isoformat()
            tags = {REASON_TAG: Reason.LATE_LOGS.value}
            return [dg.RunRequest(run_key=yesterday, partition_key=yesterday, tags=tags)]
        context.log.info(findings(verdicts))
        requests = [
            # The key contains the tick's date, so a day that is still unfinished tomorrow is requested again.
            request_for(verdict, f"{verdict.metric_date}@{context.scheduled_execution_time:%Y-%m-%d}")
            for verdict in verdicts
            if verdict.needs_run and not _is_hopeless(context, verdict)
        ]
        return requests or dg.SkipReason(findings(verdicts))

    return daily_metrics_schedule


def build_data_retention_schedule(job: AssetJob, settings: Settings) -> dg.ScheduleDefinition:
    """The nightly retention, in METRICS_TIME_ZONE and running by default."""

    @dg.schedule(
        name=DATA_RETENTION_SCHEDULE,
        job=job,
        cron_schedule="30 3 * * *",
        execution_timezone=settings.time_zone,
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description=_DATA_RETENTION,
    )
    def data_retention_schedule(context: dg.ScheduleEvaluationContext) -> dg.RunRequest:
        scheduled_at = context.scheduled_execution_time
        # A run that waits, or is repeated after a crash, still counts from the night that it was scheduled for.
        return dg.RunRequest(run_key=f"{scheduled_at:%Y-%m-%d}", tags={SCHEDULED_AT_TAG: scheduled_at.isoformat()})

    return data_retention_schedule


def _is_hopeless(context: dg.ScheduleEvaluationContext, verdict: DayVerdict) -> bool:
    hopeless = has_failed_permanently(context.instance, verdict)
    if hopeless:
        context.log.warning(
            f"{verdict.metric_date} is not asked for: its run failed for good and nothing has changed since. "
            "Read that run's error, mend the cause, and materialise the day by hand."
        )
    return hopeless
