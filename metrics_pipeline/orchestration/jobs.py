"""The jobs that people and schedules start."""

from collections.abc import Sequence

import dagster as dg

from metrics_pipeline.names import DAILY_CHECKS_JOB, DAILY_METRICS_JOB, DATA_RETENTION_JOB
from metrics_pipeline.orchestration.asset_keys import METRICS_ASSET_KEY, OVERVIEW_ASSET_KEY, RETENTION_ASSET_KEY
from metrics_pipeline.orchestration.dagster_internals import AssetJob


def build_daily_metrics_job() -> AssetJob:
    """Aggregates the days of its partitions, and then evaluates the asset's checks and renews the overview."""
    return dg.define_asset_job(
        DAILY_METRICS_JOB,
        selection=dg.AssetSelection.assets(METRICS_ASSET_KEY, OVERVIEW_ASSET_KEY),
        # A separate process for each step would cost as much as the run's start-up of 2.5 s.
        executor_def=dg.in_process_executor,
        description=(
            "Turns the logs of each selected day into one row of metrics per agent, then evaluates the asset's checks "
            "once and renews agent_overview. Set include_inactive_agents to add agents that are not active, for "
            "backfills of retired ones."
        ),
    )


def build_daily_checks_job(checks: Sequence[dg.AssetChecksDefinition]) -> AssetJob:
    """Evaluates `checks`, and materialises nothing."""
    return dg.define_asset_job(
        DAILY_CHECKS_JOB,
        selection=dg.AssetSelection.checks(*checks),
        executor_def=dg.in_process_executor,
        description="Evaluates every check on the days as they are now: of the stored metrics and of the logs.",
    )


def build_data_retention_job() -> AssetJob:
    """Prunes what is older than the policy keeps."""
    return dg.define_asset_job(
        DATA_RETENTION_JOB,
        selection=dg.AssetSelection.assets(RETENTION_ASSET_KEY),
        executor_def=dg.in_process_executor,
        description="Deletes old raw logs that are safely aggregated, old metrics, and resolved alerts.",
    )
