"""Writing a day: changed rows, their restatements and the ledger row, in one transaction or not at all."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from sqlalchemy import Connection, text

from metrics_pipeline.errors import TransientError
from metrics_pipeline.metrics.calculator import DayMetrics
from metrics_pipeline.metrics.schema import DEFINITION_VERSION, ERROR_COUNT, KEY_COLUMNS, METRIC_COLUMNS
from metrics_pipeline.metrics.windows import DayWindow
from metrics_pipeline.names import DAY_LOCK_CLASS
from metrics_pipeline.postgres.database import Database
from metrics_pipeline.store.ledger import DayState, read_day_state

_COLUMNS = KEY_COLUMNS + METRIC_COLUMNS
_NAMES = ", ".join(column.name for column in _COLUMNS)
_METRIC_NAMES = [column.name for column in METRIC_COLUMNS]
_ERROR_COUNT_FIELDS = ", ".join(
    f"{field.name} {sql_type}" for field, sql_type in zip(ERROR_COUNT.fields, ("text", "bigint"), strict=True)
)


def _row_of(alias: str) -> str:
    return "(" + ", ".join(f"{alias}.{name}" for name in _METRIC_NAMES) + ")"


def _json_of(alias: str) -> str:
    return "jsonb_build_object(" + ", ".join(f"'{name}', {alias}.{name}" for name in _METRIC_NAMES) + ")"


# A statement of its own: within _PUBLISH, FOR UPDATE silently leaves out the rows that _PUBLISH has updated by then.
_LOCK_ROWS = text("""
SELECT 1 FROM agent_performance_metrics WHERE metric_date = :metric_date ORDER BY agent_id FOR UPDATE""")

# The rows arrive as one JSON text: one round trip, and numbers that were never a float. All parts of the statement
# see the table as it was before it.
_PUBLISH = text(f"""
WITH sent AS (
    SELECT * FROM jsonb_to_recordset(CAST(:rows AS jsonb))
        AS sent({", ".join(f"{column.name} {column.sql_type}" for column in _COLUMNS)})
), incoming AS MATERIALIZED (
    SELECT {
    ", ".join(
        "(SELECT coalesce(jsonb_object_agg(counts.error_type, counts.executions), '{}'::jsonb) "
        f"FROM jsonb_to_recordset(sent.{column.name}) AS counts({_ERROR_COUNT_FIELDS})) AS {column.name}"
        if column.sql_type == "jsonb"
        else f"sent.{column.name}"
        for column in _COLUMNS
    )
}
    FROM sent
), stored AS MATERIALIZED (
    SELECT * FROM agent_performance_metrics WHERE metric_date = :metric_date
), restated AS (
    INSERT INTO metric_restatements (agent_id, metric_date, replaced_at, run_id, reason, old_row, new_row)
    SELECT incoming.agent_id, incoming.metric_date, now(), :run_id, :reason, {_json_of("stored")}, {
    _json_of("incoming")
}
    FROM incoming JOIN stored USING (agent_id, metric_date)
    WHERE {_row_of("incoming")} IS DISTINCT FROM {_row_of("stored")}
    RETURNING 1
), upserted AS (
    INSERT INTO agent_performance_metrics AS target ({_NAMES}, created_at)
    SELECT {_NAMES}, now() FROM incoming ORDER BY agent_id
    ON CONFLICT (agent_id, metric_date) DO UPDATE
        SET {", ".join(f"{name} = EXCLUDED.{name}" for name in _METRIC_NAMES)}, updated_at = now()
        WHERE {_row_of("target")} IS DISTINCT FROM {_row_of("EXCLUDED")}
    RETURNING 1
)
SELECT (SELECT count(*) FROM upserted) AS written, (SELECT count(*) FROM restated) AS changed""")

_LEDGER_COLUMNS = (
    "time_zone", "window_start", "window_end", "source_logs", "aggregated_logs", "skipped_logs", "agents",
    "source_fingerprint", "definition_version", "snapshot_at", "run_id",
)  # fmt: skip
_RECORD = text(f"""
INSERT INTO metric_day_ledger (metric_date, {", ".join(_LEDGER_COLUMNS)}, aggregated_at)
VALUES (:metric_date, {", ".join(f":{name}" for name in _LEDGER_COLUMNS)}, now())
ON CONFLICT (metric_date) DO UPDATE
    SET {", ".join(f"{name} = EXCLUDED.{name}" for name in _LEDGER_COLUMNS)}, aggregated_at = EXCLUDED.aggregated_at""")


class Reason(StrEnum):
    """Why stored values were replaced, as metric_restatements keeps it."""

    LATE_LOGS = "late logs"
    BACKFILL = "backfill"
    MANUAL = "manual"
    DEFINITION_CHANGE = "definition change"


class StaleSnapshotError(TransientError):
    """Another run published the day after this run had read it."""


@dataclass(frozen=True)
class Published:
    """How many of the day's rows were inserted, changed (each with a restatement) and left untouched."""

    inserted: int
    changed: int
    unchanged: int


def publish_day(
    database: Database,
    day: DayMetrics,
    window: DayWindow,
    *,
    read_state: DayState,
    snapshot_at: datetime,
    run_id: str,
    reason: Reason,
) -> Published:
    """Stores the day in one transaction; rows whose values stay the same are not touched.

    `read_state` is the day's state in the snapshot that `day` was computed from.
    Raises StaleSnapshotError when somebody published the day in between: this result may be the older one.
    Database faults become TransientError or PermanentError; in every case nothing is written.
    """
    if read_state.definition_version not in (None, DEFINITION_VERSION):
        reason = Reason.DEFINITION_CHANGE
    with database.begin() as connection:
        lock_day(connection, window)
        if read_day_state(connection, window.metric_date).version != read_state.version:
            raise StaleSnapshotError(
                f"{window.metric_date} was published by another run while this one was computing it. "
                "Nothing was written; run the day again to read it anew."
            )
        connection.execute(_LOCK_ROWS, {"metric_date": window.metric_date})
        counts = connection.execute(
            _PUBLISH,
            {
                "rows": day.metrics.write_json(),
                "metric_date": window.metric_date,
                "run_id": run_id,
                "reason": reason.value,
            },
        ).one()
        connection.execute(
            _RECORD,
            {
                "metric_date": window.metric_date,
                "time_zone": window.time_zone,
                "window_start": window.start,
                "window_end": window.end,
                "source_logs": day.fingerprint.logs,
                "aggregated_logs": day.aggregated_logs,
                "skipped_logs": day.skipped_logs,
                "agents": day.metrics.height,
                "source_fingerprint": day.fingerprint.to_text(),
                "definition_version": DEFINITION_VERSION,
                "snapshot_at": snapshot_at,
                "run_id": run_id,
            },
        )
    return Published(
        inserted=counts.written - counts.changed,
        changed=counts.changed,
        unchanged=day.metrics.height - counts.written,
    )


def lock_day(connection: Connection, window: DayWindow) -> None:
    """Waits until no other transaction of ours writes this day. Every writer does so first, so none deadlock."""
    connection.execute(
        text("SELECT pg_advisory_xact_lock(:class, :day)"),
        {"class": DAY_LOCK_CLASS, "day": window.metric_date.toordinal()},
    )
