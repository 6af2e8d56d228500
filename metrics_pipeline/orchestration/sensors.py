"""The sensors: for late logs, and for runs that ended without a verdict of the checks."""

from collections.abc import Callable
from datetime import UTC, datetime

import dagster as dg

from metrics_pipeline.metrics.reconciliation import DayState, DayVerdict
from metrics_pipeline.metrics.windows import last_due_day
from metrics_pipeline.names import (
    CHECKS_AFTER_CANCELLATION_SENSOR,
    CHECKS_AFTER_FAILURE_SENSOR,
    DAILY_CHECKS_JOB,
    DATA_RETENTION_JOB,
    LATE_LOGS_SENSOR,
)
from metrics_pipeline.orchestration.dagster_internals import AssetJob
from metrics_pipeline.orchestration.markdown import with_values
from metrics_pipeline.orchestration.observations import observe_judged_days
from metrics_pipeline.orchestration.partitions import build_daily_partitions
from metrics_pipeline.orchestration.reconciling import (
    attempts,
    days_to_report_again,
    judge_in_time,
    may_write_metrics,
    requests_for,
)
from metrics_pipeline.pipeline.reconciling import how_judged, lookback
from metrics_pipeline.postgres.database import Database
from metrics_pipeline.settings import Settings

_INTERVAL_SECONDS = 15 * 60
#: Until such a tick the checks of a failed run have no verdict.
_CHECKS_INTERVAL_SECONDS = 10

_DESCRIPTION = """
Every 15 minutes compares the logs of the last METRICS_LOOKBACK_DAYS with what was aggregated of them, and asks for the
days that differ: a log arrived late or was corrected, or another program deleted or altered the stored rows. It also
asks for the newest day that is due (03:00 in METRICS_TIME_ZONE) if that is missing, and for stored days whose partition
is not green. Adjacent days are one run. A day that a run is about to write is left alone, and so is one that has
shrunk.

Only logs of days that may have changed are read; the tick's log says by which evidence the days were judged. Where that
is a count, corrections in place are found in the newest two days if no count differs, and by the checks at night.

If a run ends and leaves its day as it was, the day is asked for again, at most five times and with growing waits; not
if the run refused the day. The skip reason, and the cursor of a tick that asks for something, say what was found.
"""


def build_late_logs_sensor(
    job: AssetJob,
    settings: Settings,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> dg.SensorDefinition:
    """The sensor for late and corrected logs, running by default. Its ticks carry no time, hence `now`."""
    partitions = build_daily_partitions(settings)

    @dg.sensor(
        name=LATE_LOGS_SENSOR,
        job=job,
        minimum_interval_seconds=_INTERVAL_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=with_values(_DESCRIPTION, settings),
    )
    def late_logs_sensor(
        context: dg.SensorEvaluationContext, database: dg.ResourceParam[Database]
    ) -> list[dg.RunRequest] | dg.SkipReason:
        at = now()
        days = lookback(settings, at)
        if not days:
            return dg.SkipReason(f"No day has ended since METRICS_START_DATE, {settings.start_date}.")
        verdicts, said = judge_in_time(context.instance, database, settings, days)
        observe_judged_days(context.instance, verdicts)
        again = days_to_report_again(context.instance, partitions, verdicts)
        due = last_due_day(at, settings.time_zone)
        wanted: dict[str, DayVerdict] = {}
        found = [said]
        for verdict in verdicts:
            day, state = verdict.metric_date, verdict.state
            is_lost = state is DayState.MISSING and day == due
            has_changed = verdict.needs_run and state in (DayState.DIRTY, DayState.DAMAGED)
            if not (has_changed or is_lost or day in again):
                continue
            ended = attempts(context.instance, verdict)
            reason = ended.why_not_now(at, settings.ui_url)
            if reason is not None:
                found.append(f"{reason}.")
            else:
                # Dagster starts one run per run key, so a repeated or interrupted evaluation requests nothing twice.
                key = f"{day}@{verdict.fingerprint}"
                wanted[f"{key}#{len(ended.runs)}" if ended.runs else key] = verdict
        message = " ".join(found)
        context.log.info(f"{message} {how_judged(verdicts)}")
        # The UI shows the cursor of a sensor, and no message of a tick that asks for something.
        context.update_cursor(message)
        return requests_for(wanted) or dg.SkipReason(message)

    return late_logs_sensor


_CHECKS = """
Evaluates all checks after a run of `agent_performance_metrics` has {ended}. Such a run ends before its checks are
evaluated, and Dagster then shows them without a verdict.
"""


def build_checks_sensors(job: AssetJob) -> list[dg.SensorDefinition]:
    """One sensor for each way in which a run ends without success, running by default. `job` evaluates all checks."""

    def build(name: str, status: dg.DagsterRunStatus, ended: str) -> dg.SensorDefinition:
        @dg.run_status_sensor(
            run_status=status,
            name=name,
            request_job=job,
            minimum_interval_seconds=_CHECKS_INTERVAL_SECONDS,
            default_status=dg.DefaultSensorStatus.RUNNING,
            description=_CHECKS.format(ended=ended),
        )
        def checks_sensor(context: dg.RunStatusSensorContext) -> dg.RunRequest | dg.SkipReason:
            run = context.dagster_run
            # Not after the checks themselves: a check that cannot be evaluated would be evaluated forever.
            if run.job_name in (DAILY_CHECKS_JOB, DATA_RETENTION_JOB) or not may_write_metrics(run):
                return dg.SkipReason(f"Run {run.run_id} of {run.job_name} evaluates no check of the metrics.")
            waiting = dg.RunsFilter(job_name=DAILY_CHECKS_JOB, statuses=[dg.DagsterRunStatus.QUEUED])
            if context.instance.get_runs_count(waiting):
                return dg.SkipReason("A run that evaluates the checks is waiting already.")
            return dg.RunRequest(run_key=run.run_id)

        return checks_sensor

    return [
        build(CHECKS_AFTER_FAILURE_SENSOR, dg.DagsterRunStatus.FAILURE, "failed"),
        build(CHECKS_AFTER_CANCELLATION_SENSOR, dg.DagsterRunStatus.CANCELED, "been cancelled"),
    ]
