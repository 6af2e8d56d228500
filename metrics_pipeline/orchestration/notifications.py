"""The sensor that finds out what is wrong with the data and the pipeline, and has everybody told of alerts."""

import json
from collections.abc import Callable
from datetime import UTC, date, datetime
from zoneinfo import ZoneInfo

import dagster as dg

from metrics_pipeline.names import NOTIFICATIONS_SENSOR
from metrics_pipeline.orchestration.notifications_findings import conditions_of_dagster
from metrics_pipeline.orchestration.reconciling import naming_locks
from metrics_pipeline.pipeline.data_alerts import conditions_of_days, differing_since, judged_days, note_conditions
from metrics_pipeline.pipeline.delivery import deliver
from metrics_pipeline.postgres.database import Database
from metrics_pipeline.settings import Settings

_INTERVAL_SECONDS = 60
#: Together below Dagster's limit of 60 seconds for a tick. The last answer is noted after _TELL_SECONDS.
_LOOK_SECONDS = 20
_TELL_SECONDS = 30
_LOCK_SECONDS = 5

_DESCRIPTION = """
Every minute compares what is wrong (a day that is missing, has shrunk or stays dirty, failed runs, ticks and checks)
with the open alerts, and tells the configured receivers what has become of alerts since the last message: one message
for each receiver. A receiver that does not answer is told later, after 1, 2, 4 and up to 60 minutes. Reads no
logs. The skip reason says who was told.
"""


def build_notifications_sensor(
    settings: Settings, now: Callable[[], datetime] = lambda: datetime.now(UTC)
) -> dg.SensorDefinition:
    """The sensor, running by default. Its ticks carry no time, hence `now`."""

    @dg.sensor(
        name=NOTIFICATIONS_SENSOR,
        minimum_interval_seconds=_INTERVAL_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=_DESCRIPTION,
    )
    def notifications_sensor(
        context: dg.SensorEvaluationContext, database: dg.ResourceParam[Database]
    ) -> dg.SkipReason:
        at, zone = now(), settings.time_zone
        today = at.astimezone(ZoneInfo(zone)).date()
        hurried = database.within(_LOOK_SECONDS, lock_seconds=_LOCK_SECONDS)
        with naming_locks(database):
            verdicts = judged_days(hurried, settings, at)
            since = differing_since(verdicts, _since(context.cursor), at)
            context.update_cursor(json.dumps({str(day): instant.isoformat() for day, instant in since.items()}))
            found = conditions_of_dagster(context.instance, at, zone)
            note_conditions(hurried, {**conditions_of_days(verdicts, since, at, zone), **found}, today)
            telling = database.within(_TELL_SECONDS + _LOCK_SECONDS, lock_seconds=_LOCK_SECONDS)
            outcomes = deliver(telling, settings, at, seconds=_TELL_SECONDS)
        for outcome in outcomes:
            (context.log.warning if outcome.error else context.log.info)(str(outcome))
        return dg.SkipReason(" ".join(map(str, outcomes)) or "There is nothing to tell.")

    return notifications_sensor


def _since(cursor: str | None) -> dict[date, datetime]:
    """Since when days differ from their logs. Anybody can write into a cursor in the UI: then it begins again."""
    try:
        return {date.fromisoformat(day): datetime.fromisoformat(at) for day, at in json.loads(cursor or "{}").items()}
    except (ValueError, TypeError, AttributeError):
        return {}
