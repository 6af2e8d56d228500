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
    RETENTION_ASSET,
    SCHEDULED_AT_TAG,
)
from metrics_pipeline.orchestration.dagster_internals import AssetJob
from metrics_pipeline.orchestration.markdown import with_values
from metrics_pipeline.orchestration.partitions import build_daily_partitions
from metrics_pipeline.orchestration.reconciling import attempts, days_to_report_again, judge_in_time, requests_for
from metrics_pipeline.pipeline.reconciling import how_judged, lookback
from metrics_pipeline.postgres.database import Database
from metrics_pipeline.settings import Settings
from metrics_pipeline.store.publishing import Reason

_DAILY_METRICS = """
Every night at 02:00 in METRICS_TIME_ZONE, two hours after the end of yesterday so that late logs are in, asks for
yesterday and for every day of the last METRICS_LOOKBACK_DAYS that is missing or whose logs have changed since, and for
stored days whose partition is not green. Adjacent days are one run, and one tick heals a week of downtime. It leaves
out days before the first log (unless a start date is set), days that a run will write, and days that a run
refused, as long as nothing about them changes: mend the cause, then materialise those by hand. The tick's log, or its
skip reason, says what was found.
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
    partitions = build_daily_partitions(settings)

    @dg.schedule(
        name=DAILY_METRICS_SCHEDULE,
        job=job,
        cron_schedule="0 2 * * *",
        execution_timezone=settings.time_zone,
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description=with_values(_DAILY_METRICS, settings),
    )
    def daily_metrics_schedule(
        context: dg.ScheduleEvaluationContext, database: dg.ResourceParam[Database]
    ) -> list[dg.RunRequest] | dg.SkipReason:
        days = lookback(settings, context.scheduled_execution_time)
        if not days:
            return dg.SkipReason(f"No day has ended since METRICS_START_DATE, {settings.start_date}.")
        try:
            verdicts, said = judge_in_time(context.instance, database, settings, days)
        except TransientError as error:
            # A run is retried, a tick is not: without this, an outage at 02:00 would cost the night.
            context.log.warning(f"Only yesterday is asked for, because the other days cannot be looked at. {error}")
            yesterday = days[-1].isoformat()
            tags = {REASON_TAG: Reason.LATE_LOGS.value}
            return [dg.RunRequest(run_key=yesterday, partition_key=yesterday, tags=tags)]
        again = days_to_report_again(context.instance, partitions, verdicts)
        wanted: dict[str, DayVerdict] = {}
        found = [said]
        for verdict in verdicts:
            if not (verdict.needs_run or verdict.metric_date in again):
                continue
            refused = attempts(context.instance, verdict).why_refused(settings.ui_url)
            if refused is not None:
                found.append(f"{refused}.")
            else:
                # The key contains the tick's date, so a day that is still unfinished tomorrow is requested again.
                wanted[f"{verdict.metric_date}@{context.scheduled_execution_time:%Y-%m-%d}"] = verdict
        context.log.info(f"{' '.join(found)} {how_judged(verdicts)}")
        return requests_for(wanted) or dg.SkipReason(" ".join(found))

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
        return dg.RunRequest(
            run_key=f"{scheduled_at:%Y-%m-%d}",
            tags={SCHEDULED_AT_TAG: scheduled_at.isoformat()},
            run_config={"ops": {RETENTION_ASSET: {"config": {"dry_run": False}}}},
        )

    return data_retention_schedule
