"""Drafts the two views over a table that nobody described: guesses by names, types and the statuses that it finds."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from psycopg import sql
from sqlalchemy import Connection, text

from metrics_pipeline.adapters.product import integer, milliseconds
from metrics_pipeline.errors import PermanentError
from metrics_pipeline.names import LOGS_TABLE, REGISTRY_TABLE

_TABLE = text("""
    SELECT nspname::text AS schema, relname::text AS name
      FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
     WHERE pg_class.oid = to_regclass(:name) AND relkind IN ('r', 'p', 'v', 'm', 'f')""")

_COLUMNS = text("""
    SELECT attname::text AS name, format_type(base.oid, NULL) AS type
      FROM pg_attribute
      JOIN pg_type AS own ON own.oid = atttypid
      JOIN pg_type AS base ON base.oid = CASE own.typtype WHEN 'd' THEN own.typbasetype ELSE own.oid END
     WHERE attrelid = to_regclass(:name) AND attnum > 0 AND NOT attisdropped
     ORDER BY attnum""")

# The names that other products use, in lower case and without "_", the likeliest first.
_NAMES = {
    "id": "id executionid requestid runid traceid logid",
    "agent_id": "agentid agent assistantid workflowid flowid appid botid agentname projectid model",
    "timestamp": "timestamp startedat starttime createdat created time ts date",
    "status": "status state outcome result success succeeded",
    "latency_ms": "latencyms durationms elapsedms responsetimems latency duration elapsed latencys durations "
    "latencyseconds durationseconds elapsedtime responsetime",
    "token_count": "tokencount totaltokens tokens tokenusage",
    "cost_usd": "costusd totalcostusd totalcost cost spend price totalprice",
    "error_type": "errortype errorclass errorcode exceptiontype errorname",
    "user_id": "userid enduser endusers username user customerid",
}
_SUCCESS = frozenset(
    ["success", "succeeded", "successful", "ok", "completed", "complete", "finished", "done", "true", "1"]
)
_FAILED = frozenset(["failed", "failure", "fail", "error", "errored", "crashed", "timeout", "exception", "false", "0"])
_INTEGERS = ("smallint", "integer", "bigint")
_NUMBERS = ("numeric", "double precision", "real")
# A column with more values than this does not hold statuses.
_MOST_STATUSES = 20
_LOOKED_AT = 100_000


@dataclass(frozen=True)
class Draft:
    """Two queries to correct by hand, by the view's name, and what could not be found, a phrase each."""

    queries: dict[str, str]
    unknown: tuple[str, ...]


@dataclass(frozen=True)
class _Column:
    name: str
    type: str

    @property
    def quoted(self) -> str:
        return sql.Identifier(self.name).as_string()

    @property
    def plain_name(self) -> str:
        return re.sub(r"[^a-z0-9]", "", self.name.lower())


def draft_views(connection: Connection, name: str) -> Draft:
    """Drafts the views over the table `name`, which is found along search_path and may have a schema.

    Reads the catalog, up to 100,000 rows for the statuses, and the largest value of a numeric time for its unit.
    Raises PermanentError if the table does not exist or no column looks like the agent, the time or the status.
    """
    table = connection.execute(_TABLE, {"name": name}).one_or_none()
    if table is None:
        raise PermanentError(
            f"There is no table {name} along search_path. Write its schema before its name, and quote a name with "
            "capital letters: 'public.\"MyRuns\"'."
        )
    columns = [_Column(row.name, row.type) for row in connection.execute(_COLUMNS, {"name": name})]
    found = {wanted: _likeliest(columns, names.split()) for wanted, names in _NAMES.items()}
    lacking = [wanted for wanted in ("agent_id", "timestamp", "status") if found[wanted] is None]
    if lacking:
        raise PermanentError(
            f"No column of {name} looks like {', '.join(lacking)}. Its columns: "
            f"{', '.join(column.name for column in columns)}. Write the views by hand; docs/howto/adapt.md shows how."
        )
    source = sql.Identifier(table.schema, table.name).as_string()
    expressions = {
        wanted: _expression(connection, source, wanted, column)
        for wanted, column in found.items()
        # Without a column the figures are shown as unknown. Only the id is no figure.
        if column is not None or wanted == "id"
    }
    agent = expressions["agent_id"]
    selected = ",\n       ".join(f"{value} AS {sql.Identifier(key).as_string()}" for key, value in expressions.items())
    logs = f"SELECT {selected}\n  FROM {source}"
    registry = f"SELECT DISTINCT {agent} AS id, {agent}::text AS name, 'active'::text AS status\n  FROM {source}"
    unknown = tuple(wanted for wanted, column in found.items() if column is None)
    return Draft({REGISTRY_TABLE: registry, LOGS_TABLE: logs}, unknown)


