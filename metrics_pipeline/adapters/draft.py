"""Drafts the two views over a table that nobody described: guesses by names, types and the statuses that it finds."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

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
_ACTIVE = frozenset(
    ["active", "enabled", "live", "on", "online", "published", "deployed", "running", "ready", "normal", "true", "1"]
)
_INTEGERS = ("smallint", "integer", "bigint")
_FLOATS = ("double precision", "real")
_NUMBERS = ("numeric", *_FLOATS)
# A column with more values than this does not hold statuses.
_MOST_STATUSES = 20
_LOOKED_AT = 100_000


@dataclass(frozen=True)
class Draft:
    """Two queries to correct by hand, by the view's name, and what to look at, a sentence each."""

    queries: dict[str, str]
    notes: tuple[str, ...]


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


def draft_views(connection: Connection, name: str, agents: str | None, schema: str) -> Draft:
    """Drafts the views in `schema` over the table `name`, and over `agents`, the table of its agents, if there is one.

    The names are found along search_path and may have a schema. A table that has all columns in types that we read is
    left as it is, except for its statuses and for numbers that may need more than 32 bits.
    Reads the catalog, up to 100,000 rows for the statuses, and the largest value of a numeric time for its unit.
    Raises PermanentError if a table does not exist or is where a view would be, or if no column looks like the agent,
    the time or the status.
    """
    source, columns = _table(connection, name, schema)
    found = {wanted: _likeliest(columns, names) for wanted, names in _NAMES.items()}
    if found["user_id"] is not None:
        # Where there is metadata, the user is read from it.
        del found["metadata"]
    needed = _require(name, columns, found, ("agent_id", "timestamp", "status"))
    status, uncounted = _status(connection, source, needed["status"], {"success": _SUCCESS, "failed": _FAILED})
    expressions = {
        wanted: status if wanted == "status" else _expression(connection, source, wanted, column)
        for wanted, column in found.items()
        # Without a column the figures are shown as unknown. Only the id is not a figure.
        if column is not None or wanted == "id"
    }
    if agents is not None:
        registry, inactive = _agents(connection, agents, schema)
    else:
        registry, inactive = _agents_of_logs(source, expressions["agent_id"]), list[str]()
    unknown = [wanted for wanted, column in found.items() if column is None and wanted != "metadata"]
    if has_all_columns(connection, name, LOGS_TABLE):
        kept = {each: expressions[each] for each in ("status", "latency_ms", "token_count")}
        expressions, unknown = {column.name: column.quoted for column in columns} | kept, []
    notes = {
        "No column looks like": unknown,
        "Logs of these statuses count in the total only:": uncounted,
        "Agents of these statuses do not count as active:": inactive,
    }
    return Draft(
        {REGISTRY_TABLE: registry, LOGS_TABLE: _select(expressions, source)},
        tuple(f"{what} {', '.join(words)}." for what, words in notes.items() if words),
    )


def _table(connection: Connection, name: str, schema: str) -> tuple[str, list[_Column]]:
    """The table's name with its schema, quoted, and its columns. Refused if it is one of the views in `schema`."""
    table = connection.execute(_TABLE, {"name": name}).one_or_none()
    if table is None:
        raise PermanentError(
            f"There is no table {name} along search_path. Write its schema before its name, and quote a name with "
            "capital letters: 'public.\"MyRuns\"'."
        )
    if table.schema == schema and table.name in (REGISTRY_TABLE, LOGS_TABLE):
        raise PermanentError(
            f"{table.name} is in schema {schema}, where the view of this name would replace it. Choose another schema "
            "for the views: --schema."
        )
    columns = [_Column(row.name, row.type) for row in connection.execute(_COLUMNS, {"name": name})]
    return sql.Identifier(table.schema, table.name).as_string(), columns


def _require(
    name: str, columns: Sequence[_Column], found: Mapping[str, _Column | None], wanted: Sequence[str]
) -> dict[str, _Column]:
    """The columns that are `wanted`."""
    needed = {each: column for each in wanted if (column := found[each]) is not None}
    if lacking := [each for each in wanted if each not in needed]:
        raise PermanentError(
            f"No column of {name} looks like {', '.join(lacking)}. Its columns: "
            f"{', '.join(column.name for column in columns)}. Write the views by hand; docs/howto/adapt.md shows how."
        )
    return needed


