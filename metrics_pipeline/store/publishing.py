"""Writes a day: changed rows, their restatements and the ledger row, in one transaction or not at all."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from sqlalchemy import Connection, text

from metrics_pipeline.errors import PermanentError, TransientError
from metrics_pipeline.metrics.calculator import DayMetrics
from metrics_pipeline.metrics.catalog import AGENT_DAY, DEFINITION_VERSION, ERROR_COUNT, METRIC_NAMES, Column, Grain
from metrics_pipeline.metrics.comparison import compare_days
from metrics_pipeline.metrics.verification import JudgedBy, Mark, Verification
from metrics_pipeline.metrics.windows import DayWindow
from metrics_pipeline.names import DAY_LOCK_CLASS
from metrics_pipeline.postgres.database import Database
from metrics_pipeline.store.ledger import LEDGER_COLUMNS, StoredDay, ledger_version
from metrics_pipeline.store.reads import metrics_of_day
from metrics_pipeline.store.verifications import record_verifications

_ERROR_COUNT_FIELDS = ", ".join(
    f"{field.name} {sql_type}" for field, sql_type in zip(ERROR_COUNT.fields, ("text", "bigint"), strict=True)
)


def _row_of(alias: str) -> str:
    return "(" + ", ".join(f"{alias}.{name}" for name in METRIC_NAMES) + ")"


def _json_of(alias: str) -> str:
    return "jsonb_build_object(" + ", ".join(f"'{name}', {alias}.{name}" for name in METRIC_NAMES) + ")"


def _incoming(column: Column) -> str:
    if column.sql_type != "jsonb":
        return f"sent.{column.name}"
    return (
        "(SELECT coalesce(jsonb_object_agg(counts.error_type, counts.executions), '{}'::jsonb) "
        f"FROM jsonb_to_recordset(sent.{column.name}) AS counts({_ERROR_COUNT_FIELDS})) AS {column.name}"
    )


class _Statements:
    """The statements that publish the rows of one grain."""

    def __init__(self, grain: Grain) -> None:
        keys, names = ", ".join(grain.key_names), ", ".join(column.name for column in grain.columns)
        row = f"ROW({names})::text"
        digest = f"SELECT sha256(textsend(string_agg({row}, E'\\n' ORDER BY {row} COLLATE \"C\"))) FROM"
        # A separate statement: within `publish`, FOR UPDATE silently omits the rows that it has already updated.
        self.lock_rows = text(
            f"SELECT 1 FROM {grain.table} WHERE metric_date = :metric_date ORDER BY {keys} FOR UPDATE"
        )
        # The rows arrive as one JSON text: one round trip, and no number becomes a float. All parts of the statement
        # see the table as it was before the statement.
        self.publish = text(f"""