def _likeliest(columns: Sequence[_Column], names: Sequence[str]) -> _Column | None:
    by_name = {column.plain_name: column for column in reversed(columns)}
    return next((by_name[name] for name in names if name in by_name), None)


def _expression(connection: Connection, source: str, wanted: str, column: _Column | None) -> str:
    if column is None:
        return "NULL::text"
    match wanted:
        case "timestamp":
            return _moment(connection, source, column)
        case "status":
            return _status(connection, source, column)
        case "latency_ms":
            return _latency(column)
        case "token_count":
            return column.quoted if column.type == "integer" else integer(f"round({column.quoted}::numeric)")
        case "cost_usd":
            return column.quoted if column.type == "numeric" else f"round({column.quoted}::text::numeric, 9)"
        case "id":
            return column.quoted
        case _:
            return column.quoted if column.type in ("text", "character varying", "uuid") else f"{column.quoted}::text"


def _moment(connection: Connection, source: str, column: _Column) -> str:
    if column.type in _INTEGERS or column.type in _NUMBERS:
        newest = connection.scalar(text(f"SELECT max({column.quoted}) FROM {source}")) or 0
        # Seconds reach 10^11 in the year 5138; milliseconds were past it in 1973.
        divisor = next((unit for unit in (10**9, 10**6, 10**3) if newest > 10**8 * unit), 1)
        return f"to_timestamp({column.quoted} / {divisor}.0)" if divisor > 1 else f"to_timestamp({column.quoted})"
    return column.quoted if column.type.startswith("timestamp") else f"{column.quoted}::timestamptz"


def _status(connection: Connection, source: str, column: _Column) -> str:
    if column.type == "boolean":
        return f"CASE WHEN {column.quoted} THEN 'success' ELSE 'failed' END"
    some = f"SELECT {column.quoted}::text AS status FROM {source} LIMIT {_LOOKED_AT}"
    statuses = connection.scalars(text(f"SELECT DISTINCT status FROM ({some}) AS looked_at ORDER BY 1")).all()
    if len(statuses) > _MOST_STATUSES:
        raise PermanentError(
            f"The column {column.name} of {source} has {len(statuses)} values, too many for statuses. Write the views "
            "by hand; docs/howto/adapt.md shows how."
        )
    words = [
        f"WHEN {sql.Literal(status).as_string()} THEN '{meaning}'"
        for status in statuses
        if status is not None
        for meaning, known in (("success", _SUCCESS), ("failed", _FAILED))
        if status.lower() in known and status != meaning
    ]
    value = column.quoted if column.type in ("text", "character varying") else f"{column.quoted}::text"
    return f"CASE {value} {' '.join(words)} ELSE {value} END" if words else value


def _latency(column: _Column) -> str:
    if column.type == "interval":
        return milliseconds(column.quoted)
    if column.type == "integer":
        return column.quoted
    factor = " * 1000" if not column.plain_name.endswith("ms") and column.type in _NUMBERS else ""
    return integer(f"round({column.quoted}::numeric{factor})")
