"""Writes a day: changed rows, their restatements and the ledger row, in one transaction or not at all."""

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from enum import StrEnum
from hashlib import sha256
from typing import Any

import polars as pl
from sqlalchemy import Connection, Row, text

from metrics_pipeline.errors import PermanentError, TransientError
from metrics_pipeline.metrics.alert_rules import DEFAULT_ALERTING, Alerting
from metrics_pipeline.metrics.calculator import DayMetrics
from metrics_pipeline.metrics.catalog import (
    AGENT_DAY,
    AGENT_DIMENSION_DAY,
    DEFINITION_VERSION,
    GRAINS,
    Grain,
)
from metrics_pipeline.metrics.comparison import compare_days
from metrics_pipeline.metrics.distributions import DISTRIBUTION_SCHEMA
from metrics_pipeline.metrics.verification import JudgedBy, Mark, Verification
from metrics_pipeline.metrics.windows import DayWindow
from metrics_pipeline.names import DAY_LOCK_CLASS
from metrics_pipeline.postgres.database import Database
from metrics_pipeline.store.alerts import Cause, renew_alerts
from metrics_pipeline.store.answers.alerts import alert_changes
from metrics_pipeline.store.distributions import EncodedDay, encode_day, write_day
from metrics_pipeline.store.ledger import LEDGER_COLUMNS, StoredDay, ledger_version
from metrics_pipeline.store.reads import rows_of_day
from metrics_pipeline.store.verifications import record_verifications


def _row_of(alias: str, columns: Iterable[str]) -> str:
    return "(" + ", ".join(f"{alias}.{name}" for name in columns) + ")"


def _json_of(alias: str, columns: Iterable[str]) -> str:
    return "jsonb_build_object(" + ", ".join(f"'{name}', {alias}.{name}" for name in columns) + ")"


def rows_digest(grain: Grain) -> str:
    """SQL of the digest of rows, in any order. It begins with a digest of their columns, which differ by version.

    A sum of hashes needs no sorting: 14 days of 5,000 agents take a third of the time of one hash over their rows.
    """
    names = ", ".join(column.name for column in grain.columns)
    columns = sha256(names.encode()).hexdigest()[:8]
    row = f"left(encode(sha256(textsend(ROW({names})::text)), 'hex'), 16)"
    return f"'{columns}:' || coalesce(sum(('x' || {row})::bit(64)::bigint), 0)"


