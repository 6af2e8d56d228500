"""The breakdowns, and who reads the metrics, as external assets: the lineage does not end at a table."""

from collections.abc import Sequence

import dagster as dg

from metrics_pipeline.metrics.catalog import AGENT_DIMENSION_DAY
from metrics_pipeline.metrics.dimensions import Dimension, definitions
from metrics_pipeline.names import API_ASSET, PAGE_ASSET
from metrics_pipeline.orchestration.asset_keys import METRICS_ASSET_KEY
from metrics_pipeline.orchestration.columns import metrics_column_lineage, metrics_table_schema
from metrics_pipeline.orchestration.upstream import SOURCE_ASSETS

#: Who reads the stored metrics over HTTP.
CONSUMERS = (
    dg.AssetSpec(
        API_ASSET,
        deps=[METRICS_ASSET_KEY],
        group_name="consumers",
        kinds={"api"},
        description="The JSON and CSV API that programs, spreadsheets and dashboards read: metrics-pipeline api.",
    ),
    dg.AssetSpec(
        PAGE_ASSET,
        deps=[API_ASSET],
        group_name="consumers",
        kinds={"html"},
        description="The page that people look at in a browser. The API serves it, and it shows the API's answers.",
    ),
)


def breakdown_assets(dimensions: Sequence[Dimension], owners: Sequence[str]) -> list[dg.AssetSpec]:
    """The table of breakdowns, which the runs of the metrics write in the same transaction; none without dimensions."""
    table = AGENT_DIMENSION_DAY.table
    spec = dg.AssetSpec(
        table,
        deps=[METRICS_ASSET_KEY, *SOURCE_ASSETS],
        group_name="metrics",
        kinds={"postgres", "table"},
        owners=owners,
        tags={"written_by": "metrics_pipeline", "grain": "agent_day_value"},
        metadata={
            "dagster/table_name": table,
            "dagster/column_schema": metrics_table_schema(AGENT_DIMENSION_DAY),
            "dagster/column_lineage": metrics_column_lineage(dimensions),
            "dimensions": definitions(dimensions),
        },
        description="One row per agent, day and value of a dimension, at most 51 for each; their sums are the agent's "
        "row. Materialising agent_performance_metrics writes them too.",
    )
    return [spec] if dimensions else []
