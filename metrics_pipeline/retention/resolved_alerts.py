"""Deleting alerts that were resolved before the cutoff. An unresolved alert stays forever."""

from sqlalchemy import Connection, text

from metrics_pipeline.metrics.windows import day_window
from metrics_pipeline.names import ALERTS_TABLE
from metrics_pipeline.retention.partitions import tables_of
from metrics_pipeline.retention.report import RetentionReport

_COUNT = text("SELECT count(*) FROM alert_history WHERE resolved_at < CAST(:before AS timestamptz)")
_DELETE = text("DELETE FROM alert_history WHERE resolved_at < CAST(:before AS timestamptz)")


def delete_resolved_alerts(connection: Connection, report: RetentionReport) -> None:
    """Deletes, or in a dry run counts, the alerts resolved before the cutoff. Those of a view stay."""
    before = day_window(report.cutoffs.alerts, report.cutoffs.time_zone).start
    tables = tables_of(connection, ALERTS_TABLE, "resolved_at", before)
    if not tables or not all(table.is_table for table in tables):
        report.alerts_held_back = "alert_history does not exist, or is not a table: retention deletes from tables only"
    elif report.is_dry_run:
        report.deleted_alerts = connection.execute(_COUNT, {"before": before}).scalar_one()
    else:
        report.deleted_alerts = connection.execute(_DELETE, {"before": before}).rowcount
