"""Least privilege: the privileges that each purpose needs, as GRANT statements and as a check of the current role."""

import shlex
from collections import defaultdict
from collections.abc import Mapping
from enum import StrEnum

from psycopg import sql
from sqlalchemy import Connection, text

from metrics_pipeline.errors import PermanentError
from metrics_pipeline.metrics.catalog import GRAINS
from metrics_pipeline.names import ALERTS_TABLE
from metrics_pipeline.postgres.tables import upstream_metadata
from metrics_pipeline.postgres.upgrading import VERSION_TABLE


class Purpose(StrEnum):
    """What a role is for."""

    PIPELINE = "pipeline"
    RETENTION = "retention"
    READER = "reader"
    OPERATOR = "operator"


_READ = ("SELECT",)
_PRUNE = ("SELECT", "DELETE")
_WRITE = ("SELECT", "INSERT", "UPDATE")
_FEED = {
    "metric_log_changes": _PRUNE,
    "metric_log_feed": ("SELECT", "UPDATE"),
    # Sequences: GRANT and has_table_privilege() take them as tables.
    "metric_log_watermark": ("SELECT", "UPDATE"),
    "metric_log_failures": _READ,
}
_EVALUATE = {
    "metric_alerts": ("SELECT", "INSERT", "DELETE"),
    "metric_alert_transitions": ("SELECT", "INSERT"),
    "metric_alert_rules": _WRITE,
}
_METRICS = [grain.table for grain in GRAINS]
_DISTRIBUTIONS = [grain.distributions for grain in GRAINS]

#: Per purpose, the privileges on each table.
PRIVILEGES: dict[Purpose, dict[str, tuple[str, ...]]] = {
    Purpose.PIPELINE: {
        "agent_registry": _READ,
        "agent_execution_logs": _READ,
        **{grain.table: (*_WRITE, "DELETE") if grain.may_lose_rows else _WRITE for grain in GRAINS},
        **dict.fromkeys(_DISTRIBUTIONS, ("SELECT", "INSERT", "DELETE")),
        "metric_user_key": _READ,
        "metric_day_ledger": _WRITE,
        "metric_day_verifications": _WRITE,
        "metric_acknowledged_agents": _READ,
        "metric_restatements": ("SELECT", "INSERT"),
        **_EVALUATE,
        "metric_alert_deliveries": _WRITE,
        **_FEED,
        VERSION_TABLE: _READ,
    },
    Purpose.RETENTION: {
        "agent_execution_logs": _PRUNE,
        "alert_history": _PRUNE,
        **dict.fromkeys([*_METRICS, *_DISTRIBUTIONS], _PRUNE),
        "metric_restatements": _PRUNE,
        "metric_day_verifications": _PRUNE,
        "metric_day_ledger": _WRITE,
        "metric_acknowledged_agents": _READ,
        **_EVALUATE,
        "metric_alert_transitions": ("SELECT", "INSERT", "DELETE"),
        "metric_alert_deliveries": _PRUNE,
        VERSION_TABLE: _READ,
    },
    Purpose.READER: {
        "agent_registry": _READ,
        "agent_execution_logs": _READ,
        **dict.fromkeys([*_METRICS, *_DISTRIBUTIONS], _READ),
        "agent_latency_histogram": _READ,
        "metric_day_ledger": _READ,
        "metric_day_verifications": _READ,
        "metric_acknowledged_agents": _READ,
        "metric_restatements": _READ,
        "metric_alerts": _READ,
        "metric_alert_transitions": _READ,
        "metric_alert_deliveries": _READ,
        "metric_alert_rules": _READ,
        VERSION_TABLE: _READ,
    },
    # `clear` deletes what the pipeline may only write.
    Purpose.OPERATOR: {
        "agent_registry": _READ,
        "agent_execution_logs": _READ,
        **dict.fromkeys([*_METRICS, *_DISTRIBUTIONS], (*_WRITE, "DELETE")),
        "metric_user_key": _READ,
        "metric_day_ledger": (*_WRITE, "DELETE"),
        "metric_day_verifications": (*_WRITE, "DELETE"),
        "metric_acknowledged_agents": (*_WRITE, "DELETE"),
        "metric_restatements": ("SELECT", "INSERT"),
        **_EVALUATE,
        "metric_alert_deliveries": _WRITE,
        **_FEED,
        VERSION_TABLE: _READ,
    },
}

