"""Deleting alerts that were resolved before the cutoff. An unresolved alert stays for ever."""

from datetime import datetime
from functools import partial

from sqlalchemy import Connection, text

from metrics_pipeline.retention.pace import PacedConnection
from metrics_pipeline.retention.partitions import Leaf, leaves
from metrics_pipeline.retention.raw_logs import OnProgress
from metrics_pipeline.retention.report import RetentionReport

_COUNT = text("SELECT count(*) FROM alert_history WHERE resolved_at < CAST(:before AS timestamptz)")

_DELETE_BATCH = """
DELETE FROM ONLY {leaf}
WHERE ctid = ANY(ARRAY(
    SELECT ctid FROM ONLY {leaf} WHERE resolved_at < CAST(:before AS timestamptz) ORDER BY resolved_at LIMIT :rows))"""


def delete_resolved_alerts(
    paced: PacedConnection, report: RetentionReport, before: datetime, on_progress: OnProgress
) -> None:
    """Deletes, or in a dry run counts, the alerts resolved before the instant.

    Raises OutOfTimeError at the end of the time budget.
    """
    parameters = {"before": before, "rows": paced.pace.batch_rows}
    if report.is_dry_run:
        report.deleted_alerts = paced.transaction(
            lambda connection: connection.execute(_COUNT, parameters).scalar_one()
        )
        return
    for leaf in paced.transaction(partial(leaves, table="alert_history", time_column="resolved_at", before=before)):
        while True:
            deleted = paced.transaction(partial(_delete_batch, leaf=leaf, parameters=parameters))
            report.deleted_alerts += deleted
            if deleted < paced.pace.batch_rows:
                break
            on_progress(f"alert_history: {report.deleted_alerts:,} resolved alerts deleted")
            paced.pause()


def _delete_batch(connection: Connection, leaf: Leaf, parameters: dict[str, object]) -> int:
    return connection.execute(leaf.sql(_DELETE_BATCH), parameters).rowcount
