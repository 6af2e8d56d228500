"""Least privilege: which purpose needs what on which table, as GRANT statements and as a check of the present role."""

import shlex
from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum

from psycopg import sql
from sqlalchemy import Connection, text

from metrics_pipeline.errors import PermanentError
from metrics_pipeline.postgres.tables import upstream_metadata
from metrics_pipeline.postgres.upgrading import VERSION_TABLE


class Purpose(StrEnum):
    """What a role is for."""

    PIPELINE = "pipeline"
    RETENTION = "retention"
    READER = "reader"


_READ = ("SELECT",)
_PRUNE = ("SELECT", "DELETE")

#: Per purpose, the privileges on each table.
PRIVILEGES: dict[Purpose, dict[str, tuple[str, ...]]] = {
    Purpose.PIPELINE: {
        "agent_registry": _READ,
        "agent_execution_logs": _READ,
        "alert_history": _READ,
        "agent_performance_metrics": ("SELECT", "INSERT", "UPDATE"),
        "metric_day_ledger": ("SELECT", "INSERT", "UPDATE"),
        "metric_restatements": ("SELECT", "INSERT"),
        VERSION_TABLE: _READ,
    },
    Purpose.RETENTION: {
        "agent_execution_logs": _PRUNE,
        "alert_history": _PRUNE,
        "agent_performance_metrics": _PRUNE,
        "metric_restatements": _PRUNE,
        "metric_day_ledger": ("SELECT", "INSERT", "UPDATE"),
        "metric_day_pruning": ("SELECT", "INSERT", "UPDATE", "DELETE"),
        VERSION_TABLE: _READ,
    },
    Purpose.READER: {
        "agent_registry": _READ,
        "agent_execution_logs": _READ,
        "agent_performance_metrics": _READ,
        "metric_day_ledger": _READ,
        "metric_restatements": _READ,
        VERSION_TABLE: _READ,
    },
}

# Rows are deleted from the partitions themselves, where the privileges of the partitioned table do not count. And an
# adopted table may have a serial column of its own, whose default every insert evaluates.
_FOUND = text("""
SELECT name, n.nspname AS schema, c.relname AS relation,
       ARRAY(SELECT ARRAY[pn.nspname::text, p.relname::text]
               FROM pg_partition_tree(c.oid) AS tree
               JOIN pg_class AS p ON p.oid = tree.relid AND tree.isleaf AND tree.level > 0
               JOIN pg_namespace AS pn ON pn.oid = p.relnamespace
              ORDER BY 1) AS partitions,
       ARRAY(SELECT ARRAY[sn.nspname::text, s.relname::text]
               FROM pg_attrdef AS d
               JOIN pg_depend AS dep ON dep.classid = 'pg_attrdef'::regclass AND dep.objid = d.oid
                AND dep.refclassid = 'pg_class'::regclass
               JOIN pg_class AS s ON s.oid = dep.refobjid AND s.relkind = 'S'
               JOIN pg_namespace AS sn ON sn.oid = s.relnamespace
              WHERE d.adrelid = c.oid) AS sequences
  FROM unnest(CAST(:tables AS text[])) AS name
  JOIN pg_class AS c ON c.oid = to_regclass(name)
  JOIN pg_namespace AS n ON n.oid = c.relnamespace""")

_MISSING = text("""
SELECT wanted.name, wanted.privilege, current_user::text AS role
  FROM unnest(CAST(:tables AS text[]), CAST(:privileges AS text[])) WITH ORDINALITY AS wanted(name, privilege, position)
 WHERE NOT has_table_privilege(to_regclass(name), privilege)
 ORDER BY position""")

# NAMEDATALEN - 1: a longer name is cut by PostgreSQL, and the grant would be another role's.
_NAME_BYTES = 63


@dataclass(frozen=True)
class _Relation:
    schema: str
    name: sql.Identifier
    partitions: list[tuple[str, str]]
    sequences: list[sql.Composable]


def grant_statements(connection: Connection, roles: Mapping[Purpose, str]) -> list[str]:
    """The statements that give each role what its purpose needs, on the tables as search_path finds them.

    Raises PermanentError for a name that no role can have, and for tables that are missing.
    """
    for role in roles.values():
        if not _can_be_a_name(role):
            raise PermanentError(f"{role!r} cannot be the name of a role: it needs 1 to {_NAME_BYTES} bytes of UTF-8.")
    relations = _relations(connection, {table for purpose in roles for table in PRIVILEGES[purpose]})
    database = sql.Identifier(connection.execute(text("SELECT current_database()")).scalar_one())
    statements = []
    for purpose, role in roles.items():
        granted: dict[str, list[sql.Composable]] = defaultdict(list, {"CONNECT ON DATABASE": [database]})
        schemas = {relations[table].schema for table in PRIVILEGES[purpose]}
        for table, privileges in PRIVILEGES[purpose].items():
            names = granted[f"{', '.join(privileges)} ON TABLE"]
            names.append(relations[table].name)
            if "DELETE" in privileges:
                names += [sql.Identifier(*partition) for partition in relations[table].partitions]
                schemas |= {schema for schema, _ in relations[table].partitions}
            if "INSERT" in privileges:
                granted["USAGE ON SEQUENCE"] += relations[table].sequences
        granted["USAGE ON SCHEMA"] = [sql.Identifier(schema) for schema in sorted(schemas)]
        statements += [
            sql.SQL("GRANT {} {} TO {};")
            .format(sql.SQL(what), sql.SQL(", ").join(names), sql.Identifier(role))
            .as_string()
            for what, names in granted.items()
            if names
        ]
    return statements


def _can_be_a_name(role: str) -> bool:
    try:
        return 0 < len(role.encode()) <= _NAME_BYTES and "\0" not in role
    except UnicodeEncodeError:
        # A byte of the command line that is no UTF-8.
        return False


def require_privileges(connection: Connection, purpose: Purpose) -> None:
    """Raises PermanentError, which names all that the role of `connection` lacks on our tables, and the remedy.

    The contract with the upstream tables says what it lacks on those.
    """
    wanted = [
        (table, privilege)
        for table, needed in PRIVILEGES[purpose].items()
        if table not in upstream_metadata.tables
        for privilege in needed
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


def _relations(connection: Connection, tables: Collection[str]) -> dict[str, _Relation]:
    found = {
        row.name: _Relation(
            row.schema,
            sql.Identifier(row.schema, row.relation),
            row.partitions,
            [sql.Identifier(*name) for name in row.sequences],
        )
        for row in connection.execute(_FOUND, {"tables": list(tables)})
    }
    missing = sorted(set(tables) - found.keys())
    if missing:
        raise PermanentError(
            f"There is nothing to grant on {', '.join(missing)}: not found along search_path. metrics-pipeline "
            "db upgrade makes our tables, and metrics-pipeline db check says what else is missing."
        )
    return found
