"""The columns of the tables as the UI shows them: types, meaning, and the upstream columns of each metric."""

import dagster as dg

from metrics_pipeline.metrics.catalog import AGENT_DAY, METRICS
from metrics_pipeline.metrics.upstream import UPSTREAM_TABLES
from metrics_pipeline.names import LOGS_TABLE, REGISTRY_TABLE
from metrics_pipeline.postgres.tables import agent_performance_metrics

_OUR_TIMES = {
    "created_at": "When the row was first stored.",
    "updated_at": "When its values last changed; NULL if they never have.",
}


def metrics_table_schema() -> dg.TableSchema:
    """Every column of agent_performance_metrics, as in the database."""
    descriptions = {column.name: column.meaning for column in AGENT_DAY.columns} | _OUR_TIMES
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
        dg.TableConstraints([f"primary key ({', '.join(AGENT_DAY.key_names)})"]),
    )


def metrics_column_lineage() -> dg.TableColumnLineage:
    """The upstream columns that each column is computed from; created_at and updated_at have none."""
    made_of = {
        metric.name: [(LOGS_TABLE, column) for column in ("agent_id", "timestamp", *metric.inputs)]
        for metric in METRICS
    }
    made_of["agent_id"] = [(REGISTRY_TABLE, "id"), (REGISTRY_TABLE, "status")]
    made_of["metric_date"] = [(LOGS_TABLE, "timestamp")]
    return dg.TableColumnLineage(
        {name: [dg.TableColumnDep(*source) for source in sources] for name, sources in made_of.items()}
    )


def upstream_table_schema(table: str) -> dg.TableSchema:
    """The columns of an upstream table that are read, with their accepted types."""
    return dg.TableSchema(
        [
            dg.TableColumn(column.name, " or ".join(column.accepted) or "any", column.meaning)
            for column in UPSTREAM_TABLES[table]
        ]
    )
