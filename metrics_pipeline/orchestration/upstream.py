"""The tables of other systems as external assets: Dagster shows them and their lineage, and never writes them."""

import dagster as dg

from metrics_pipeline.metrics.retention import RetentionPolicy
from metrics_pipeline.metrics.wording import counted
from metrics_pipeline.names import ALERTS_TABLE, LOGS_TABLE, REGISTRY_TABLE
from metrics_pipeline.orchestration.columns import upstream_table_schema

_LOGS = """
One row per execution of an agent, written by the platform and read here. Raw logs are {kept}.

**When a check is yellow**, its description says which logs are meant and what happens to them. Correct them where they
are written: `late_logs_sensor` finds corrected, late and deleted logs and has their days aggregated again.
"""

_REGISTRY = """
The agents of the platform. Each one with status active gets a row of metrics every day, also without logs. An agent
that is retired later keeps its rows.
"""

_ALERTS = "Alerts that the platform raised. Resolved ones are {kept}, unresolved ones are never deleted."


def _upstream(table: str) -> dg.AssetSpec:
    return dg.AssetSpec(
        table,
        group_name="upstream",
        kinds={"postgres", "table"},
        tags={"written_by": "platform"},
        metadata={"dagster/table_name": table, "dagster/column_schema": upstream_table_schema(table)},
    )


agent_execution_logs = _upstream(LOGS_TABLE)
agent_registry = _upstream(REGISTRY_TABLE)
alert_history = _upstream(ALERTS_TABLE)

#: The assets that a day's metrics are computed from.
SOURCE_ASSETS = (agent_execution_logs, agent_registry)


def kept(days: int | None) -> str:
    """For how long rows are kept, in words."""
    return "kept forever" if days is None else f"kept for {counted(days, 'day')}"


def upstream_assets(
    retention: RetentionPolicy, partitions: dg.TimeWindowPartitionsDefinition
) -> tuple[dg.AssetSpec, ...]:
    """The assets as the UI shows them: their descriptions say for how many days `retention` keeps the rows.

    Each day of logs has a data version of its own.
    """
    return (
        agent_execution_logs.replace_attributes(
            description=_LOGS.format(kept=kept(retention.raw_log_days)), partitions_def=partitions
        ),
        agent_registry.replace_attributes(description=_REGISTRY),
        alert_history.replace_attributes(description=_ALERTS.format(kept=kept(retention.alert_days))),
    )
