"""Ours: the asset's steps, from the guard to the ledger."""

from datetime import date

import pyarrow as pa  # noqa: F401 - the first day that is read imports it; imports are no part of the seconds

from metrics_pipeline.metrics.windows import day_window
from metrics_pipeline.pipeline.aggregation import AggregationOptions, compute_day, store_day
from metrics_pipeline.pipeline.opening import open_logs
from metrics_pipeline.postgres.database import Database
from metrics_pipeline.postgres.urls import DatabaseUrl
from metrics_pipeline.store.publishing import Reason


def run(url: str, day: str) -> dict[str, float]:
    """The contract check, which comes once per run and not per day, is part of the seconds."""
    database = Database(DatabaseUrl.parse(url))
    window = day_window(date.fromisoformat(day), "UTC")
    computed = compute_day(database, open_logs(database), window, AggregationOptions())
    store_day(database, computed, run_id="benchmark", reason=Reason.MANUAL)
    return computed.timings.seconds