WITH sent AS (
    SELECT * FROM jsonb_to_recordset(CAST(:rows AS jsonb))
        AS sent({", ".join(f"{column.name} {column.sql_type}" for column in grain.columns)})
), incoming AS MATERIALIZED (
    SELECT {", ".join(map(_incoming, grain.columns))} FROM sent
), stored AS MATERIALIZED (
    SELECT * FROM {grain.table} WHERE metric_date = :metric_date
), restated AS (
    INSERT INTO metric_restatements (agent_id, metric_date, replaced_at, run_id, reason, old_row, new_row)
    SELECT incoming.agent_id, incoming.metric_date, now(), :run_id, :reason, {_json_of("stored")}, {
            _json_of("incoming")
        }
    FROM incoming JOIN stored USING ({keys})
    WHERE {_row_of("incoming")} IS DISTINCT FROM {_row_of("stored")}
    RETURNING 1
), upserted AS (
    INSERT INTO {grain.table} AS target ({names}, created_at)
    SELECT {names}, now() FROM incoming ORDER BY {keys}
    ON CONFLICT ({keys}) DO UPDATE
        SET {", ".join(f"{name} = EXCLUDED.{name}" for name in METRIC_NAMES)}, updated_at = now()
        WHERE {_row_of("target")} IS DISTINCT FROM {_row_of("EXCLUDED")}
    RETURNING 1
)
SELECT (SELECT count(*) FROM upserted) AS written, (SELECT count(*) FROM restated) AS changed,
       ({digest} incoming) AS digest""")
        # A trigger or a rule of the table can change or drop rows without an error.
        self.stored_digest = text(f"{digest} {grain.table} WHERE metric_date = :metric_date")


_AGENT_DAY = _Statements(AGENT_DAY)

_RECORDED = tuple(
    name
    for name in LEDGER_COLUMNS
    if name not in ("metric_date", "aggregated_at", "raw_pruned_at", "raw_pruned_logs", "metrics_expired_at")
)
_RECORD = text(f"""
INSERT INTO metric_day_ledger (metric_date, {", ".join(_RECORDED)}, aggregated_at)
VALUES (:metric_date, {", ".join(f":{name}" for name in _RECORDED)}, now())
ON CONFLICT (metric_date) DO UPDATE
    SET {", ".join(f"{name} = EXCLUDED.{name}" for name in _RECORDED)}, aggregated_at = EXCLUDED.aggregated_at""")


class Reason(StrEnum):
    """Why stored values were replaced, as stored in metric_restatements."""

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
    read: StoredDay,
    snapshot_at: datetime,
    mark: Mark | None = None,
    run_id: str,
    reason: Reason,
) -> Published:
    """Stores the day in one transaction; rows whose values stay the same are not touched.

    `read` is the day as it was stored in the snapshot that `day` was computed from, and `mark` the source's note from
    before that snapshot.
    Raises StaleSnapshotError if the day was published in between, because this result may be older, and PermanentError
    if the rows as stored are not those of `day`.
    Database faults become TransientError or PermanentError. After an error, nothing is written.
    """
    if read.ledger is not None and read.ledger.definition_version != DEFINITION_VERSION:
        reason = Reason.DEFINITION_CHANGE
    with database.begin() as connection:
        lock_day(connection, window)
        if ledger_version(connection, window.metric_date) != (read.ledger and read.ledger.version):
            raise StaleSnapshotError(
                f"{window.metric_date} was published by another run while this one was computing it. "
                "Nothing was written; run the day again."
            )
        connection.execute(_AGENT_DAY.lock_rows, {"metric_date": window.metric_date})
        counts = connection.execute(
            _AGENT_DAY.publish,
            {
                "rows": day.metrics.write_json(),
                "metric_date": window.metric_date,
                "run_id": run_id,
                "reason": reason.value,
            },
        ).one()
        if (
            connection.execute(_AGENT_DAY.stored_digest, {"metric_date": window.metric_date}).scalar_one()
            != counts.digest
        ):
            raise PermanentError(_what_was_not_stored(connection, day, window))
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
        # What the run has just read need not be read again by the next check or tick.
        verification = Verification(
            window.metric_date,
            window.start,
            window.end,
            ledger_version(connection, window.metric_date),
            day.fingerprint,
            None,
            snapshot_at,
            mark,
            snapshot_at,
            JudgedBy.CONTENT,
        )
        record_verifications(connection, [verification])
    return Published(
        inserted=counts.written - counts.changed,
        changed=counts.changed,
        unchanged=day.metrics.height - counts.written,
    )


def _what_was_not_stored(connection: Connection, day: DayMetrics, window: DayWindow) -> str:
    found = compare_days(window.metric_date, metrics_of_day(connection, window.metric_date), day.metrics)
    altered = f"such as that of {found.changed_agents[0]!r}, " if found.changed_agents else ""
    return (
        f"{window.metric_date}: {AGENT_DAY.table} does not store what it is given. Of {day.metrics.height} rows, "
        f"{found.inserted} are missing and {found.changed} have other values, {altered}so nothing was written. Find "
        f"the trigger, rule or policy of the table that does this (\\d {AGENT_DAY.table} in psql) and remove it."
    )


def lock_day(connection: Connection, window: DayWindow) -> None:
    """Waits until no other transaction of ours writes this day. All writers do so first, so they cannot deadlock."""
    connection.execute(
        text("SELECT pg_advisory_xact_lock(:class, :day)"),
        {"class": DAY_LOCK_CLASS, "day": window.metric_date.toordinal()},
    )
