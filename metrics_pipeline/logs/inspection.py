"""What `db check` finds out about other systems' tables beyond the catalog: whether they open, and what they hold.

Aggregation does not need it, and it may take some seconds.
"""

import re
from collections.abc import Collection, Mapping
from datetime import datetime, timedelta
from typing import Any

import psycopg
from psycopg import sql
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from metrics_pipeline.errors import ContractError
from metrics_pipeline.logs.contract import LOOK_SECONDS, UpstreamContract, looking
from metrics_pipeline.metrics.catalog import FAILED_STATUS, SUCCESS_STATUS
from metrics_pipeline.metrics.upstream import FLOATS, FRACTIONS, UPSTREAM_TABLES
from metrics_pipeline.metrics.wording import counted
from metrics_pipeline.names import LOGS_TABLE

_NEWEST_LOGS = 10_000
#: Reading fewer rows than this takes less than a tenth of a second.
_MANY_ROWS = 100_000

_STATUSES = text(f"""
SELECT coalesce(status, 'NULL') AS status, count(*) AS logs,
       count(*) FILTER (WHERE agent_id IN (SELECT id::text FROM agent_registry)) AS registered
FROM (SELECT status::text AS status, agent_id::text AS agent_id FROM agent_execution_logs
      WHERE "timestamp" <= now() ORDER BY "timestamp" DESC LIMIT {_NEWEST_LOGS}) AS log
GROUP BY status ORDER BY logs DESC, status""")

_CONVERSIONS = (
    ("latency_ms", ("bigint",), "a latency of 25 days or more makes its day unreadable, and the run names its log"),
    ("token_count", ("bigint",), "2³¹ tokens or more make their day unreadable, and the run names the log"),
    ("latency_ms", FRACTIONS, "a latency is rounded to a whole millisecond, half away from zero"),
    (
        "cost_usd",
        FLOATS,
        "a cost is read as its shortest decimal text and added up exactly; digits that the type cannot hold are lost",
    ),
)

_AGENTS = text("""
SELECT count(*) AS agents, count(*) FILTER (WHERE status::text = 'active') AS active FROM agent_registry""")

_IS_VIEW = text("SELECT relkind = 'v' FROM pg_class WHERE oid = to_regclass('agent_execution_logs')")

_PLAN = text("""
EXPLAIN (VERBOSE, FORMAT JSON)
SELECT 1 FROM agent_execution_logs WHERE "timestamp" >= :start AND "timestamp" < :end""")

_ROWS = text("""
SELECT reltuples::bigint FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
WHERE nspname = :schema AND relname = :table""")


def require_tables_to_open(connection: Connection, contract: UpstreamContract, tables: Collection[str]) -> None:
    """Raises ContractError if reading a table fails although the catalog promises its columns.

    The reason is a view whose role lacks a privilege, or a foreign server that refuses the role.
    """
    problems = []
    for table in tables:
        columns = ", ".join(
            f'"{column.name}"'
            for column in UPSTREAM_TABLES[table]
            if not column.is_optional or column.name in contract.types
        )
        try:
            with looking(connection):
                connection.execute(text(f"SELECT {columns} FROM {table} LIMIT 0"))
        except DBAPIError as error:
            if error.connection_invalidated or not isinstance(error.orig, psycopg.Error):
                raise
            problems.append(f"{table} ({error.orig.diag.message_primary})")
    if problems:
        raise ContractError(f"These tables cannot be read: {'; '.join(problems)}. Have it granted by their owner.")


