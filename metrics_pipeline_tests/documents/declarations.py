"""The declarations in the code that the documents use: the only module to change when one of them moves."""

from collections.abc import Sequence

from metrics_pipeline.adapters.products import PRODUCTS
from metrics_pipeline.metrics.catalog import AGENT_DAY
from metrics_pipeline.metrics.upstream import METADATA_COLUMNS, UPSTREAM_TABLES
from metrics_pipeline.names import LOGS_TABLE
from metrics_pipeline.settings import VARIABLES


def metric_columns() -> Sequence[tuple[str, str, str]]:
    """Name, SQL type and meaning of each column of agent_performance_metrics."""
    return [(column.name, column.sql_type, column.meaning) for column in AGENT_DAY.columns]


def upstream_columns() -> dict[str, Sequence[tuple[str, Sequence[str], str]]]:
    """Name, accepted types (none for any) and meaning of each column that we read, by table."""
    tables = UPSTREAM_TABLES | {LOGS_TABLE: (*UPSTREAM_TABLES[LOGS_TABLE], *METADATA_COLUMNS)}
    return {
        table: [
            (column.name, column.accepted, column.meaning + (" May be missing." if column.is_optional else ""))
            for column in columns
        ]
        for table, columns in tables.items()
    }


def variables() -> Sequence[tuple[str, str, str, str]]:
    """Name, meaning, accepted values and default of each variable. Without a default, the meaning says what happens."""
    return [
        (variable.name, variable.description, variable.accepts, variable.default) for variable in VARIABLES.values()
    ]


def products() -> Sequence[tuple[str, str, dict[str, str]]]:
    """Name, title, and what is what in each product whose tables are known."""
    return [(product.name, product.title, product.meanings) for product in PRODUCTS.values()]
