"""The tables of other systems as external assets: Dagster shows them and their lineage, and never writes them."""

import dagster as dg

from metrics_pipeline.names import ALERTS_TABLE, LOGS_TABLE, REGISTRY_TABLE
from metrics_pipeline.orchestration.columns import upstream_table_schema


def _upstream(table: str, description: str) -> dg.AssetSpec:
    return dg.AssetSpec(
        table,
        group_name="upstream",
        kinds={"postgres", "table"},
        tags={"written_by": "platform"},
        metadata={"dagster/table_name": table, "dagster/column_schema": upstream_table_schema(table)},
        description=description,
    )


agent_execution_logs = _upstream(
    LOGS_TABLE,
    """
One row per execution of an agent, written by the platform and read here. Raw logs are kept for 30 days.

**When a check is yellow**, its description says which logs are meant and what happens to them. Correct them where they
are written: `late_logs_sensor` finds corrected, late and deleted logs and has their days aggregated again.
""",
)

agent_registry = _upstream(
    REGISTRY_TABLE,
    """
The agents of the platform. Each one with status `active` gets a row of metrics every day, also without logs. An agent
that is retired later keeps its rows.
""",
)

alert_history = _upstream(
    ALERTS_TABLE,
    "Alerts that the platform raised. Resolved ones are kept for 90 days, unresolved ones for ever.",
)

#: What a day is made of.
SOURCE_ASSETS = (agent_execution_logs, agent_registry)
UPSTREAM_ASSETS = (*SOURCE_ASSETS, alert_history)
