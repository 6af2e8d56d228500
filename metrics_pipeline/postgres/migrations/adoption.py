"""Revision 0001 for an agent_performance_metrics of another program: its rows are kept, its types become ours.

Extra columns stay if our inserts can omit them. Missing values of old rows become those of a day without data, and a
warning names them.
"""

import logging
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, text
from sqlalchemy.exc import DBAPIError

from metrics_pipeline.errors import ContractError

_logger = logging.getLogger(__name__)

_TABLE = "agent_performance_metrics"
_NUMBERS = ("smallint", "integer", "bigint", "numeric", "real", "double precision")

#: Per type of ours, the types that it is converted from. Numbers are rounded to the places of our column.
_SOURCES = {
    "text": ("text", "character varying", "character", "uuid"),
    "date": ("date",),
    "bigint": _NUMBERS,
    "numeric(7,6)": _NUMBERS,
    "numeric(20,9)": _NUMBERS,
    "jsonb": ("json", "jsonb"),
    "timestamp with time zone": ("timestamp with time zone", "timestamp without time zone"),
}


@dataclass(frozen=True)
class _Column:
    """A column of ours. `fill` is the SQL of its value in rows that have none, if the column is NOT NULL."""

    type: str
    fill: str | None = None
    is_key: bool = False
    default: str | None = None


_SUCCESSFUL = "coalesce(successful_executions, 0)"
_FAILED = "coalesce(failed_executions, 0)"
_TOTAL = f"coalesce(total_executions, {_SUCCESSFUL} + {_FAILED})"
_COST = "coalesce(total_cost_usd, 0)"

_COLUMNS = {
    "agent_id": _Column("text", is_key=True),
    "metric_date": _Column("date", is_key=True),
    "total_executions": _Column("bigint", _TOTAL),
    "successful_executions": _Column("bigint", _SUCCESSFUL),
    "failed_executions": _Column("bigint", _FAILED),
    "success_rate": _Column("numeric(7,6)", f"coalesce(round({_SUCCESSFUL}::numeric / nullif({_TOTAL}, 0), 6), 1)"),
    "avg_latency_ms": _Column("bigint", "0"),
    "p50_latency_ms": _Column("bigint", "0"),
    "p95_latency_ms": _Column("bigint", "0"),
    "p99_latency_ms": _Column("bigint", "0"),
    "total_tokens": _Column("bigint", "0"),
    "total_cost_usd": _Column("numeric(20,9)", _COST),
    "avg_cost_per_execution": _Column("numeric(20,9)", f"coalesce(round({_COST} / nullif({_TOTAL}, 0), 9), 0)"),
    "error_distribution": _Column(
        "jsonb", f"CASE WHEN {_FAILED} > 0 THEN jsonb_build_object('unknown', {_FAILED}) ELSE '{{}}' END"
    ),
    "human_interventions": _Column("bigint", "0"),
    "unique_users": _Column("bigint", "0"),
    "created_at": _Column("timestamp with time zone", "coalesce(updated_at, now())", default="now()"),
    "updated_at": _Column("timestamp with time zone"),
}

_EXISTING = text(f"""
    SELECT c.relkind, a.attname AS name,
           format_type(a.atttypid, a.atttypmod) AS type, format_type(a.atttypid, NULL) AS base_type,
           a.attgenerated <> '' AS is_generated,
           a.attnotnull AND NOT (a.atthasdef OR a.attidentity <> '') AS must_be_given
      FROM pg_class AS c
      JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
     WHERE c.oid = to_regclass('{_TABLE}')
     ORDER BY a.attnum
""")

_KEYS = text(f"""
    SELECT i.indexrelid::regclass::text AS name, i.indisprimary AS is_primary, i.indimmediate AS is_immediate,
           i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL
           AND (SELECT array_agg(a.attname::text ORDER BY a.attname)
                  FROM pg_attribute AS a
                 WHERE a.attrelid = i.indrelid AND a.attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1])
               ) = ARRAY['agent_id', 'metric_date'] AS is_ours
      FROM pg_index AS i
     WHERE i.indrelid = to_regclass('{_TABLE}') AND i.indisunique
""")


def metrics_exist(connection: Connection) -> bool:
    """Whether search_path finds anything named agent_performance_metrics."""
    return connection.scalar(text("SELECT to_regclass(:table) IS NOT NULL"), {"table": _TABLE}) is True


