"""Revision 0001 for an agent_performance_metrics of another program: its rows are kept, its types become ours.

Extra columns stay if our inserts can omit them. Missing values of old rows become those of a day without data, and a
warning names them. Rows that no reader can read are refused, and so is a table that does not store what we write.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from string import Template
from typing import Any

import psycopg
from sqlalchemy import Connection, Row, text
from sqlalchemy.exc import DBAPIError

from metrics_pipeline.errors import ContractError
from metrics_pipeline.metrics.wording import counted
from metrics_pipeline.postgres.migrations.readable import unreadable_rows
from metrics_pipeline.postgres.migrations.trial import try_rows

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
    """A column of ours.

    `fill` is the SQL of its value in rows that have none, if the column is NOT NULL; a $name in it is the value of that
    column in our type.
    """

    type: str
    fill: str | None = None
    is_key: bool = False
    default: str | None = None


_SUCCESSFUL = "coalesce($successful_executions, 0)"
_FAILED = "coalesce($failed_executions, 0)"
_TOTAL = f"coalesce($total_executions, {_SUCCESSFUL} + {_FAILED})"
_COST = "coalesce($total_cost_usd, 0)"

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
    "created_at": _Column("timestamp with time zone", "coalesce($updated_at, now())", default="now()"),
    "updated_at": _Column("timestamp with time zone"),
}

# A partition is a child of its table by inheritance, too.
_STRUCTURE = text(f"""
    SELECT c.relkind,
           (SELECT string_agg(inhrelid::regclass::text, ', ' ORDER BY inhrelid) FROM pg_inherits
             WHERE inhparent = c.oid AND c.relkind <> 'p') AS children,
           (SELECT string_agg(inhparent::regclass::text, ', ' ORDER BY inhparent) FROM pg_inherits
             WHERE inhrelid = c.oid) AS parents,
           (SELECT string_agg(quote_ident(rulename), ', ' ORDER BY rulename) FROM pg_rewrite
             WHERE ev_class = c.oid AND ev_type <> '1' AND ev_enabled <> 'D') AS rules,
           -- Of tgtype, 3 is BEFORE and FOR EACH ROW, and 20 is INSERT and UPDATE.
           (SELECT string_agg(quote_ident(tgname), ', ' ORDER BY tgname) FROM pg_trigger
             WHERE tgrelid = c.oid AND tgtype & 3 = 3 AND tgtype & 20 <> 0 AND tgenabled IN ('O', 'A')) AS triggers
      FROM pg_class AS c
     WHERE c.oid = to_regclass('{_TABLE}')
""")

_EXISTING = text(f"""
    SELECT a.attname AS name,
           format_type(a.atttypid, a.atttypmod) AS type, format_type(a.atttypid, NULL) AS base_type,
           a.attgenerated <> '' AS is_generated,
           a.attnotnull AND NOT (a.atthasdef OR a.attidentity <> '') AS must_be_given
      FROM pg_attribute AS a
     WHERE a.attrelid = to_regclass('{_TABLE}') AND a.attnum > 0 AND NOT a.attisdropped
     ORDER BY a.attnum
""")

# With the views on those views, because all of them have to be dropped.
_VIEWS = text(f"""
    WITH RECURSIVE uses AS (
        SELECT d.refobjid AS used, d.refobjsubid AS attnum, r.ev_class AS view
          FROM pg_depend AS d
          JOIN pg_rewrite AS r ON d.classid = 'pg_rewrite'::regclass AND r.oid = d.objid
         WHERE d.refclassid = 'pg_class'::regclass AND d.refobjid <> r.ev_class
    ), dependent AS (
        SELECT view
          FROM uses
          JOIN pg_attribute AS a ON a.attrelid = used AND a.attnum = uses.attnum AND a.attname = ANY(:columns)
         WHERE used = to_regclass('{_TABLE}')
         UNION
        SELECT uses.view FROM uses JOIN dependent ON uses.used = dependent.view
    )
    SELECT view::regclass::text FROM dependent ORDER BY 1
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


@dataclass(frozen=True)
class Adoption:
    """What adopting the table does.

    problems: why it cannot be adopted. commands: the ALTER TABLE that adds columns and the one that changes columns, if
    necessary. filled: how many rows get a value for NULL, by column. triggers: those that could change what is written.
    """

    problems: list[str]
    commands: list[str]
    filled: dict[str, int]
    triggers: str | None


def metrics_exist(connection: Connection) -> bool:
    """Whether search_path finds anything named agent_performance_metrics."""
    return connection.scalar(text("SELECT to_regclass(:table) IS NOT NULL"), {"table": _TABLE}) is True


