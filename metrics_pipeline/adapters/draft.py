"""Drafts the two views over a table that nobody described: guesses by names, types and the statuses that it finds."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from psycopg import sql
from sqlalchemy import Connection, text

from metrics_pipeline.adapters.product import integer, milliseconds
from metrics_pipeline.errors import PermanentError
from metrics_pipeline.logs.contract import has_all_columns
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
    "metadata": "metadata",
}
_NAMES_OF_AGENTS = {
    "id": "id agentid uuid",
    "name": "name agentname title label",
    "status": "status state isactive active isenabled enabled",
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


def draft_views(connection: Connection, name: str, agents: str | None = None) -> Draft:
    """Drafts the views over the table `name`, and over `agents`, the table of its agents, if there is one.

    The names are found along search_path and may have a schema. A table that has all columns in types that we read is
    left as it is, except for its statuses.
    Reads the catalog, up to 100,000 rows for the statuses, and the largest value of a numeric time for its unit.
    Raises PermanentError if a table does not exist or no column looks like the agent, the time or the status.
    """
    source, columns = _table(connection, name)
    found = {wanted: _likeliest(columns, names) for wanted, names in _NAMES.items()}
    if found["user_id"] is not None:
        # Where there is metadata, the user is read from it.
        del found["metadata"]
    _require(name, columns, found, ("agent_id", "timestamp", "status"))
    expressions = {
        wanted: _expression(connection, source, wanted, column)
        for wanted, column in found.items()
        # Without a column the figures are shown as unknown. Only the id is not a figure.
        if column is not None or wanted == "id"
    }
    registry = (
        _agents(connection, agents)
        if agents is not None
        else f"SELECT DISTINCT {expressions['agent_id']} AS id, {expressions['agent_id']}::text AS name, "
        f"'active'::text AS status\n  FROM {source}"
    )
    unknown = tuple(wanted for wanted, column in found.items() if column is None and wanted != "metadata")
    if has_all_columns(connection, name, LOGS_TABLE):
        expressions, unknown = {column.name: column.quoted for column in columns}, ()
        expressions["status"] = _expression(connection, source, "status", found["status"])
    return Draft({REGISTRY_TABLE: registry, LOGS_TABLE: _select(expressions, source)}, unknown)


def _table(connection: Connection, name: str) -> tuple[str, list[_Column]]:
    """The table's name with its schema, quoted, and its columns."""
    table = connection.execute(_TABLE, {"name": name}).one_or_none()
    if table is None:
        raise PermanentError(
            f"There is no table {name} along search_path. Write its schema before its name, and quote a name with "
            "capital letters: 'public.\"MyRuns\"'."
        )
    columns = [_Column(row.name, row.type) for row in connection.execute(_COLUMNS, {"name": name})]
    return sql.Identifier(table.schema, table.name).as_string(), columns


def _require(name: str, columns: Sequence[_Column], found: Mapping[str, _Column | None], wanted: Sequence[str]) -> None:
    if lacking := [each for each in wanted if found[each] is None]:
        raise PermanentError(
            f"No column of {name} looks like {', '.join(lacking)}. Its columns: "
            f"{', '.join(column.name for column in columns)}. Write the views by hand; docs/howto/adapt.md shows how."
        )


def _agents(connection: Connection, name: str) -> str:
    """The query of agent_registry over a table of agents."""
    source, columns = _table(connection, name)
    if has_all_columns(connection, name, REGISTRY_TABLE):
        return f"SELECT id, name, status\n  FROM {source}"
    found = {wanted: _likeliest(columns, names) for wanted, names in _NAMES_OF_AGENTS.items()}
    _require(name, columns, found, ("id",))
    expressions = {wanted: _text(column) for wanted, column in found.items() if column is not None}
    expressions.setdefault("name", f"{expressions['id']}::text")
    status = found["status"]
    if status is None:
        expressions["status"] = "'active'::text"
    elif status.type == "boolean":
        expressions["status"] = f"CASE WHEN {status.quoted} THEN 'active' ELSE 'inactive' END"
    return _select(expressions, source)


def _select(expressions: Mapping[str, str], source: str) -> str:
    if all(value == sql.Identifier(name).as_string() for name, value in expressions.items()):
        return f"SELECT *\n  FROM {source}"
    listed = ",\n       ".join(f"{value} AS {sql.Identifier(name).as_string()}" for name, value in expressions.items())
    return f"SELECT {listed}\n  FROM {source}"


def _likeliest(columns: Sequence[_Column], names: str) -> _Column | None:
    by_name = {column.plain_name: column for column in reversed(columns)}
    return next((by_name[name] for name in names.split() if name in by_name), None)


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
            # The text of a binary number is shorter than its cast to numeric; that of money has a currency.
            as_text = "" if column.type == "money" else "::text"
            return column.quoted if column.type == "numeric" else f"round({column.quoted}{as_text}::numeric, 9)"
        case "id":
            return column.quoted
        case "metadata":
            return column.quoted if column.type in ("json", "jsonb") else f"{column.quoted}::jsonb"
        case _:
            return _text(column)


def _text(column: _Column) -> str:
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
