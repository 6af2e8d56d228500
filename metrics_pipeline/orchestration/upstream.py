"""The tables of other systems as external assets: Dagster shows them and their lineage, and never writes them."""

import dagster as dg

_GROUP = "upstream"

agent_execution_logs = dg.AssetSpec(
    "agent_execution_logs",
    group_name=_GROUP,
    kinds={"postgres", "table"},
    description="One row per execution of an agent, written by the platform. Raw logs are kept for 30 days.",
)

agent_registry = dg.AssetSpec(
    "agent_registry",
    group_name=_GROUP,
    kinds={"postgres", "table"},
    description="The agents of the platform. Those with status 'active' get a row of metrics each day.",
)

alert_history = dg.AssetSpec(
    "alert_history",
    group_name=_GROUP,
    kinds={"postgres", "table"},
    description="Alerts that the platform raised. Resolved ones are kept for 90 days, unresolved ones for ever.",
)

#: What a day is made of.
SOURCE_ASSETS = (agent_execution_logs, agent_registry)
UPSTREAM_ASSETS = (*SOURCE_ASSETS, alert_history)
