"""PostgreSQL's own counters of writes to tables, and the tables that a view of logs reads.

They are used where a write cannot escape them. Before version 15 they travelled as datagrams, which can be lost, and
those of an idle session could wait for hours.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, text

_MINIMUM_VERSION = (15,)

# Counters restart at 0 after a crash, which renews the reset time of the archiver's, and after pg_stat_reset() and
# pg_stat_reset_single_table_counters(), which renew that of the database. Those of a copied database begin at 0, and
# its tables have the oids of the original's. On a replica they count nothing that is replayed. A role may have been set
# not to count.
_SERVER = text("""
SELECT ARRAY[oid::text, pg_postmaster_start_time()::text, pg_stat_get_db_stat_reset_time(oid)::text,
             (SELECT stats_reset::text FROM pg_stat_archiver)]
  FROM pg_database
 WHERE datname = current_database() AND NOT pg_is_in_recovery() AND current_setting('track_counts')::boolean
   AND NOT EXISTS (SELECT FROM pg_db_role_setting, unnest(setconfig) AS setting
                    WHERE setting LIKE 'track\\_counts=%')""")

# Of the table c, of pg_class. TRUNCATE and everything else that rewrites a table renews relfilenode. A column that is
# replaced by one of its name has another number.
_IDENTITY = """c.oid, c.relfilenode,
           (SELECT hashtext(string_agg(concat_ws(' ', attname, attnum, atttypid), ',' ORDER BY attnum))
              FROM pg_attribute WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped)"""
_UPDATES = "pg_stat_get_tuples_updated(c.oid), pg_stat_get_tuples_deleted(c.oid)"
#: SQL for the identity and the counters of the table c, of pg_class; and without the counter of inserted rows.
STATE = f"json_build_array({_IDENTITY}, pg_stat_get_tuples_inserted(c.oid), {_UPDATES})"
STATE_BUT_INSERTS = f"json_build_array({_IDENTITY}, {_UPDATES})"

# The stable functions of PostgreSQL that depend on their arguments and on settings only, which our sessions pin.
_DEPENDS_ON_ARGUMENTS = (
    "^(anytextcat|array_|concat|date|extract|format$|interval_pl|json|length|make_timestamptz|numeric|quote_|row_to_json|"
    "text|time|to_(char|date|json|number|timestamp))"
)
# What the view reads, views and partitions too. pg_depend would do, but for the tables of the catalog, which it leaves
# out. Text within a stored query has its blanks escaped, so it cannot look like one of these fields. A view that calls
# the clock changes without a write, and a function of somebody's own may read what it likes.
_BEHIND = text(f"""
WITH RECURSIVE behind AS (
    SELECT oid FROM pg_class WHERE oid = to_regclass('agent_execution_logs') AND relkind = 'v'
     UNION
    SELECT next.oid
      FROM behind
      JOIN pg_class AS c ON c.oid = behind.oid
     CROSS JOIN LATERAL (
               SELECT found[1]::oid
                 FROM pg_rewrite, regexp_matches(ev_action::text, 'rtekind 0 .relid (\\d+)', 'g') AS found
                WHERE ev_class = c.oid AND ev_type = '1' AND c.relkind = 'v'
                UNION ALL
               SELECT inhrelid FROM pg_inherits WHERE inhparent = c.oid
           ) AS next(oid)
), named AS (
    SELECT c.*, format('%I.%I', nspname, relname) AS name
      FROM behind
      JOIN pg_class AS c ON c.oid = behind.oid
      JOIN pg_namespace ON pg_namespace.oid = relnamespace
), query AS (
    SELECT pg_rewrite.oid, pg_rewrite.xmin AS version, ev_action::text AS tree
      FROM named JOIN pg_rewrite ON ev_class = named.oid AND ev_type = '1' AND relkind = 'v'
), called AS (
    SELECT DISTINCT pg_proc.oid, proname, provolatile
      FROM query
     CROSS JOIN regexp_matches(tree, '(funcid|opfuncid|aggfnoid|winfnoid) (\\d+)', 'g') AS found
      JOIN pg_proc ON pg_proc.oid = found[2]::oid
), doubt AS (
    SELECT name || CASE WHEN relkind = 'f' THEN ' is a foreign table' WHEN relrowsecurity THEN
                   ' has row-level security' ELSE ' is not a table' END AS reason
      FROM named WHERE relkind NOT IN ('v', 'r', 'p', 'm') OR relrowsecurity
     UNION ALL
    SELECT 'it calls ' || proname || '(), which may read anything' FROM called WHERE oid >= 16384
     UNION ALL
    SELECT 'it depends on ' || proname || '()'
      FROM called
     WHERE oid < 16384 AND (provolatile = 'v' OR provolatile = 's' AND proname !~ '{_DEPENDS_ON_ARGUMENTS}')
     UNION ALL
    SELECT 'it depends on the time, the user or chance'
      FROM query WHERE tree ~ '{{(SQLVALUEFUNCTION|TABLESAMPLECLAUSE) '
)
SELECT ARRAY(SELECT name FROM named WHERE relkind <> 'v' AND NOT relispartition ORDER BY 1) AS tables,
       (SELECT min(reason) FROM doubt) AS doubt,
       ARRAY(SELECT concat_ws(' ', oid, version) FROM query ORDER BY oid) AS queries,
       (SELECT md5(string_agg({STATE}::text, ',' ORDER BY c.oid)) FROM named AS c) AS state
 WHERE EXISTS (SELECT FROM behind)""")


@dataclass(frozen=True)
class BehindView:
    """What the view agent_execution_logs reads.

    tables: their names. doubt: why it may change although no write to them is counted; None if it cannot. queries: the
    identity of its definition, and of those of the views that it reads. state: a digest of STATE of all of them.
    """

    tables: Sequence[str]
    doubt: str | None
    queries: Sequence[str]
    state: str


def counting_server(connection: Connection) -> list[str] | None:
    """What must stay the same for counters to be compared; None if a write may escape the counters of this server."""
    if (connection.dialect.server_version_info or ()) < _MINIMUM_VERSION:
        return None
    server: list[str] | None = connection.execute(_SERVER).scalar_one_or_none()
    return server


def behind_view(connection: Connection) -> BehindView | None:
    """None if agent_execution_logs is not a view."""
    row = connection.execute(_BEHIND).mappings().one_or_none()
    return None if row is None else BehindView(**row)


def describe_view(connection: Connection) -> list[str]:
    """A sentence for `db check` on how days of a view are watched; none if agent_execution_logs is not a view."""
    view = behind_view(connection)
    if view is None:
        return []
    tables = ", ".join(view.tables)
    if view.doubt is not None:
        return [
            f"Days of the view are counted at each look, because a change may escape its tables' counters: {view.doubt}"
        ]
    if counting_server(connection) is None:
        return ["Days of the view are counted at each look, because a write may escape the counters of this server"]
    return [f"Days of the view are counted or read only after a write to its tables: {tables}"]
