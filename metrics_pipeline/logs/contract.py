"""The contract with the upstream tables: which columns we read, in which types, and whether a database keeps it."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import psycopg
from sqlalchemy import Connection, Row, text
from sqlalchemy.exc import DBAPIError

from metrics_pipeline.errors import ContractError
from metrics_pipeline.metrics.dimensions import Dimension
from metrics_pipeline.metrics.upstream import (
    LOG_COLUMNS,
    METADATA_COLUMNS,
    METADATA_KEYS,
    OPTIONAL_COLUMNS,
    UPSTREAM_TABLES,
    UpstreamColumn,
    unknown_without,
)
from metrics_pipeline.metrics.windows import DayWindow
from metrics_pipeline.names import LOGS_TABLE, REGISTRY_TABLE

_MINIMUM_VERSION = 13

# Columns that hold several values.
_NOT_SINGLE = ("json", "jsonb")

#: The limit of a statement that looks at rows of a table of any size.
LOOK_SECONDS = 5

# The types of the columns where a table does not have them.
_TYPES = {column.name: column.created_as for column in (*LOG_COLUMNS, *METADATA_COLUMNS)}

#: The tables that metrics are computed from.
SOURCE_TABLES = (REGISTRY_TABLE, LOGS_TABLE)

_SERVER = text("""
    SELECT current_setting('server_version_num')::int / 10000 AS version,
           current_setting('server_encoding') AS encoding,
           current_schemas(false)::text AS schemas,
           current_user::text AS role
""")

# A domain counts as its base type, which may be a domain too. to_regclass follows search_path, as the statements that
# read the tables do.
_COLUMNS = text("""
    SELECT name AS table_name,
           a.attname AS column_name,
           (WITH RECURSIVE base AS (
                SELECT oid, typtype, typbasetype FROM pg_type WHERE oid = a.atttypid
                 UNION ALL
                SELECT t.oid, t.typtype, t.typbasetype FROM base JOIN pg_type AS t ON t.oid = base.typbasetype
            )
            SELECT CASE typtype WHEN 'e' THEN 'enum' ELSE format_type(oid, NULL) END
              FROM base WHERE typtype <> 'd') AS type,
           has_column_privilege(c.oid, a.attnum, 'SELECT') AS is_readable,
           row_security_active(c.oid) AS hides_rows
      FROM unnest(CAST(:tables AS text[])) AS name
      JOIN pg_class AS c ON c.oid = to_regclass(name)
      JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
     WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f')
""")

# The table and those that inherit from it, as partitions or otherwise. A parent without rows of its own needs no index,
# and a view has none. Not pg_relation_size(), which would wait for a lock of the table.
_WITHOUT_TIME_INDEX = text("""
    WITH RECURSIVE family AS (
        SELECT to_regclass('agent_execution_logs')::oid AS oid
         UNION
        SELECT inhrelid FROM family JOIN pg_inherits ON inhparent = family.oid
    ), stored AS (
        SELECT oid
          FROM pg_class JOIN family USING (oid)
         WHERE relkind = 'm' OR relkind = 'r'
           AND (relpages > 0 OR NOT EXISTS (SELECT FROM pg_inherits WHERE inhparent = oid))
    )
    SELECT oid::regclass::text
      FROM stored
     WHERE NOT EXISTS (
               SELECT FROM pg_index AS i
                 JOIN pg_class AS index ON index.oid = i.indexrelid
                 JOIN pg_am AS method ON method.oid = index.relam AND method.amname IN ('btree', 'brin')
                 JOIN pg_attribute AS a
                   ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0] AND a.attname = 'timestamp'
                WHERE i.indrelid = stored.oid AND i.indisvalid AND i.indpred IS NULL)
     ORDER BY 1
""")


# A schema whose USAGE is missing is left out of current_schemas, and its tables are not found.
_SCHEMAS_WITHOUT_USAGE = text("""
    SELECT quote_ident(nspname)
      FROM unnest(string_to_array(current_setting('search_path'), ',')) AS name
      JOIN pg_namespace ON nspname = replace(trim(BOTH ' "' FROM name), '$user', current_user)
     WHERE NOT has_schema_privilege(oid, 'USAGE')
