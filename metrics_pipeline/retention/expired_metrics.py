"""Deleting metrics that are older than the policy keeps: a day as a whole, with its restatements."""

from functools import partial

from sqlalchemy import Connection, text

from metrics_pipeline.logs.contract import UpstreamContract
from metrics_pipeline.metrics.fingerprint import SourceFingerprint
from metrics_pipeline.metrics.windows import DayWindow, day_window
from metrics_pipeline.retention.pace import OnProgress, PacedConnection
from metrics_pipeline.retention.report import RetentionReport
from metrics_pipeline.retention.verification import count_logs_of_day, pruned_before
from metrics_pipeline.store.ledger import ledger_rows
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
    raw_pruned_logs, metrics_expired_at)
VALUES (:metric_date, :time_zone, :start, :end, :executions, :executions, 0, :agents, :no_logs, 'unknown', now(), now(),
    :run_id, now(), 0, now())
ON CONFLICT (metric_date) DO UPDATE
    SET raw_pruned_at = coalesce(metric_day_ledger.raw_pruned_at, EXCLUDED.raw_pruned_at),
        raw_pruned_logs = coalesce(metric_day_ledger.raw_pruned_logs, EXCLUDED.raw_pruned_logs),
        metrics_expired_at = coalesce(metric_day_ledger.metrics_expired_at, EXCLUDED.metrics_expired_at)""")


def expire_metrics(
    paced: PacedConnection,
    contract: UpstreamContract,
    report: RetentionReport,
    run_id: str,
    on_progress: OnProgress,
) -> None:
    """Deletes the metrics of each day before the cutoff, in a transaction of its own that seals the day forever.

    Days with raw logs that could still be aggregated, or that wait to be pruned, keep their metrics. A dry run only
    counts. The time budget does not end it: it is what keeps our own tables small.
    """

    def expire(window: DayWindow, counted: tuple[int, int]) -> None:
        def work(connection: Connection) -> tuple[int, int] | None:
            if not report.is_dry_run:
                lock_day(connection, window)
            would_be_pruned = report.is_dry_run and window.metric_date in report.pruned_logs
            if not would_be_pruned and _has_logs_to_come(connection, contract, window):
                return None
            return counted if report.is_dry_run else _delete_and_seal(connection, window, run_id)

        expired = paced.transaction(work)
        if expired is None:
            on_progress(f"{window.metric_date}: its metrics are kept, because raw logs of the day still exist")
        else:
            report.expired_metrics[window.metric_date] = expired[0]
            report.expired_restatements += expired[1]

    days = paced.transaction(lambda connection: connection.execute(_DAYS, {"before": report.cutoffs.metrics}).all())
    for day, metrics, restatements in days:
        paced.attempt(partial(expire, day_window(day, report.cutoffs.time_zone), (metrics, restatements)))


def _has_logs_to_come(connection: Connection, contract: UpstreamContract, window: DayWindow) -> bool:
    """Whether logs exist that were or could be aggregated. Those that came after the seal never will be.

    The logs of a sealed day are not looked at, so that its metrics expire also while that table is locked.
    """
    day = window.metric_date
    stored = ledger_rows(connection, day, day).get(day)
    if stored is not None and stored.is_sealed and pruned_before(connection, day) is None:
        return False
    return count_logs_of_day(connection, contract, window) > 0


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
