"""The columns of the tables as the UI shows them: types, meaning, and which upstream columns each metric is made of."""

import dagster as dg

from metrics_pipeline.metrics.schema import KEY_COLUMNS, METRIC_COLUMNS
from metrics_pipeline.postgres.tables import agent_performance_metrics

#: Columns of the upstream tables: type and meaning. Which types are accepted is the contract check's to say.
_LOG_COLUMNS = {
    "id": ("any", "Identifies the log."),
    "agent_id": ("text or uuid", "The agent, as agent_registry.id spells it."),
    "timestamp": ("timestamptz, or timestamp in UTC", "When the execution was logged; decides its day."),
    "status": ("text", "'success', 'failed', or any other, which counts in the total only."),
    "latency_ms": ("integer", "Latency in milliseconds. NULL is left out."),
    "token_count": ("integer", "Tokens used. NULL counts as 0."),
    "cost_usd": ("numeric", "Cost in USD. NULL counts as 0, and so does what is no number."),
    "error_type": ("text", "Why it failed; looked at only for status 'failed'. NULL counts under 'unknown'."),
    "metadata": ("json or jsonb", "Of which human_intervention and user_id are read."),
}
_REGISTRY_COLUMNS = {
    "id": ("text or uuid", "Identifies the agent."),
    "name": ("text", "What people call it."),
    "status": ("text", "'active', or not."),
}
_ALERT_COLUMNS = {
    "id": ("any", "Identifies the alert."),
    "agent_id": ("text or uuid", "The agent that the alert is about."),
    "alert_type": ("text", "What kind of alert it is."),
    "severity": ("text", "How bad it is."),
    "message": ("text", "What it says."),
    "triggered_at": ("timestamptz, or timestamp in UTC", "When it was raised."),
    "resolved_at": ("timestamptz, or timestamp in UTC", "When it was resolved; NULL while it is not."),
}
UPSTREAM_COLUMNS = {
    "agent_execution_logs": _LOG_COLUMNS,
    "agent_registry": _REGISTRY_COLUMNS,
    "alert_history": _ALERT_COLUMNS,
}

_OUR_TIMES = {
    "created_at": "When the row was first stored.",
    "updated_at": "When its values last changed; NULL if they never have.",
}

_LATENCIES = ("avg_latency_ms", "p50_latency_ms", "p95_latency_ms", "p99_latency_ms")
#: The columns of agent_execution_logs that each metric is computed from, beside those that decide its row.
_MADE_OF_LOG_COLUMNS = {
    "total_executions": (),
    "successful_executions": ("status",),
    "failed_executions": ("status",),
    "success_rate": ("status",),
    **dict.fromkeys(("avg_latency_ms", "p50_latency_ms", "p95_latency_ms", "p99_latency_ms"), ("latency_ms",)),
    "total_tokens": ("token_count",),
    "total_cost_usd": ("cost_usd",),
    "avg_cost_per_execution": ("cost_usd",),
    "error_distribution": ("status", "error_type"),
    "human_interventions": ("metadata",),
    "unique_users": ("metadata",),
}


def metrics_table_schema() -> dg.TableSchema:
    """Every column of agent_performance_metrics, as the database has it."""
    descriptions = {column.name: column.description for column in KEY_COLUMNS + METRIC_COLUMNS} | _OUR_TIMES
    return dg.TableSchema(
        [
            dg.TableColumn(
                column.name,
                str(column.type.compile()).lower(),
                descriptions[column.name],
                dg.TableColumnConstraints(nullable=bool(column.nullable)),
            )
            for column in agent_performance_metrics.columns
        ],
        dg.TableConstraints(["primary key (agent_id, metric_date)"]),
    )


def metrics_column_lineage() -> dg.TableColumnLineage:
    """The upstream columns that each column is made of; created_at and updated_at are made of none."""
    made_of = {
        name: [("agent_execution_logs", column) for column in ("agent_id", "timestamp", *columns)]
        for name, columns in _MADE_OF_LOG_COLUMNS.items()
    }
    made_of["agent_id"] = [("agent_registry", "id"), ("agent_registry", "status")]
    made_of["metric_date"] = [("agent_execution_logs", "timestamp")]
    return dg.TableColumnLineage(
        {name: [dg.TableColumnDep(*source) for source in sources] for name, sources in made_of.items()}
    )


def upstream_table_schema(table: str) -> dg.TableSchema:
    """The columns of an upstream table that are read."""
    return dg.TableSchema(
        [dg.TableColumn(name, type_, description) for name, (type_, description) in UPSTREAM_COLUMNS[table].items()]
    )