# Each table, and what its privileges do not cover: an adopted table may have a serial column, whose default every
# insert evaluates. Rows of partitions are read and deleted through the partitioned table, whose privileges suffice.
_OBJECTS = text("""
WITH tables AS (SELECT name, to_regclass(name)::oid AS id FROM unnest(CAST(:tables AS text[])) AS name),
objects AS (
    SELECT name, 'table' AS kind, id FROM tables
     UNION ALL
    SELECT name, 'sequence', sequence.oid
      FROM tables
      JOIN pg_attrdef AS column_default ON column_default.adrelid = tables.id
      JOIN pg_depend AS used ON used.classid = 'pg_attrdef'::regclass AND used.objid = column_default.oid
       AND used.refclassid = 'pg_class'::regclass
      JOIN pg_class AS sequence ON sequence.oid = used.refobjid AND sequence.relkind = 'S'
)
SELECT name, kind, quote_ident(nspname) AS schema, format('%I.%I', nspname, relname) AS identifier
  FROM objects
  JOIN pg_class ON pg_class.oid = id
  JOIN pg_namespace ON pg_namespace.oid = relnamespace
 ORDER BY identifier""")

_MISSING = text("""
SELECT wanted.name, wanted.privilege, current_user::text AS role
  FROM unnest(CAST(:tables AS text[]), CAST(:privileges AS text[])) WITH ORDINALITY AS wanted(name, privilege, position)
 WHERE NOT has_table_privilege(to_regclass(name), privilege)
 ORDER BY position""")

# NAMEDATALEN - 1: PostgreSQL truncates a longer name, and would grant to another role.
_NAME_BYTES = 63


def grant_statements(connection: Connection, roles: Mapping[Purpose, str]) -> list[str]:
    """The statements that grant each role what its purpose needs, on the tables that search_path finds.

    Raises PermanentError for a name that a role cannot have, and for tables that are missing.
    """
    for role in roles.values():
        require_name(role, "a role")
    tables = {table for purpose in roles for table in PRIVILEGES[purpose]}
    objects = connection.execute(_OBJECTS, {"tables": list(tables)}).all()
    # Retention does without alerts.
    missing = sorted(tables - {found.name for found in objects} - {ALERTS_TABLE})
    if missing:
        raise PermanentError(
            f"There is nothing to grant on {', '.join(missing)}: not found along search_path. metrics-pipeline "
            "db upgrade makes our tables, and metrics-pipeline db check says what else is missing."
        )
    database = connection.execute(text("SELECT quote_ident(current_database())")).scalar_one()
    statements = []
    for purpose, role in roles.items():
        granted = defaultdict(list, {"CONNECT ON DATABASE": [database]})
        schemas = set()
        for table, privileges in PRIVILEGES[purpose].items():
            for found in objects:
                if found.name != table:
                    continue
                if found.kind == "table":
                    granted[f"{', '.join(privileges)} ON TABLE"].append(found.identifier)
                    schemas.add(found.schema)
                elif found.kind == "sequence" and "INSERT" in privileges:
                    granted["USAGE ON SEQUENCE"].append(found.identifier)
        granted["USAGE ON SCHEMA"] = sorted(schemas)
        grantee = sql.Identifier(role).as_string()
        statements += [f"GRANT {what} {', '.join(names)} TO {grantee};" for what, names in granted.items()]
    return statements


def require_name(name: str, of: str) -> None:
    """Raises PermanentError for what PostgreSQL would refuse or truncate as the name of `of`, such as "a role"."""
    try:
        is_name = 0 < len(name.encode()) <= _NAME_BYTES and "\0" not in name
    except UnicodeEncodeError:
        # A byte of the command line was not UTF-8.
        is_name = False
    if not is_name:
        raise PermanentError(f"{name!r} cannot be the name of {of}: it needs 1 to {_NAME_BYTES} bytes of UTF-8.")


def require_privileges(connection: Connection, purpose: Purpose) -> None:
    """Raises PermanentError, which names every privilege that the role of `connection` lacks.

    SELECT on the upstream tables is checked with their contract, because single columns suffice.
    """
    wanted = [
        (table, privilege)
        for table, needed in PRIVILEGES[purpose].items()
        for privilege in needed
        if privilege != "SELECT" or table not in upstream_metadata.tables
    ]
    tables, privileges = zip(*wanted, strict=True)
    missing = connection.execute(_MISSING, {"tables": list(tables), "privileges": list(privileges)}).all()
    if missing:
        lacking = ", ".join(f"{row.privilege} on {row.name}" for row in missing)
        role = missing[0].role
        raise PermanentError(
            f"Role {role} lacks what the {purpose} needs: {lacking}. "
            f"Have the owner of the tables apply what this prints: metrics-pipeline db grants --{purpose} "
            f"{shlex.quote(role)}"
        )
