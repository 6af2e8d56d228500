"""The main asset: agent_performance_metrics, one partition per day."""

import warnings
from collections.abc import Iterator
from typing import cast

import dagster as dg
from pydantic import Field

from metrics_pipeline.errors import PermanentError
from metrics_pipeline.metrics.catalog import DEFINITION_VERSION
from metrics_pipeline.metrics.reconciliation import none_counted
from metrics_pipeline.orchestration.asset_keys import METRICS_ASSET_KEY
from metrics_pipeline.orchestration.columns import metrics_column_lineage, metrics_table_schema
from metrics_pipeline.orchestration.dagster_internals import silent_output
from metrics_pipeline.orchestration.failures import raise_failed_days, step_outcome
from metrics_pipeline.orchestration.links import day_links
from metrics_pipeline.orchestration.observations import observe
from metrics_pipeline.orchestration.reports import alert_metadata, day_materialization, stored_materialization
from metrics_pipeline.orchestration.runs import reason_for, work_of
from metrics_pipeline.orchestration.upstream import SOURCE_ASSETS
from metrics_pipeline.pipeline.aggregation import AggregationOptions, aggregate_days
from metrics_pipeline.pipeline.opening import open_source
from metrics_pipeline.postgres.database import Database
from metrics_pipeline.settings import Settings

_DESCRIPTION = """
One row per agent and day, computed from the logs of the calendar day in METRICS_TIME_ZONE and exact to the last digit:
executions, success rate, latency percentiles, tokens, cost, errors, human interventions and users. The column schema
below defines every column. Every active agent has a row, also without logs.

`daily_metrics_schedule` asks for yesterday at 02:00, `late_logs_sensor` for days whose logs have changed since.

**When a day is red**, read the run's error: it names the cause and the remedy. Nothing of a failed day was written,
so materialising it again is always safe, and so is materialising a day that is green: only values that changed are
replaced, and each is kept in `metric_restatements`.

**When a check is red**, the day is stored all the same; the check's description says what to do.
"""


class AggregationConfig(dg.Config):
    """What the launchpad offers for a run."""

    include_inactive_agents: bool = Field(
        default=False,
        description="Also aggregate agents that are not active in agent_registry, for backfills of retired agents.",
    )
    accept_deleted_logs: bool = Field(
        default=False,
        description="Also aggregate days that have shrunk, because logs or columns in their metrics are gone.",
    )
    renew_dimensions: bool = Field(
        default=False,
        description="Aggregate only the stored days that are broken down by other dimensions than METRICS_DIMENSIONS.",
    )


def build_metrics_asset(partitions: dg.TimeWindowPartitionsDefinition, settings: Settings) -> dg.AssetsDefinition:
    """The asset over the given daily partitions."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.BetaWarning)  # about backfill_policy; an operator cannot act on it
        daily_asset = dg.asset(
            key=METRICS_ASSET_KEY,
            partitions_def=partitions,
            # A run takes 2.5 s to start and most days take far less, so a backfill is one run over its days.
            backfill_policy=dg.BackfillPolicy.single_run(),
            deps=SOURCE_ASSETS,
            group_name="metrics",
            kinds={"postgres", "polars"},
            owners=settings.owners,
            tags={"written_by": "metrics_pipeline", "grain": "agent_day"},
            metadata={
                "dagster/table_name": METRICS_ASSET_KEY.to_user_string(),
                "dagster/column_schema": metrics_table_schema(),
                "dagster/column_lineage": metrics_column_lineage(),
            },
            code_version=DEFINITION_VERSION,
            description=_DESCRIPTION.replace("METRICS_TIME_ZONE", partitions.timezone),
            # By default Dagster marks all partitions of a run as materialised at its end, and none if one failed.
            # Instead the body reports each day when it is committed, and outputs nothing.
            dagster_type=cast("dg.DagsterType", dg.Nothing),
        )

    @daily_asset
    def agent_performance_metrics(
        context: dg.AssetExecutionContext, config: AggregationConfig, database: dg.ResourceParam[Database]
    ) -> Iterator[dg.AssetMaterialization | dg.Output[None]]:
        failures: dict[str, PermanentError] = {}
        with step_outcome(context):
            logs = open_source(database, settings)
            for warning in logs.warnings:
                context.log.warning(warning)
            work = work_of(
                context, database, logs, partitions, renewed=settings.dimensions if config.renew_dimensions else None
            )
            for key, (stored, why) in work.sealed.items():
                context.log.warning(f"Left out: {why}")
                yield stored_materialization(context.instance, METRICS_ASSET_KEY, key, stored, why, context.run.tags)
            for key, day in aggregate_days(
                database,
                logs,
                work.to_aggregate,
                AggregationOptions(config.include_inactive_agents, config.accept_deleted_logs),
                run_id=context.run.run_id,
                reason=reason_for(context.run.tags),
                configured_key=settings.user_key,
                alerting=settings.alerting,
            ):
                if isinstance(day, PermanentError):
                    context.log.error(f"{key} failed and stays as it was: {day}")
                    failures[key] = day
                else:
                    if uncounted := none_counted(day.computed.metrics.fingerprint):
                        context.log.warning(f"{key}: {uncounted}")
                    observed = observe(context.instance, key, day.computed.metrics.fingerprint)
                    links = day_links(settings, day.computed.window.metric_date)
                    beside = {**links, **alert_metadata(day.published.alert_changes)}
                    yield day_materialization(METRICS_ASSET_KEY, key, day, context.run.tags, observed, beside)
            raise_failed_days(failures)
        yield silent_output()  # the checks wait for it

    return agent_performance_metrics
