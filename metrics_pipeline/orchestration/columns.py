"""The columns of the tables as the UI shows them: types, meaning, and the upstream columns of each metric."""

from collections.abc import Sequence

import dagster as dg

from metrics_pipeline.metrics.catalog import AGENT_DAY, METRICS, Grain
from metrics_pipeline.metrics.dimensions import Dimension
from metrics_pipeline.metrics.upstream import UPSTREAM_TABLES
from metrics_pipeline.names import LOGS_TABLE, REGISTRY_TABLE
from metrics_pipeline.postgres.tables import metadata

_OUR_TIMES = {
    "created_at": "When the row was first stored.",
    "updated_at": "When its values last changed; NULL if they never have.",
}


def metrics_table_schema(grain: Grain = AGENT_DAY) -> dg.TableSchema:
    """Every column of the grain's table, as in the database."""
    descriptions = {column.name: column.meaning for column in grain.columns} | _OUR_TIMES
    return dg.TableSchema(
        [
            dg.TableColumn(
                column.name,
                str(column.type.compile()).lower(),
                descriptions[column.name],
                dg.TableColumnConstraints(nullable=bool(column.nullable)),
            )
            for column in metadata.tables[grain.table].columns
        ],
        dg.TableConstraints([f"primary key ({', '.join(grain.key_names)})"]),
    )


def metrics_column_lineage(dimensions: Sequence[Dimension] = ()) -> dg.TableColumnLineage:
    """The upstream columns that each column is computed from; created_at and updated_at have none.

    dimensions: of a table with a row for each of their values, METRICS_DIMENSIONS.
    """
    made_of = {
        metric.name: [(LOGS_TABLE, column) for column in ("agent_id", "timestamp", *metric.inputs)]
        for metric in METRICS
    }
    made_of["agent_id"] = [(REGISTRY_TABLE, "id"), (REGISTRY_TABLE, "status")]
    made_of["metric_date"] = [(LOGS_TABLE, "timestamp")]
    if dimensions:
        sources = sorted({dimension.column for dimension in dimensions})
        of_values = ("dimension", "value_kind", "value", "merged_values")
        made_of |= {name: [(LOGS_TABLE, column) for column in sources] for name in of_values}
    return dg.TableColumnLineage(
        {name: [dg.TableColumnDep(*source) for source in found] for name, found in made_of.items()}
    )


def upstream_table_schema(table: str) -> dg.TableSchema:
    """The columns of an upstream table that are read, with their accepted types."""
    return dg.TableSchema(
        [
            dg.TableColumn(column.name, " or ".join(column.accepted) or "any", column.meaning)
            for column in UPSTREAM_TABLES[table]
        ]
    )
