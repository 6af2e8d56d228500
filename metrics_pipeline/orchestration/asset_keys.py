"""The keys of our assets."""

import dagster as dg

from metrics_pipeline.names import METRICS_ASSET, OVERVIEW_ASSET, RETENTION_ASSET

METRICS_ASSET_KEY = dg.AssetKey(METRICS_ASSET)
RETENTION_ASSET_KEY = dg.AssetKey(RETENTION_ASSET)
OVERVIEW_ASSET_KEY = dg.AssetKey(OVERVIEW_ASSET)