class _Statements:
    """The statements that publish the rows of one grain."""

    def __init__(self, grain: Grain) -> None:
        keys, names = ", ".join(grain.key_names), ", ".join(column.name for column in grain.columns)
        values = [column.name for column in grain.values]
        finer = [name for name in grain.day_keys if name != "agent_id"]
        digest = f"SELECT {rows_digest(grain)} FROM"

        def breakdown(alias: str) -> str:
            return _json_of(alias, finer) if finer else "NULL::jsonb"

        # Another row of an agent's day than before: its old one is kept as a restatement to null.
        lost = f"""), lost AS (
    DELETE FROM {grain.table} AS gone
    WHERE metric_date = :metric_date AND {_row_of("gone", grain.day_keys)} NOT IN
        (SELECT {", ".join(grain.day_keys)} FROM incoming)
    RETURNING gone.*
), restated_lost AS (
    INSERT INTO metric_restatements (agent_id, metric_date, replaced_at, run_id, reason, old_row, new_row,
        old_distribution, breakdown)
    SELECT lost.agent_id, lost.metric_date, now(), :run_id, :reason, {_json_of("lost", values)}, 'null',
           stored.distribution, {breakdown("lost")}
    FROM lost JOIN stored USING ({keys})
"""
        # A separate statement: within `publish`, FOR UPDATE silently omits the rows that it has already updated.
        self.lock_rows = text(
            f"SELECT 1 FROM {grain.table} WHERE metric_date = :metric_date ORDER BY {keys} FOR UPDATE"
        )
        types = [*((column.name, column.sql_type) for column in grain.columns), ("distribution", "text")]
        # Each column arrives as the text of an array: one round trip, and no number becomes a float. JSON takes twice
        # the time to read. All parts of the statement see the table as it was before the statement.
        self.publish = text(f"""
WITH incoming AS MATERIALIZED (
    SELECT * FROM unnest({", ".join(f"CAST(:sent_{name} AS {sql_type}[])" for name, sql_type in types)})
        AS sent({", ".join(name for name, _ in types)})
), stored AS MATERIALIZED (
    SELECT metrics.*, encode(digest, 'hex') AS distribution
    FROM {grain.table} AS metrics LEFT JOIN {grain.distributions} USING ({keys})
    WHERE metric_date = :metric_date
), restated AS (
    INSERT INTO metric_restatements (agent_id, metric_date, replaced_at, run_id, reason, old_row, new_row,
        old_distribution, new_distribution, breakdown)
    SELECT incoming.agent_id, incoming.metric_date, now(), :run_id, :reason, {_json_of("stored", values)}, {
            _json_of("incoming", values)
        }, stored.distribution, incoming.distribution, {breakdown("incoming")}
    FROM incoming JOIN stored USING ({keys})
    WHERE {_row_of("incoming", values)} IS DISTINCT FROM {_row_of("stored", values)}
       OR incoming.distribution <> stored.distribution
    RETURNING old_row <> new_row AS has_other_metrics
), upserted AS (
    INSERT INTO {grain.table} AS target ({names}, created_at)
    SELECT {names}, now() FROM incoming ORDER BY {keys}
    ON CONFLICT ({keys}) DO UPDATE
        SET {", ".join(f"{name} = EXCLUDED.{name}" for name in values)}, updated_at = now()
        WHERE {_row_of("target", values)} IS DISTINCT FROM {_row_of("EXCLUDED", values)}
    RETURNING 1
{lost if grain.may_lose_rows else ""})
SELECT (SELECT count(*) FROM upserted) AS written, (SELECT count(*) FROM restated WHERE has_other_metrics) AS changed,
       ({digest} incoming) AS digest""")
        # A trigger or a rule of the table can change or drop rows without an error.
        self.stored_digest = text(f"{digest} {grain.table} WHERE metric_date = :metric_date")


_STATEMENTS = {grain: _Statements(grain) for grain in GRAINS}

_RECORDED = tuple(
    name
    for name in LEDGER_COLUMNS
    if name not in ("metric_date", "aggregated_at", "raw_pruned_at", "raw_pruned_logs", "metrics_expired_at")
)
_RECORD = text(f"""
INSERT INTO metric_day_ledger (metric_date, {", ".join(_RECORDED)}, skipped_agents, aggregated_at)
VALUES (:metric_date, {", ".join(f":{name}" for name in _RECORDED)}, CAST(:skipped_agents AS jsonb), now())
ON CONFLICT (metric_date) DO UPDATE
    SET {", ".join(f"{name} = EXCLUDED.{name}" for name in (*_RECORDED, "skipped_agents", "aggregated_at"))}""")

# An agent's id is foreign text of any length, and so is the number of ids.
_NAMED_AGENTS = 50
_ID_CHARACTERS = 200


class Reason(StrEnum):
    """Why stored values were replaced, as stored in metric_restatements."""

    LATE_LOGS = "late logs"
    BACKFILL = "backfill"
    MANUAL = "manual"
    DEFINITION_CHANGE = "definition change"


@dataclass(frozen=True)
class Breakdown:
    """A day by the values of its dimensions.

    dimensions: their definitions. metrics: AGENT_DIMENSION_DAY. distributions: its keys and DISTRIBUTION_SCHEMA.
    """

    dimensions: str
    metrics: pl.DataFrame
    distributions: pl.DataFrame


#: Of a day without dimensions.
NO_BREAKDOWN = Breakdown(
    "",
    pl.DataFrame(schema=AGENT_DIMENSION_DAY.schema),
    pl.DataFrame(schema={**dict.fromkeys(AGENT_DIMENSION_DAY.day_keys, pl.String), **DISTRIBUTION_SCHEMA}),
)


