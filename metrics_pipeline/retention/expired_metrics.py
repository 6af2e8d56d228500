"""Deleting metrics that are older than the policy keeps: a day as a whole, with its restatements."""

from datetime import date
from typing import Any

from sqlalchemy import Connection, text

from metrics_pipeline.logs.contract import UpstreamContract
from metrics_pipeline.metrics.fingerprint import SourceFingerprint
from metrics_pipeline.metrics.windows import DayWindow, day_window
from metrics_pipeline.retention.pace import PacedConnection
from metrics_pipeline.retention.raw_logs import OnProgress
from metrics_pipeline.retention.report import RetentionReport
from metrics_pipeline.store.publishing import lock_day

_DAYS = text("""
SELECT metric_date, sum(metrics)::bigint AS metrics, sum(restatements)::bigint AS restatements
FROM (
    SELECT metric_date, count(*) AS metrics, 0 AS restatements FROM agent_performance_metrics
    WHERE metric_date < :before GROUP BY 1
    UNION ALL
    SELECT metric_date, 0, count(*) FROM metric_restatements WHERE metric_date < :before GROUP BY 1
) AS days
GROUP BY 1 ORDER BY 1""")

# Sealed or not, as long as logs stand that were or could be aggregated. Logs that came after the seal never will be.
_HAS_LOGS_TO_COME = text("""
SELECT CASE WHEN EXISTS (SELECT FROM metric_day_ledger WHERE metric_date = :metric_date AND raw_pruned_at IS NOT NULL)
            THEN EXISTS (SELECT FROM metric_day_pruning WHERE metric_date = :metric_date)
            ELSE EXISTS (SELECT FROM agent_execution_logs WHERE "timestamp" >= :start AND "timestamp" < :end) END""")

_DELETE = text("""
WITH expired AS (DELETE FROM agent_performance_metrics WHERE metric_date = :metric_date RETURNING total_executions),
     restatements AS (DELETE FROM metric_restatements WHERE metric_date = :metric_date RETURNING 1)
SELECT (SELECT count(*) FROM expired) AS metrics,
       (SELECT coalesce(sum(total_executions), 0) FROM expired) AS executions,
       (SELECT count(*) FROM restatements) AS restatements""")

# Without the seal, a backfill of the day would find no logs and store zeros. A day that another program stored has no
# row yet; the one that it gets says what its metrics said.
_SEAL = text("""
INSERT INTO metric_day_ledger (metric_date, time_zone, window_start, window_end, source_logs, aggregated_logs,
    skipped_logs, agents, source_fingerprint, definition_version, snapshot_at, aggregated_at, run_id, raw_pruned_at,
    raw_pruned_logs)
VALUES (:metric_date, :time_zone, :start, :end, :executions, :executions, 0, :agents, :no_logs, 'unknown', now(), now(),
    :run_id, now(), 0)
ON CONFLICT (metric_date) DO UPDATE
    SET raw_pruned_at = coalesce(metric_day_ledger.raw_pruned_at, EXCLUDED.raw_pruned_at),
        raw_pruned_logs = coalesce(metric_day_ledger.raw_pruned_logs, EXCLUDED.raw_pruned_logs)""")


def expire_metrics(
    paced: PacedConnection,
    contract: UpstreamContract,
    report: RetentionReport,
    run_id: str,
    on_progress: OnProgress,
) -> None:
    """Deletes the metrics of each day before the cutoff, in a transaction of its own that seals the day for ever.

    Days of which raw logs stand that could still be aggregated keep their metrics. A dry run only counts.
    Raises OutOfTimeError at the end of the time budget.
    """
    days = paced.transaction(lambda connection: connection.execute(_DAYS, {"before": report.cutoffs.metrics}).all())
    for day, metrics, restatements in days:
        window = day_window(day, report.cutoffs.time_zone)
        bounds = contract.bounds(window)

        def has_logs_to_come(connection: Connection, day: date = day, bounds: Any = bounds) -> bool:
            return bool(connection.execute(_HAS_LOGS_TO_COME, {"metric_date": day, **bounds}).scalar_one())

        def expire(connection: Connection, window: DayWindow = window) -> tuple[int, int] | None:
            lock_day(connection, window)
            return None if has_logs_to_come(connection) else _delete_and_seal(connection, window, run_id)

        if not report.is_dry_run:
            expired = paced.transaction(expire)
            paced.pause()
        elif day in report.pruned_logs or not paced.transaction(has_logs_to_come):
            expired = (metrics, restatements)
        else:
            expired = None
        if expired is None:
            on_progress(f"{day}: its metrics are kept, because raw logs of the day still stand")
        else:
            report.expired_metrics[day] = expired[0]
            report.expired_restatements += expired[1]


def _delete_and_seal(connection: Connection, window: DayWindow, run_id: str) -> tuple[int, int]:
    day = window.metric_date
    deleted = connection.execute(_DELETE, {"metric_date": day}).one()
    connection.execute(
        _SEAL,
        {
            "metric_date": day,
            "time_zone": window.time_zone,
            "start": window.start,
            "end": window.end,
            "executions": deleted.executions,
            "agents": deleted.metrics,
            "no_logs": SourceFingerprint.of_no_logs().to_text(),
            "run_id": run_id,
        },
    )
    return deleted.metrics, deleted.restatements
