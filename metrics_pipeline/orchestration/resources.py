"""The resource of a run: the database, opened when the run starts and not when the code is loaded."""

import dagster as dg

from metrics_pipeline import __version__
from metrics_pipeline.metrics.retention import NEVER
from metrics_pipeline.metrics.wording import counted
from metrics_pipeline.orchestration.processes import claim
from metrics_pipeline.pipeline.opening import open_database
from metrics_pipeline.postgres.database import Database
from metrics_pipeline.postgres.urls import DatabaseUrl
from metrics_pipeline.settings import Settings


def build_database_resource(settings: Settings) -> dg.ResourceDefinition:
    """The Database of METRICS_DATABASE_URL, else the embedded one, which the run's process then keeps running.

    The run that opens it is claimed here, once, because each of its steps would take 6 ms to do so.
    The description says with which settings the code location was loaded.
    """

    def postgresql_of_logs_and_metrics(context: dg.InitResourceContext) -> Database:
        if context.run is not None and context.instance is not None:
            claim(context.instance, context.run)
        return open_database(settings)

    return dg.ResourceDefinition(resource_fn=postgresql_of_logs_and_metrics, description=_about(settings))


def _about(settings: Settings) -> str:
    if settings.database_url is None:
        database = f"the embedded PostgreSQL in {settings.home}"
    else:
        database = DatabaseUrl.parse(settings.database_url).description
    retention = settings.retention
    kept = ", ".join(
        f"{what} {counted(days, 'day') if days is not None else NEVER + ' deleted'}"
        for what, days in (
            ("raw logs", retention.raw_log_days),
            ("metrics", retention.metric_days),
            ("resolved alerts", retention.alert_days),
        )
    )
    return "\n".join(
        [
            "The PostgreSQL that holds logs and metrics, and how this code location was configured:",
            "",
            f"- metrics_pipeline {__version__}",
            f"- Database: {database}",
            f"- Time zone: {settings.time_zone}; first day: {settings.start_date}",
            f"- Look-back: {counted(settings.lookback_days, 'day')}",
            f"- Kept: {kept}",
        ]
    )