def describe_data(connection: Connection, contract: UpstreamContract, now: datetime) -> tuple[list[str], list[str]]:
    """Sentences on what the newest logs and the registry hold, and warnings of what would make metrics look wrong."""
    try:
        with looking(connection):
            logs = connection.execute(_STATUSES).all()
            registry = connection.execute(_AGENTS).one()
    except DBAPIError as error:
        if not isinstance(error.orig, psycopg.errors.QueryCanceled):
            raise
        return [], [f"The newest logs were not looked at, because reading them took more than {LOOK_SECONDS} s."]
    statuses = {row.status: row.logs for row in logs}
    number = sum(statuses.values())
    found = [f"Agents: {registry.active:,} of {registry.agents:,} are active"]
    warnings = []
    if registry.active == 0:
        warnings.append(
            f"None of the agents ({registry.agents:,}) is active, so no row is stored: the status of an agent that "
            "should be counted has to be 'active'."
        )
    if number:
        listed = ", ".join(f"{name} {n:,}" for name, n in statuses.items())
        found.append(f"Statuses of the newest {counted(number, 'log')}: {listed}")
        known = {SUCCESS_STATUS, FAILED_STATUS, *contract.statuses}
        counting = sum(logs for status, logs in statuses.items() if status in known)
        registered = sum(row.registered for row in logs)
        found.append(
            f"Of these, {counting:,} count as {SUCCESS_STATUS} or {FAILED_STATUS}, "
            f"and the agents of {registered:,} are registered"
        )
        if not registered:
            warnings.append(
                f"None of the newest logs ({number:,}) has an agent that is registered, so all are skipped: "
                "agent_execution_logs.agent_id has to be spelled as agent_registry.id."
            )
        if not counting:
            warnings.append(
                f"None of the newest logs ({number:,}) has the status '{SUCCESS_STATUS}' or '{FAILED_STATUS}', so "
                "every success rate is 0 and no error is counted. Name the platform's own in METRICS_SUCCESS_STATUSES "
                "and METRICS_FAILED_STATUSES."
            )
    found += [
        f"agent_execution_logs.{column} has type {contract.types[column]}: {how}"
        for column, types, how in _CONVERSIONS
        if contract.types.get(column) in types
    ]
    read, slow = _explain_day(connection, contract, now)
    return [*found, *read], [*warnings, *slow]


def _explain_day(connection: Connection, contract: UpstreamContract, now: datetime) -> tuple[list[str], list[str]]:
    """How the tables behind a view of logs are read for a day, and warnings of large ones that are read as a whole."""
    if not connection.scalar(_IS_VIEW):
        return [], []
    bounds = {"start": contract.instant(now - timedelta(days=1)), "end": contract.instant(now)}
    with looking(connection):
        # The planner prefers reading a small table as a whole. With this setting it does so only without an index.
        connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
        nodes = [connection.execute(_PLAN, bounds).scalar_one()[0]["Plan"]]
        indexes, warnings = [], []
        for node in nodes:
            nodes += node.get("Plans", [])
            if "Index Name" in node and "Index Cond" in node:
                indexes.append(node["Index Name"])
            if node["Node Type"] in ("Seq Scan", "Index Scan", "Index Only Scan") and "Index Cond" not in node:
                name = {"schema": node["Schema"], "table": node["Relation Name"]}
                rows = connection.scalar(_ROWS, name) or 0
                if rows >= _MANY_ROWS:
                    warnings.append(
                        f"Each day reads all {rows:,} rows of {node['Relation Name']}, because no index serves the "
                        f"condition on timestamp through the view {LOGS_TABLE}. {_index_statement(node)}"
                    )
    read_by = ", ".join(dict.fromkeys(indexes))
    return ([f"A day is read through the view {LOGS_TABLE} by the indexes {read_by}"] if indexes else []), warnings


def _index_statement(scan: Mapping[str, Any]) -> str:
    """What the owner of the table can do: the index on the expression that the view calls timestamp."""
    condition = scan.get("Filter", "")
    end = start = condition.find(" >= '")
    depth = 0
    # Backwards to the parenthesis that encloses the comparison.
    while start > 0 and depth <= 0:
        start -= 1
        depth += {"(": 1, ")": -1}.get(condition[start], 0)
    alias = scan["Alias"]
    expression = condition[start + 1 : end].replace(f'"{alias}".', "").replace(f"{alias}.", "")
    if end < 0 or not expression or re.search(r'[\w"]\.[\w"]', re.sub(r"\d\.\d", "", expression)):
        return "Create an index on the expression that the view calls timestamp."
    if not re.fullmatch(r'\w+|"[^"]+"', expression):
        expression = f"({expression})"
    table = sql.Identifier(scan["Schema"], scan["Relation Name"]).as_string()
    return f"Have its owner apply: CREATE INDEX CONCURRENTLY ON {table} ({expression})"
