"""The late-logs sensor."""

from collections.abc import Callable
from datetime import UTC, datetime

import dagster as dg

from metrics_pipeline.metrics.reconciliation import DayState
from metrics_pipeline.names import LATE_LOGS_SENSOR
from metrics_pipeline.orchestration.dagster_internals import AssetJob
from metrics_pipeline.orchestration.reconciling import judge, request_for
from metrics_pipeline.pipeline.opening import open_logs
from metrics_pipeline.pipeline.reconciling import findings, lookback
from metrics_pipeline.postgres.database import Database
from metrics_pipeline.settings import Settings

_INTERVAL_SECONDS = 15 * 60

_DESCRIPTION = """
Every 15 minutes compares the logs of the last METRICS_LOOKBACK_DAYS with what was aggregated of them, and asks for the
days that differ: a log arrived late, was corrected or was deleted. Each state of a day is asked for once. A day that a
run is about to write is left alone. The tick's log, or its skip reason, says what was found.
"""


def build_late_logs_sensor(
    job: AssetJob,
    settings: Settings,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> dg.SensorDefinition:
    """The sensor for late and corrected logs, running by default. Its ticks carry no time, hence `now`."""

    @dg.sensor(
        name=LATE_LOGS_SENSOR,
        job=job,
        minimum_interval_seconds=_INTERVAL_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=_DESCRIPTION,
    )
    def late_logs_sensor(
        context: dg.SensorEvaluationContext, database: dg.ResourceParam[Database]
    ) -> list[dg.RunRequest] | dg.SkipReason:
        days = lookback(settings, now())
        if not days:
            return dg.SkipReason(f"No day has ended since METRICS_START_DATE, {settings.start_date}.")
        verdicts = judge(context.instance, database, open_logs(database), settings.time_zone, days)
        found = findings(verdicts)
        context.log.info(found)
        # Dagster starts one run per run key, so a repeated or interrupted evaluation requests nothing twice.
        requests = [
            request_for(verdict, f"{verdict.metric_date}@{verdict.fingerprint}")
            for verdict in verdicts
            if verdict.state is DayState.DIRTY
        ]
        return requests or dg.SkipReason(found)

    return late_logs_sensor
