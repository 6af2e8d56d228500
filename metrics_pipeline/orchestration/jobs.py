"""The jobs that people and schedules start."""

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from metrics_pipeline.orchestration.assets import METRICS_ASSET_KEY

DAILY_METRICS_JOB = "daily_metrics_job"


def build_daily_metrics_job(partitions: dg.TimeWindowPartitionsDefinition) -> UnresolvedAssetJobDefinition:
    """Aggregates the days of its partitions."""
    return dg.define_asset_job(
        DAILY_METRICS_JOB,
        selection=dg.AssetSelection.assets(METRICS_ASSET_KEY),
        partitions_def=partitions,
        # One step: a process of its own for it would double the run's start-up of 2.5 s.
        executor_def=dg.in_process_executor,
        description="Turns the logs of each selected day into one row of metrics per agent.",
    )