def _agents_of_logs(source: str, agent: str) -> str:
    return f"SELECT DISTINCT {agent} AS id, {agent}::text AS name, 'active'::text AS status\n  FROM {source}"


def _agents(connection: Connection, name: str, schema: str) -> tuple[str, list[str]]:
    """The query of agent_registry over a table of agents, and the statuses that do not count as active."""
    source, columns = _table(connection, name, schema)
    found = {wanted: _likeliest(columns, names) for wanted, names in _NAMES_OF_AGENTS.items()}
    _require(name, columns, found, ("id",))
    expressions = {wanted: _text(column) for wanted, column in found.items() if column is not None}
    expressions.setdefault("name", f"{expressions['id']}::text")
    column, inactive = found["status"], list[str]()
    expressions["status"] = "'active'::text"
    if column is not None:
        meanings = {"active": _ACTIVE, "inactive": frozenset[str]()}
        expressions["status"], inactive = _status(connection, source, column, meanings)
    return _select(expressions, source), inactive


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
        case "latency_ms":
            return _latency(column)
        case "token_count":
            return _whole(column)
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
        newest = _scalars(connection, f"SELECT max({column.quoted}) FROM {source}")[0] or 0
        # Seconds reach 10^11 in the year 5138; milliseconds were past it in 1973.
        divisor = next((unit for unit in (10**9, 10**6, 10**3) if newest > 10**8 * unit), 1)
        return f"to_timestamp({column.quoted} / {divisor}.0)" if divisor > 1 else f"to_timestamp({column.quoted})"
    return column.quoted if column.type.startswith("timestamp") else f"{column.quoted}::timestamptz"


def _status(
    connection: Connection, source: str, column: _Column, meanings: Mapping[str, frozenset[str]]
) -> tuple[str, list[str]]:
    """The statuses in our words, and those that have none of the two `meanings`, each with the words for it."""
    if column.type == "boolean":
        true, false = meanings
        return f"CASE WHEN {column.quoted} THEN '{true}' ELSE '{false}' END", []
    some = f"SELECT {column.quoted}::text AS status FROM {source} LIMIT {_LOOKED_AT}"
    statuses = _scalars(connection, f"SELECT DISTINCT status FROM ({some}) AS looked_at ORDER BY 1")
    if len(statuses) > _MOST_STATUSES:
        raise PermanentError(
            f"The column {column.name} of {source} has {len(statuses)} values, too many for statuses. Write the views "
            "by hand; docs/howto/adapt.md shows how."
        )
    meant = {
        status: next((meaning for meaning, known in meanings.items() if status.lower() in known), None)
        for status in statuses
        if status is not None
    }
    words = [
        f"WHEN {sql.Literal(status).as_string()} THEN '{meaning}'"
        for status, meaning in meant.items()
        if meaning not in (None, status)
    ]
    value = column.quoted if column.type in ("text", "character varying") else f"{column.quoted}::text"
    expression = f"CASE {value} {' '.join(words)} ELSE {value} END" if words else value
    return expression, [status for status, meaning in meant.items() if meaning is None]


def _scalars(connection: Connection, statement: str) -> Sequence[Any]:
    # Not text(), which would take a colon in a name for a parameter.
    return connection.exec_driver_sql(statement.replace("%", "%%")).scalars().all()


def _latency(column: _Column) -> str:
    if column.type == "interval":
        return milliseconds(column.quoted)
    is_seconds = not column.plain_name.endswith("ms") and column.type in _NUMBERS
    return _whole(column, " * 1000" if is_seconds else "")


def _whole(column: _Column, factor: str = "") -> str:
    """The column as an integer, rounded half away from zero; NULL if it needs more than 32 bits."""
    if column.type in ("smallint", "integer"):
        return column.quoted
    if column.type == "bigint":
        return integer(column.quoted)
    as_text = "::text" if column.type in _FLOATS else ""
    return integer(f"round({column.quoted}{as_text}::numeric{factor})")