def plan_adoption(connection: Connection) -> Adoption:
    """What adopt_metrics would do. Reads the whole table, and changes and locks nothing."""
    structure = connection.execute(_STRUCTURE).one()
    existing = {row.name: row for row in connection.execute(_EXISTING)}
    problems = _problems(structure, existing)
    if problems:
        return Adoption(problems, [], {}, structure.triggers)
    with _refusals("a value"):
        problems += unreadable_rows(connection, existing)
    filled = _rows_without_value(connection, existing)
    values = {
        name: _cast(name, column, existing[name]) if name in existing else f"NULL::{column.type}"
        for name, column in _COLUMNS.items()
    }
    added = [f"ADD COLUMN {name} {column.type}" for name, column in _COLUMNS.items() if name not in existing]
    rewritten = []
    changed = []
    for name, column in _COLUMNS.items():
        if name in filled or (name in existing and existing[name].type != column.type):
            rewritten.append(name)
            fill = f"coalesce({values[name]}, {Template(column.fill or '').substitute(values)})"
            changed.append(f"ALTER COLUMN {name} TYPE {column.type} USING {fill if name in filled else values[name]}")
        if column.default:
            changed.append(f"ALTER COLUMN {name} SET DEFAULT {column.default}")
        if column.fill or column.is_key:
            changed.append(f"ALTER COLUMN {name} SET NOT NULL")
    views = connection.execute(_VIEWS, {"columns": rewritten}).scalars().all()
    if views:
        saved = " ".join(f"--table={view}" for view in views)
        problems.append(
            f"views depend on columns that change ({', '.join(views)}): save their definitions with "
            f"`pg_dump --schema-only {saved}`, drop them, and create them again after the upgrade"
        )
    commands = [f"ALTER TABLE {_TABLE} {', '.join(changes)}" for changes in (added, changed) if changes]
    return Adoption(problems, commands, filled, structure.triggers)


def adopt_metrics(connection: Connection) -> None:
    """Gives the table our columns, types and key, and keeps its rows.

    Raises ContractError, which names every obstacle. The caller must then roll its transaction back.
    """
    # Before anything is read, because changing a weaker lock into this one can end in a deadlock.
    with _refusals("its kind"):
        connection.execute(text(f"LOCK TABLE {_TABLE} IN ACCESS EXCLUSIVE MODE"))
    adoption = plan_adoption(connection)
    if adoption.problems:
        raise _not_adoptable("; ".join(adoption.problems))
    with _refusals("a column"):
        for command in adoption.commands:
            connection.execute(text(command))
    if adoption.filled:
        # A derived success_rate can be wrong where counts contradict each other.
        problems = unreadable_rows(connection, _COLUMNS)
        if problems:
            raise _not_adoptable("; ".join(problems))
    _ensure_key(connection)
    cause = f" (its triggers: {adoption.triggers})" if adoption.triggers else ""
    with _refusals(f"it refuses a row of ours{cause}"):
        problems = try_rows(connection)
    if problems:
        raise _not_adoptable(f"it does not store a row of ours as it was written{cause}: {'; '.join(problems)}")
    if adoption.filled:
        filled = ", ".join(f"{name} in {counted(rows, 'row')}" for name, rows in adoption.filled.items())
        _logger.warning(
            "%s was adopted; where it held no value, that of a day without data was set: %s.", _TABLE, filled
        )
    if adoption.triggers:
        _logger.warning(
            "%s keeps the triggers %s. They stored two rows of ours as written, but can change or drop others.",
            _TABLE,
            adoption.triggers,
        )


def _problems(structure: Row[Any], existing: dict[str, Row[Any]]) -> list[str]:
    if structure.relkind not in ("r", "p"):
        return ["it is not a table"]
    problems = []
    if structure.children:
        problems.append(
            f"tables inherit from it ({structure.children}), and no key covers their rows: move the rows into it, and "
            "drop the tables or end their inheritance with ALTER TABLE … NO INHERIT"
        )
    if structure.parents:
        problems.append(
            f"it belongs to {structure.parents} by inheritance or as a partition, which decides its columns"
        )
    if structure.rules:
        problems.append(f"rules rewrite what is written ({structure.rules}): drop or disable them")
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


def _rows_without_value(connection: Connection, existing: dict[str, Row[Any]]) -> dict[str, int]:
    names = [name for name, column in _COLUMNS.items() if column.fill]
    counts = (
        f"count(*) FILTER (WHERE {name} IS NULL) AS {name}" if name in existing else f"count(*) AS {name}"
        for name in names
    )
    lacking = connection.execute(text(f"SELECT {', '.join(counts)} FROM {_TABLE}")).one()
    return {name: rows for name, rows in lacking._asdict().items() if rows}


def _ensure_key(connection: Connection) -> None:
    keys = connection.execute(_KEYS).all()
    ours = [key for key in keys if key.is_ours]
    # ON CONFLICT fails if any index on its columns is deferrable, even if another one is not.
    deferrable = [key.name for key in ours if not key.is_immediate]
    if deferrable:
        raise _not_adoptable(f"its key {', '.join(deferrable)} is DEFERRABLE, which an upsert cannot use")
    if not ours:
        kind = "UNIQUE" if any(key.is_primary for key in keys) else "PRIMARY KEY"
        with _refusals("the key (agent_id, metric_date)"):
            connection.execute(text(f"ALTER TABLE {_TABLE} ADD {kind} (agent_id, metric_date)"))


@contextmanager
def _refusals(what: str) -> Iterator[None]:
    try:
        yield
    except DBAPIError as error:
        # Overflows, NULLs, duplicates, views, foreign keys and triggers are faults of the table; locks and missing
        # grants are not.
        if not isinstance(error.orig, psycopg.Error):
            raise
        sqlstate = error.orig.sqlstate or ""
        if sqlstate[:2] in ("0A", "22", "23", "2B", "42", "P0") and sqlstate != "42501":
            diag = error.orig.diag
            words = " ".join(filter(None, (diag.message_primary, diag.message_detail))).rstrip(".")
            raise _not_adoptable(f"{what}: {words}") from error.orig
        raise


def _not_adoptable(reason: str) -> ContractError:
    return ContractError(
        f"The existing table {_TABLE} cannot be adopted, and nothing was changed: {reason}. "
        "Change it, or rename it to have a new one made."
    )
