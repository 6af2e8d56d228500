"""The jobs that people and schedules start."""

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from metrics_pipeline.orchestration.names import (
    DAILY_METRICS_JOB,
    DATA_RETENTION_JOB,
    METRICS_ASSET_KEY,
    RETENTION_ASSET_KEY,
)


def build_daily_metrics_job() -> UnresolvedAssetJobDefinition:
    """Aggregates the days of its partitions."""
    return dg.define_asset_job(
        DAILY_METRICS_JOB,
        selection=dg.AssetSelection.assets(METRICS_ASSET_KEY),
        # One step: a process of its own for it would double the run's start-up of 2.5 s.
        executor_def=dg.in_process_executor,
        description="Turns the logs of each selected day into one row of metrics per agent.",
    )


def build_data_retention_job() -> UnresolvedAssetJobDefinition:
    """Prunes what is older than the policy keeps."""
    return dg.define_asset_job(
        DATA_RETENTION_JOB,
        selection=dg.AssetSelection.assets(RETENTION_ASSET_KEY),
        executor_def=dg.in_process_executor,
        description="Deletes old raw logs that are safely aggregated, old metrics, and resolved alerts.",
    )