""")


@dataclass(frozen=True)
class UpstreamContract:
    """What a reader must know about a database that keeps the contract.

    types: of each column of agent_execution_logs, the base type as PostgreSQL's format_type() writes it, or `enum`.
    statuses: what further statuses count as, Settings.statuses.
    warnings: what is allowed but will be slow or may mislead, a sentence each.
    """

    types: Mapping[str, str]
    warnings: tuple[str, ...]
    statuses: Mapping[str, str] = field(default_factory=dict)

    @property
    def timestamp_is_naive(self) -> bool:
        """Whether agent_execution_logs.timestamp has no time zone and means UTC."""
        return self.types.get("timestamp") == "timestamp without time zone"

    @property
    def metadata_is_json(self) -> bool:
        """Whether agent_execution_logs.metadata is json, not jsonb, so that it can hold characters that text cannot."""
        return self.types.get("metadata") == "json"

    @property
    def unlogged(self) -> list[str]:
        """Which OPTIONAL_COLUMNS the logs do not have."""
        return _lacking(self.types)

    def column(self, name: str) -> str:
        """SQL for an optional column of agent_execution_logs: itself, or NULL where the table does not have it."""
        return name if name in self.types else f"NULL::{_TYPES[name]}"

    def instant(self, moment: datetime) -> datetime:
        """A moment in UTC in the type of agent_execution_logs.timestamp, for comparisons."""
        return moment.replace(tzinfo=None) if self.timestamp_is_naive else moment

    def bounds(self, window: DayWindow) -> dict[str, datetime]:
        """The parameters :start and :end of a statement over the logs of the window."""
        return {"start": self.instant(window.start), "end": self.instant(window.end)}


def check_contract(connection: Connection, tables: Collection[str] = tuple(UPSTREAM_TABLES)) -> UpstreamContract:
    """Checks `tables` in the catalog, as the role of `connection` sees them through its search_path.

    It reads no rows, except one of a table of SOURCE_TABLES whose row-level security is active: if none is visible, all
    metrics would become zeros.
    A caller names only the tables that it reads, so that its role needs no privilege on the others.
    Raises one ContractError that names every missing table, column and privilege and every wrong type.
    """
    server = connection.execute(_SERVER).one()
    columns = connection.execute(_COLUMNS, {"tables": list(tables)}).all()
    problems = []
    if server.version < _MINIMUM_VERSION:
        problems.append(f"the server is PostgreSQL {server.version}, needed is {_MINIMUM_VERSION} or newer")
    if server.encoding != "UTF8":
        problems.append(f"the database's encoding is {server.encoding}, needed is UTF8")
    for table in tables:
        found = {column.column_name: column for column in columns if column.table_name == table}
        declared = UPSTREAM_TABLES[table]
        if table == LOGS_TABLE and "metadata" not in found:
            declared += METADATA_COLUMNS
        problems += _table_problems(table, declared, found)
    if any(problem.endswith("is missing") for problem in problems):
        problems += _schemas_without_usage(connection)
    if not problems:
        problems += _hidden_tables(connection, columns)
    if problems:
        raise ContractError(
            f"The database does not hold what the pipeline reads (role {server.role}, search_path {server.schemas}): "
            f"{'; '.join(problems)}. These tables belong to other systems: have them created, changed or "
            "granted there, or put views over what is there. For a product's tables metrics-pipeline db adapt NAME "
            f"prints them, for others metrics-pipeline db adapt --from {LOGS_TABLE} --agents {REGISTRY_TABLE}."
        )
    types = {c.column_name: c.type for c in columns if c.table_name == LOGS_TABLE}
    lacking = _lacking_warnings(types) if LOGS_TABLE in tables else []
    return UpstreamContract(types, (*_index_warnings(connection), *_row_security_warnings(columns), *lacking))


def has_all_columns(connection: Connection, name: str, table: str) -> bool:
    """Whether the table or view `name` has every column of `table`, one of UPSTREAM_TABLES, also the optional ones.

    They have types that we read, and the role of `connection` may read them. name: as to_regclass() takes it.
    """
    found = {column.column_name: column for column in connection.execute(_COLUMNS, {"tables": [name]})}
    declared = UPSTREAM_TABLES[table]
    return all(column.name in found for column in declared) and not _table_problems(name, declared, found)


def check_dimensions(connection: Connection, dimensions: Sequence[Dimension]) -> None:
    """Raises ContractError, which names every dimension whose column is missing, unreadable or not a single value."""
    found = {c.column_name: c for c in connection.execute(_COLUMNS, {"tables": [LOGS_TABLE]})}
    problems = []
    for dimension in dimensions:
        column = found.get(dimension.column)
        if column is None:
            problems.append(f"{dimension.definition}: there is no column {dimension.column}")
        elif not column.is_readable:
            problems.append(f"{dimension.definition}: the privilege SELECT on the column is missing")
        elif not dimension.keys and (column.type in _NOT_SINGLE or column.type.endswith("[]")):
            problems.append(f"{dimension.definition}: the column has type {column.type}, not a single value")
    if problems:
        raise ContractError(
            f"METRICS_DIMENSIONS names what {LOGS_TABLE} does not have: {'; '.join(problems)}. Its columns: "
            f"{', '.join(sorted(found))}."
        )


def _lacking(found: Collection[str]) -> list[str]:
    present = {*found, *(METADATA_KEYS if "metadata" in found else ())}
    return [name for name in OPTIONAL_COLUMNS if name not in present]


def _lacking_warnings(found: Collection[str]) -> list[str]:
    lacking = _lacking(found)
    if not lacking:
        return []
    unknown = unknown_without(lacking)
    consequence = f"so these are unknown, also where they say 0: {', '.join(unknown)}" if unknown else "it is NULL"
    said = f"{LOGS_TABLE} does not have {', '.join(lacking)}, {consequence}."
    return [f"{said} Rules of alerts that need these columns do not judge days without them."]


def _table_problems(table: str, declared: Sequence[UpstreamColumn], found: Mapping[str, Row[Any]]) -> list[str]:
    if not found:
        return [f"table {table} is missing"]
    accepted = {column.name: column.accepted for column in declared}
    present = {name: found[name] for name in accepted if name in found}
    problems = [
        f"column {table}.{column.name} is missing"
        for column in declared
        if column.name not in found and not column.is_optional
    ]
    problems += [
        f"column {table}.{name} has type {column.type}, accepted: {', '.join(accepted[name])}"
        for name, column in present.items()
        if accepted[name] and column.type not in accepted[name]
    ]
    unreadable = [name for name, column in present.items() if not column.is_readable]
    if len(unreadable) == len(present):
        problems.append(f"the privilege SELECT on table {table} is missing")
    elif unreadable:
        problems.append(f"the privilege SELECT on {table} ({', '.join(unreadable)}) is missing")
    return problems


def _schemas_without_usage(connection: Connection) -> list[str]:
    schemas = connection.execute(_SCHEMAS_WITHOUT_USAGE).scalars()
    return [f"the privilege USAGE on schema {schema}, where they may be, is missing" for schema in schemas]


def _hidden_tables(connection: Connection, columns: Sequence[Row[Any]]) -> list[str]:
    secured = {column.table_name for column in columns if column.hides_rows}
    return [
        f"row-level security is active for table {table}, and {unseen}"
        for table in SOURCE_TABLES
        if table in secured and (unseen := _unseen(connection, table))
    ]


def _unseen(connection: Connection, table: str) -> str | None:
    """That no row of the table is visible, or none is found in time; None if one is."""
    # The newest logs first, by the index: a role that sees few logs among many is likely to see one of them.
    order = 'ORDER BY "timestamp" DESC' if table == LOGS_TABLE else ""
    try:
        with looking(connection):
            row = connection.execute(text(f"SELECT 1 FROM {table} {order} LIMIT 1")).one_or_none()
    except DBAPIError as error:
        if not isinstance(error.orig, psycopg.errors.QueryCanceled):
            raise
        return f"no visible row of it was found within {LOOK_SECONDS} s"
    return None if row else "no row of it is visible"


@contextmanager
def looking(connection: Connection) -> Iterator[None]:
    """A savepoint that is rolled back, in which a statement takes LOOK_SECONDS at most."""
    savepoint = connection.begin_nested()
    try:
        connection.exec_driver_sql(f"SET LOCAL statement_timeout = '{LOOK_SECONDS}s'")
        yield
    finally:
        savepoint.rollback()


def _index_warnings(connection: Connection) -> list[str]:
    tables = ", ".join(connection.execute(_WITHOUT_TIME_INDEX).scalars())
    remedy = "Create one: CREATE INDEX ON agent_execution_logs (timestamp)."
    return [f"No index of {tables} leads with timestamp: each day reads the whole table. {remedy}"] if tables else []


def _row_security_warnings(columns: Sequence[Row[Any]]) -> list[str]:
    return [
        f"Row-level security hides rows of {table} from this role, so its metrics cover the visible rows only."
        for table in sorted({column.table_name for column in columns if column.hides_rows})
    ]
