"""The code location: everything that Dagster loads. Importing this module touches no database."""

import gc

# What is imported stays. Every process of Dagster's imports it, and to look for garbage in it takes a fifth of the
# processor time of a run.
_was_collecting = gc.isenabled()
gc.disable()

from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import TypedDict, Unpack

import dagster as dg

from metrics_pipeline.metrics.dimensions import Dimension
from metrics_pipeline.metrics.retention import RetentionPolicy
from metrics_pipeline.orchestration.assets import build_metrics_asset
from metrics_pipeline.orchestration.checks.assembly import build_checks
from metrics_pipeline.orchestration.consumers import CONSUMERS, breakdown_assets
from metrics_pipeline.orchestration.jobs import (
    build_daily_checks_job,
    build_daily_metrics_job,
    build_data_retention_job,
)
from metrics_pipeline.orchestration.links import with_links
from metrics_pipeline.orchestration.notifications import build_notifications_sensor
from metrics_pipeline.orchestration.overview import build_overview_asset
from metrics_pipeline.orchestration.partitions import build_daily_partitions
from metrics_pipeline.orchestration.resources import build_database_resource
from metrics_pipeline.orchestration.retention import build_retention_asset
from metrics_pipeline.orchestration.schedules import (
    build_daily_checks_schedule,
    build_daily_metrics_schedule,
    build_data_retention_schedule,
)
from metrics_pipeline.orchestration.sensors import build_checks_sensors, build_late_logs_sensor
from metrics_pipeline.orchestration.upstream import upstream_assets
from metrics_pipeline.settings import Settings
from metrics_pipeline.variables import Receiver


class SettingsOverrides(TypedDict, total=False):
    """The fields of Settings that definitions depend on."""

    home: Path
    database_url: str | None
    logs_url: str | None
    logs_table: str | None
    logs_columns: tuple[tuple[str, str], ...]
    success_statuses: tuple[str, ...]
    failed_statuses: tuple[str, ...]
    time_zone: str
    start_date: date
    lookback_days: int
    retention: RetentionPolicy
    owners: tuple[str, ...]
    dimensions: tuple[Dimension, ...]
    notify: tuple[Receiver, ...]
    notify_daily: tuple[Receiver, ...]
    notify_weekly: tuple[Receiver, ...]
    alerts_to: str | None
    api_url: str | None
    source_url: str | None


def build_defs(**overrides: Unpack[SettingsOverrides]) -> dg.Definitions:
    """The definitions for the environment's settings, except those that are overridden.

    Raises SettingsError for an environment variable that cannot be used.
    """
    settings = replace(Settings.from_environment(), **overrides)
    partitions = build_daily_partitions(settings)
    checks = build_checks(settings)
    job = build_daily_metrics_job()
    checks_job = build_daily_checks_job(checks)
    retention_job = build_data_retention_job()
    return dg.Definitions(
        assets=with_links(
            [
                *upstream_assets(settings.retention, partitions),
                build_metrics_asset(partitions, settings),
                build_overview_asset(settings),
                build_retention_asset(settings),
                *breakdown_assets(settings.dimensions, settings.owners),
                *CONSUMERS,
            ],
            settings,
        ),
        asset_checks=checks,
        jobs=[job, checks_job, retention_job],
        sensors=[
            build_late_logs_sensor(job, settings),
            *build_checks_sensors(checks_job),
            build_notifications_sensor(settings),
        ],
        schedules=[
            build_daily_metrics_schedule(job, settings),
            build_daily_checks_schedule(checks_job, settings),
            build_data_retention_schedule(retention_job, settings),
        ],
        resources={"database": build_database_resource(settings)},
        executor=dg.in_process_executor,
    )


try:
    defs = build_defs()
finally:
    gc.freeze()
    if _was_collecting:
        gc.enable()
