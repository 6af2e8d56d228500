"""Decisions of an operator about a stored day: keep its metrics for good, or forget them."""

from sqlalchemy import text

from metrics_pipeline.errors import DayRefusedError
from metrics_pipeline.metrics.alert_rules import DEFAULT_RULES, AlertRules
from metrics_pipeline.metrics.catalog import AGENT_DAY, GRAINS, METRIC_NAMES, NANO_USD_PER_USD
from metrics_pipeline.metrics.fingerprint import SourceFingerprint
from metrics_pipeline.metrics.windows import DayWindow
from metrics_pipeline.postgres.database import Database
from metrics_pipeline.store.alerts import Cause, renew_alerts
from metrics_pipeline.store.ledger import read_stored_day
from metrics_pipeline.store.publishing import lock_day

_SEAL = text("""
UPDATE metric_day_ledger SET raw_pruned_at = now(), raw_pruned_logs = greatest(source_logs - :present, 0)
WHERE metric_date = :metric_date RETURNING raw_pruned_logs""")

_STORED_LOGS = text(f"""
SELECT sum(total_executions) AS logs, sum(successful_executions) AS successful, sum(failed_executions) AS failed,
       0 AS latency_ms, sum(total_tokens) AS tokens, trunc(sum(total_cost_usd) * {NANO_USD_PER_USD}) AS cost_nano_usd,
       0 AS content_hash
FROM {AGENT_DAY.table} WHERE metric_date = :metric_date""")

# For rows that another program stored: what is known of their logs is what they say themselves.
_ENTER = text("""
INSERT INTO metric_day_ledger (metric_date, time_zone, window_start, window_end, source_logs, aggregated_logs,
    skipped_logs, agents, source_fingerprint, definition_version, snapshot_at, aggregated_at, run_id)
VALUES (:metric_date, :time_zone, :start, :end, :logs, :logs, 0, :agents, :fingerprint, 'unknown', now(), now(),
    :run_id)""")

_ROW = ", ".join(f"'{name}', {name}" for name in METRIC_NAMES)
_FINER = [table for grain in GRAINS if grain is not AGENT_DAY for table in (grain.table, grain.distributions)]
_CLEAR = text(f"""
WITH cleared AS (
    DELETE FROM {AGENT_DAY.table} WHERE metric_date = :metric_date
    RETURNING agent_id, metric_date, jsonb_build_object({_ROW}) AS row
), {" ".join(f"{table} AS (DELETE FROM {table} WHERE metric_date = :metric_date)," for table in _FINER)}
distributions AS (
    DELETE FROM {AGENT_DAY.distributions} WHERE metric_date = :metric_date
    RETURNING agent_id, encode(digest, 'hex') AS distribution
), restated AS (
    INSERT INTO metric_restatements (agent_id, metric_date, replaced_at, run_id, reason, old_row, new_row,
        old_distribution)
    SELECT agent_id, metric_date, now(), :run_id, 'cleared', row, 'null', distribution
    FROM cleared LEFT JOIN distributions USING (agent_id)
), forgotten AS (
    DELETE FROM metric_day_ledger WHERE metric_date = :metric_date
), unverified AS (
    DELETE FROM metric_day_verifications WHERE metric_date = :metric_date
)
SELECT count(*) FROM cleared""")

#: What metric_restatements and metric_day_ledger name as the run.
_RUN_ID = "metrics-pipeline"


def seal_day(database: Database, window: DayWindow, present: SourceFingerprint) -> int:
    """Makes the day's stored metrics final, as if retention had pruned its logs. Returns how many logs are gone.

    present: the logs of the day that are left. Raises DayRefusedError for a day that is sealed, not stored, or equal to
    its logs: sealed by a typing error, it could neither be aggregated nor cleared any more.
    """
    day = window.metric_date
    with database.begin() as connection:
        lock_day(connection, window)
        stored = read_stored_day(connection, day)
        if stored.ledger is not None and stored.ledger.is_sealed:
            raise DayRefusedError(f"{day} is sealed already.")
        if stored.ledger is not None and stored.ledger.source_fingerprint.equals(present):
            raise DayRefusedError(
                f"{day} equals its logs, none of which is gone, so there is nothing to seal. Check the date."
            )
        if not stored.executions:
            raise DayRefusedError(f"{day} has no stored metrics to keep. Aggregate it first.")
        if stored.ledger is None:
            logs = SourceFingerprint.of(dict(connection.execute(_STORED_LOGS, {"metric_date": day}).mappings().one()))
            connection.execute(
                _ENTER,
                {
                    "metric_date": day,
                    "time_zone": window.time_zone,
                    "start": window.start,
                    "end": window.end,
                    "logs": logs.logs,
                    "agents": len(stored.executions),
                    "fingerprint": logs.to_text(),
                    "run_id": _RUN_ID,
                },
            )
        gone: int = connection.execute(_SEAL, {"metric_date": day, "present": present.logs}).scalar_one()
    return gone


def clear_day(database: Database, window: DayWindow, rules: AlertRules = DEFAULT_RULES) -> int:
    """Deletes the day's metrics and its row in the ledger, as if it had never been aggregated, and its alerts.

    Returns the number of rows deleted; metric_restatements keeps each of them, with null as the new row. Raises
    DayRefusedError for a day that is not stored, and for a sealed one, whose metrics could not be computed again.
    """
    day = window.metric_date
    with database.begin() as connection:
        lock_day(connection, window)
        stored = read_stored_day(connection, day)
        if stored.ledger is None and not stored.executions:
            raise DayRefusedError(f"Nothing is stored for {day}, so there is nothing to clear. Check the date.")
        if stored.ledger is not None and stored.ledger.is_sealed:
            raise DayRefusedError(f"{day} is sealed: its logs are gone, so its metrics could not be computed again.")
        cleared: int = connection.execute(_CLEAR, {"metric_date": day, "run_id": _RUN_ID}).scalar_one()
        renew_alerts(connection, rules, Cause(day, _RUN_ID, is_quiet=False))
    return cleared
