"""Deleting metrics that are older than the policy keeps: a day as a whole, with its restatements."""

from functools import partial
from typing import Any

from sqlalchemy import Connection, Row, text

from metrics_pipeline.logs.contract import UpstreamContract
from metrics_pipeline.logs.counts import count_logs_of_day
from metrics_pipeline.metrics.catalog import AGENT_DAY, GRAINS
from metrics_pipeline.metrics.fingerprint import SourceFingerprint
from metrics_pipeline.metrics.windows import day_window
from metrics_pipeline.retention.pace import RetentionConnection
from metrics_pipeline.retention.report import RetentionReport
from metrics_pipeline.store.alerts import mark_expired
from metrics_pipeline.store.publishing import lock_day

# A sealed day that an earlier version pruned in part has logs to come.
_DAYS = text("""
SELECT day.*, coalesce(raw_pruned_at IS NOT NULL AND source_fingerprint NOT LIKE '%"pruned"%', false) AS is_sealed
FROM (
    SELECT metric_date, sum(metric)::bigint AS metrics, sum(1 - metric)::bigint AS restatements
    FROM (SELECT metric_date, 1 AS metric FROM agent_performance_metrics
          UNION ALL SELECT metric_date, 0 FROM metric_restatements) AS stored
    WHERE metric_date < :before GROUP BY 1
) AS day LEFT JOIN metric_day_ledger USING (metric_date)
ORDER BY 1""")

_OF_DAY = "WHERE metric_date = :metric_date"
_ALSO = [table for grain in GRAINS for table in (grain.table, grain.distributions) if table != AGENT_DAY.table]
_DELETE = text(f"""
WITH expired AS (DELETE FROM {AGENT_DAY.table} {_OF_DAY} RETURNING total_executions),
     {" ".join(f"{table} AS (DELETE FROM {table} {_OF_DAY})," for table in _ALSO)}
     restatements AS (DELETE FROM metric_restatements {_OF_DAY} RETURNING 1),
     transitions AS (DELETE FROM metric_alert_transitions {_OF_DAY} RETURNING transition_id),
     deliveries AS (
         DELETE FROM metric_alert_deliveries USING metric_alert_transitions AS told
         WHERE told.metric_date = :metric_date AND told.transition_id = metric_alert_deliveries.transition_id
     ),
     verifications AS (DELETE FROM metric_day_verifications {_OF_DAY})
SELECT (SELECT count(*) FROM expired) AS metrics,
       (SELECT coalesce(sum(total_executions), 0) FROM expired) AS executions,
       (SELECT count(*) FROM restatements) AS restatements""")

# Without the seal, a backfill of the day would find no logs and store zeros. A day that another program stored has no
# row yet; the one that it gets says what its metrics said.
_SEAL = text("""
INSERT INTO metric_day_ledger (metric_date, time_zone, window_start, window_end, source_logs, aggregated_logs,
    skipped_logs, agents, source_fingerprint, definition_version, snapshot_at, aggregated_at, run_id, raw_pruned_at,
    raw_pruned_logs, metrics_expired_at)
VALUES (:metric_date, :time_zone, :start, :end, :executions, :executions, 0, :metrics, :no_logs, 'unknown', now(),
    now(), :run_id, now(), 0, now())
ON CONFLICT (metric_date) DO UPDATE
    SET raw_pruned_at = coalesce(metric_day_ledger.raw_pruned_at, EXCLUDED.raw_pruned_at),
        raw_pruned_logs = coalesce(metric_day_ledger.raw_pruned_logs, EXCLUDED.raw_pruned_logs),
        metrics_expired_at = coalesce(metric_day_ledger.metrics_expired_at, EXCLUDED.metrics_expired_at)""")


def expire_metrics(
    connection: RetentionConnection, contract: UpstreamContract | None, report: RetentionReport, run_id: str
) -> None:
    """Deletes the metrics of each day before the cutoff, in a transaction of its own that seals the day forever.

    Days with raw logs that could still be aggregated, or that wait to be pruned, keep their metrics. A dry run only
    counts. Without a contract the logs are in a lake, and the metrics expire whether or not it still has their logs.
    The time budget does not end it: it is what keeps our own tables small.
    """

    def expire(day: Row[Any], session: Connection) -> None:
        window = day_window(day.metric_date, report.cutoffs.time_zone)
        if not report.is_dry_run:
            lock_day(session, window)
        # Logs that came after the seal are in no metric. They are not looked at, so that the metrics of sealed days
        # expire also while that table is locked.
        is_pruned = day.is_sealed or (report.is_dry_run and window.metric_date in report.pruned_logs)
        if contract is not None and not is_pruned and count_logs_of_day(session, contract, window):
            return
        expired = day
        if not report.is_dry_run:
            expired = session.execute(_DELETE, vars(window)).one()
            no_logs = SourceFingerprint.of_no_logs().to_text()
            session.execute(_SEAL, vars(window) | expired._asdict() | {"no_logs": no_logs, "run_id": run_id})
            mark_expired(session)
        report.expired_metrics[window.metric_date] = expired.metrics
        report.expired_restatements += expired.restatements

    days = connection.transaction(lambda session: session.execute(_DAYS, {"before": report.cutoffs.metrics}).all())
    for day in days:
        connection.attempt(partial(connection.transaction, partial(expire, day)))
