"""The daily partitions, and the window of a partition key."""

from datetime import UTC

import dagster as dg

from metrics_pipeline.metrics.windows import DayWindow
from metrics_pipeline.settings import Settings


def build_daily_partitions(settings: Settings) -> dg.DailyPartitionsDefinition:
    """One partition per calendar day in METRICS_TIME_ZONE, from METRICS_START_DATE on."""
    return dg.DailyPartitionsDefinition(start_date=settings.start_date.isoformat(), timezone=settings.time_zone)


def window_of(partitions: dg.TimeWindowPartitionsDefinition, partition_key: str) -> DayWindow:
    """The window of the partition's day."""
    span = partitions.time_window_for_partition_key(partition_key)
    return DayWindow(
        metric_date=span.start.date(),
        time_zone=partitions.timezone,
        start=span.start.astimezone(UTC),
        end=span.end.astimezone(UTC),
    )
