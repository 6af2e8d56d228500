"""The daily partitions, and the way from a partition key to the window of its day."""

from datetime import UTC

import dagster as dg

from metrics_pipeline.metrics.windows import DayWindow
from metrics_pipeline.settings import Settings


def build_daily_partitions(settings: Settings) -> dg.DailyPartitionsDefinition:
    """One partition per calendar day from METRICS_START_DATE on, as METRICS_TIME_ZONE counts days."""
    return dg.DailyPartitionsDefinition(start_date=settings.start_date.isoformat(), timezone=settings.time_zone)


def window_of(partitions: dg.TimeWindowPartitionsDefinition, partition_key: str) -> DayWindow:
    """The instants that the partition stands for."""
    span = partitions.time_window_for_partition_key(partition_key)
    return DayWindow(
        metric_date=span.start.date(),
        time_zone=partitions.timezone,
        start=span.start.astimezone(UTC),
        end=span.end.astimezone(UTC),
    )