class StaleSnapshotError(TransientError):
    """Another run published the day after this run had read it."""


@dataclass(frozen=True)
class Published:
    """How many of the day's rows were inserted, changed and left untouched. The distributions are not counted.

    alert_changes: what the run has made of the day's alerts, as store.answers.alerts.alert_changes() gives it.
    """

    inserted: int
    changed: int
    unchanged: int
    alert_changes: Sequence[Mapping[Any, Any]] = field(default=(), compare=False)


def publish_day(
    database: Database,
    day: DayMetrics,
    distributions: pl.DataFrame,
    window: DayWindow,
    breakdown: Breakdown = NO_BREAKDOWN,
    *,
    unlogged: Sequence[str] = (),
    read: StoredDay,
    snapshot_at: datetime,
    mark: Mark | None = None,
    run_id: str,
    reason: Reason,
    alerting: Alerting = DEFAULT_ALERTING,
) -> Published:
    """Stores the day and the alerts that follow from it in one transaction; rows with the same values are not touched.

    distributions: of the agents that have logs, as metrics.distributions.distributions() gives them. A row of metrics
    that changes, or whose distribution changes, leaves a restatement; one that gets its first distribution does not.
    breakdown: the same by the values of each dimension. It replaces what is stored of it, if there is any.
    unlogged: as metrics.reconciliation.still_unlogged() gives it.
    `read` is the day as it was stored in the snapshot that `day` was computed from, and `mark` the source's note from
    before that snapshot.
    Raises StaleSnapshotError if the day was published in between, because this result may be older, and PermanentError
    if the rows as stored are not those of `day`.
    Database faults become TransientError or PermanentError. After an error, nothing is written.
    """
    if read.ledger is not None and read.ledger.definition_version != DEFINITION_VERSION:
        reason = Reason.DEFINITION_CHANGE
    grains = [(AGENT_DAY, day.metrics, distributions)]
    if breakdown.dimensions or (read.ledger is not None and read.ledger.dimensions):
        grains.append((AGENT_DIMENSION_DAY, breakdown.metrics, breakdown.distributions))
    # The rows of values are encoded while the server stores those of agents.
    with ThreadPoolExecutor(1, thread_name_prefix="encoder") as encoder, database.begin() as connection:
        encoded = [encoder.submit(_encode, window.metric_date, *of_grain) for of_grain in grains]
        lock_day(connection, window)
        if ledger_version(connection, window.metric_date) != (read.ledger and read.ledger.version):
            raise StaleSnapshotError(
                f"{window.metric_date} was published by another run while this one was computing it. "
                "Nothing was written; run the day again."
            )
        counts, *of_values = [_publish(connection, of_grain.result(), run_id, reason) for of_grain in encoded]
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
                "rows_digest": counts.digest,
                "dimensions": breakdown.dimensions or None,
                "breakdown_digest": of_values[0].digest if breakdown.dimensions else None,
                "skipped_agents": _most_skipped(day.skipped),
                "unlogged": list(unlogged),
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
        if counts.written or _is_read_otherwise(read, day, unlogged):
            told_from = snapshot_at.date() - timedelta(days=alerting.lookback_days)
            cause = Cause(window.metric_date, run_id, is_quiet=window.metric_date < told_from)
            renew_alerts(connection, alerting.rules, cause)
        alert_changes_of_run = alert_changes(connection, run_id, window.metric_date)
    return Published(
        inserted=counts.written - counts.changed,
        changed=counts.changed,
        unchanged=day.metrics.height - counts.written,
        alert_changes=alert_changes_of_run,
    )


def _is_read_otherwise(read: StoredDay, day: DayMetrics, unlogged: Sequence[str]) -> bool:
    """Whether what alerts read of the ledger has changed."""
    if read.ledger is None:
        return True
    before = (read.ledger.source_logs, read.ledger.skipped_logs, list(read.ledger.unlogged))
    return before != (day.fingerprint.logs, day.skipped_logs, list(unlogged))


