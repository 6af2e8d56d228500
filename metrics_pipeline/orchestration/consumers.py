"""Who reads the metrics, as external assets: the lineage does not end at a table."""

import dagster as dg

from metrics_pipeline.orchestration.asset_keys import METRICS_ASSET_KEY

#: The programs that read the stored metrics over HTTP.
CONSUMERS = (
    dg.AssetSpec(
        "metrics_api",
        deps=[METRICS_ASSET_KEY],
        group_name="consumers",
        kinds={"api"},
        description="The JSON and CSV API that programs, spreadsheets and dashboards read: metrics-pipeline api.",
    ),
)