def adopt_metrics(connection: Connection) -> None:
    """Gives the table our columns, types and key, and keeps its rows.

    Raises ContractError, which names every obstacle. The caller must then roll its transaction back.
    """
    existing = {row.name: row for row in connection.execute(_EXISTING)}
    problems = _problems(existing)
    if problems:
        raise _not_adoptable("; ".join(problems))
    for name, column in _COLUMNS.items():
        if name not in existing:
            _alter(connection, name, f"ADD COLUMN {name} {column.type}")
        elif existing[name].type != column.type:
            value = _cast(name, column, existing[name])
            _alter(connection, name, f"ALTER COLUMN {name} TYPE {column.type} USING {value}")
        if column.default:
            _alter(connection, name, f"ALTER COLUMN {name} SET DEFAULT {column.default}")
    _fill(connection)
    for name, column in _COLUMNS.items():
        if column.fill or column.is_key:
            _alter(connection, name, f"ALTER COLUMN {name} SET NOT NULL")
    _ensure_key(connection)


def _problems(existing: dict[str, Row[Any]]) -> list[str]:
    if any(row.relkind not in ("r", "p") for row in existing.values()):
        return ["it is not a table"]
    problems = []
    for name, column in _COLUMNS.items():
        found = existing.get(name)
        if found is None:
            if column.is_key:
                problems.append(f"column {name} is missing")
        elif found.is_generated:
            problems.append(f"column {name} is generated, so it cannot be written")
        elif found.base_type not in _SOURCES[column.type]:
            problems.append(f"column {name} has type {found.type}, which cannot become {column.type}")
    problems += [
        f"column {name}, which is not ours, is NOT NULL without a default"
        for name, row in existing.items()
        if name not in _COLUMNS and row.must_be_given
    ]
    return problems


def _cast(name: str, column: _Column, found: Row[Any]) -> str:
    # A naive time means UTC, whatever the session's zone is.
    return (
        f"{name} AT TIME ZONE 'UTC'" if found.base_type == "timestamp without time zone" else f"{name}::{column.type}"
    )


def _fill(connection: Connection) -> None:
    fills = {name: column.fill for name, column in _COLUMNS.items() if column.fill}
    counts = ", ".join(f"count(*) FILTER (WHERE {name} IS NULL) AS {name}" for name in fills)
    lacking = connection.execute(text(f"SELECT {counts} FROM {_TABLE}")).one()
    incomplete = {name: rows for name, rows in lacking._asdict().items() if rows}
    if not incomplete:
        return
    values = ", ".join(f"{name} = coalesce({name}, {fills[name]})" for name in incomplete)
    holes = " OR ".join(f"{name} IS NULL" for name in incomplete)
    _execute(connection, f"NULL in {', '.join(incomplete)}", f"UPDATE {_TABLE} SET {values} WHERE {holes}")
    _logger.warning(
        "%s was adopted; where it held no value, that of a day without data was set: %s.",
        _TABLE,
        ", ".join(f"{name} in {rows} rows" for name, rows in incomplete.items()),
    )


def _ensure_key(connection: Connection) -> None:
    keys = connection.execute(_KEYS).all()
    ours = [key for key in keys if key.is_ours]
    # ON CONFLICT fails if any index on its columns is deferrable, even if another one is not.
    deferrable = [key.name for key in ours if not key.is_immediate]
    if deferrable:
        raise _not_adoptable(f"its key {', '.join(deferrable)} is DEFERRABLE, which an upsert cannot use")
    if not ours:
        kind = "UNIQUE" if any(key.is_primary for key in keys) else "PRIMARY KEY"
        change = f"ALTER TABLE {_TABLE} ADD {kind} (agent_id, metric_date)"
        _execute(connection, "the key (agent_id, metric_date)", change)


def _alter(connection: Connection, name: str, change: str) -> None:
    _execute(connection, f"column {name}", f"ALTER TABLE {_TABLE} {change}")


def _execute(connection: Connection, what: str, statement: str) -> None:
    try:
        connection.execute(text(statement))
    except DBAPIError as error:
        # Overflows, NULLs, duplicates, views and foreign keys are faults of the table; locks and missing grants are
        # not.
        sqlstate = getattr(error.orig, "sqlstate", None) or ""
        if sqlstate[:2] in ("0A", "22", "23", "2B", "42") and sqlstate != "42501":
            raise _not_adoptable(f"{what}: {str(error.orig).strip()}") from error.orig
        raise


def _not_adoptable(reason: str) -> ContractError:
    return ContractError(
        f"The existing table {_TABLE} cannot be adopted, and nothing was changed: {reason}. "
        "Change it, or rename it to have a new one made."
    )