def _most_skipped(skipped: pl.DataFrame) -> str:
    agent_id = pl.col("agent_id")
    shown = pl.when(agent_id.str.len_chars() > _ID_CHARACTERS).then(agent_id.str.head(_ID_CHARACTERS - 1) + "…")
    return skipped.head(_NAMED_AGENTS).with_columns(shown.otherwise(agent_id).alias("agent_id")).write_json()


@dataclass(frozen=True)
class _Encoded:
    """The rows of one grain, their columns and the digests of their distributions as arrays, and the distributions."""

    rows: pl.DataFrame
    arrays: Mapping[str, str]
    distributions: EncodedDay


def _encode(day: date, grain: Grain, rows: pl.DataFrame, distributions: pl.DataFrame) -> _Encoded:
    encoded = encode_day(day, distributions, grain)
    digests = pl.Series("distribution", [digest.hex() for digest in encoded.digests.values()], pl.String)
    named = distributions.select(*grain.day_keys, digests)
    sent = rows.join(named, on=grain.day_keys, how="left").with_columns(_json("error_distribution"))
    return _Encoded(rows, {f"sent_{values.name}": _array(values) for values in sent}, encoded)


def _json(counts: str) -> pl.Expr:
    """A list of ERROR_COUNT as the text of a JSON object."""
    pair = pl.element().struct
    # Polars writes structs as JSON, but no other value.
    error_type = pl.struct(pair.field("error_type")).struct.json_encode()
    name = error_type.str.strip_prefix('{"error_type":').str.strip_suffix("}")
    pairs = pl.col(counts).list.eval(pl.format("{}:{}", name, pair.field("executions"))).list.join(",")
    return pl.concat_str(pl.lit("{"), pairs, pl.lit("}")).alias(counts)


def _array(values: pl.Series) -> str:
    """The values as PostgreSQL writes an array."""
    texts = values.cast(pl.String).to_list()
    # In Python, because an expression for each column takes 2 ms, a tenth of a small day.
    if values.dtype == pl.String:
        texts = [each if each is None else '"' + each.replace("\\", r"\\").replace('"', r"\"") + '"' for each in texts]
    return "{" + ",".join("NULL" if each is None else each for each in texts) + "}"


def _publish(connection: Connection, encoded: _Encoded, run_id: str, reason: Reason) -> Row[Any]:
    """Stores the rows of one grain and their distributions. Raises PermanentError if a table stores something else."""
    grain, day = encoded.distributions.grain, encoded.distributions.metric_date
    statements = _STATEMENTS[grain]
    connection.execute(statements.lock_rows, {"metric_date": day})
    given = {**encoded.arrays, "metric_date": day, "run_id": run_id, "reason": reason.value}
    counts = connection.execute(statements.publish, given).one()
    stored_digest = connection.execute(statements.stored_digest, {"metric_date": day}).scalar_one()
    if stored_digest != counts.digest:
        raise PermanentError(_what_was_not_stored(connection, encoded.rows, grain, day))
    write_day(connection, encoded.distributions)
    return counts


def _what_was_not_stored(connection: Connection, rows: pl.DataFrame, grain: Grain, day: date) -> str:
    found = compare_days(day, rows_of_day(connection, day, grain), rows, grain)
    altered = f"such as that of {found.changed_agents[0]!r}, " if found.changed_agents else ""
    return (
        f"{day}: {grain.table} does not store what it is given. Of {rows.height} rows, "
        f"{found.inserted} are missing and {found.changed} have other values, {altered}so nothing was written. Find "
        f"the trigger, rule or policy of the table that does this (\\d {grain.table} in psql) and remove it."
    )


def lock_day(connection: Connection, window: DayWindow) -> None:
    """Waits until no other transaction of ours writes this day. All writers do so first, so they cannot deadlock."""
    connection.execute(
        text("SELECT pg_advisory_xact_lock(:class, :day)"),
        {"class": DAY_LOCK_CLASS, "day": window.metric_date.toordinal()},
    )
