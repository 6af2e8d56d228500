"""Deleting alerts that were resolved before the cutoff. An unresolved alert stays forever."""

from datetime import datetime

from sqlalchemy import Connection, text

from metrics_pipeline.errors import PermanentError
from metrics_pipeline.names import ALERTS_TABLE
from metrics_pipeline.retention.pace import OnProgress, PacedConnection
from metrics_pipeline.retention.partitions import tables_of
from metrics_pipeline.retention.report import RetentionReport

_COUNT = text("SELECT count(*) FROM alert_history WHERE resolved_at < CAST(:before AS timestamptz)")

# By time and not by ctid, which is unique in one partition only.
_DELETE_BATCH = text("""
DELETE FROM alert_history
WHERE resolved_at < CAST(:before AS timestamptz) AND resolved_at <= coalesce(
    (SELECT resolved_at FROM alert_history WHERE resolved_at < CAST(:before AS timestamptz)
      ORDER BY resolved_at OFFSET :rows - 1 LIMIT 1), 'infinity')""")


def delete_resolved_alerts(
    paced: PacedConnection, report: RetentionReport, before: datetime, on_progress: OnProgress
) -> None:
    """Deletes, or in a dry run counts, the alerts resolved before the instant.

    Raises OutOfTimeError at the end of the time budget, and PermanentError for a view or a foreign table.
    """
    parameters = {"before": before, "rows": paced.pace.batch_rows}
    if report.is_dry_run:
        report.deleted_alerts = paced.transaction(lambda connection: connection.scalar(_COUNT, parameters) or 0)
        return

    def delete(connection: Connection) -> int:
        for table in tables_of(connection, ALERTS_TABLE, "resolved_at", before):
            if not table.is_table:
                raise PermanentError(f"Retention deletes from tables only, and {table.name} is not one.")
        return connection.execute(_DELETE_BATCH, parameters).rowcount

    while True:
        paced.check_time()
        deleted = paced.transaction(delete)
        report.deleted_alerts += deleted
        if deleted < paced.pace.batch_rows:
            return
        on_progress(f"alert_history: {report.deleted_alerts:,} resolved alerts deleted")
        paced.pause()
