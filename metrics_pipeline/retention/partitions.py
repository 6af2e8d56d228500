"""The tables that hold the rows of a table, and which of them may be dropped as a whole."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, text

# A default partition has no upper bound. Only a partition by range of the time column alone says which days it holds;
# dropping one needs the ownership of it and of its parent. Where rows that are deleted set off triggers or actions of
# foreign keys, or policies hide rows, they are deleted one by one, because dropping a table heeds none of these. A
# partition whose detachment was begun is no longer part of the table. The order is that of time as far as the bounds
# tell.
_TABLES = text("""
WITH RECURSIVE root AS (
    SELECT c.oid, p.partstrat = 'r' AND p.partnatts = 1 AND a.attname = :time_column AS is_by_time,
           pg_has_role(c.relowner, 'USAGE') AND NOT row_security_active(c.oid) AS is_ours
      FROM pg_class AS c
      LEFT JOIN pg_partitioned_table AS p ON p.partrelid = c.oid
      LEFT JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum = p.partattrs[0]
     WHERE c.oid = to_regclass(:table)
), member AS (
    SELECT oid FROM root
    UNION
    SELECT i.inhrelid FROM member JOIN pg_inherits AS i ON i.inhparent = member.oid
     WHERE coalesce(to_jsonb(i)->>'inhdetachpending', 'false') = 'false'
), bounded AS (
    SELECT c.oid, c.relkind,
           root.is_ours AND pg_has_role(c.relowner, 'USAGE') AND c.relkind = 'r' AND NOT row_security_active(c.oid)
           AND NOT EXISTS (SELECT FROM pg_trigger AS t
                            WHERE t.tgrelid IN (root.oid, c.oid) AND t.tgtype & 8 <> 0 AND NOT t.tgisinternal)
           AND NOT EXISTS (SELECT FROM pg_constraint AS k
                            WHERE k.contype = 'f' AND k.confrelid IN (root.oid, c.oid)) AS may_be_dropped,
           CASE WHEN root.is_by_time AND i.inhparent IS NOT NULL
           THEN substring(pg_get_expr(c.relpartbound, c.oid) FROM 'TO \\(''([^'']+)''\\)$')::timestamptz END AS upper
      FROM root CROSS JOIN (member JOIN pg_class AS c USING (oid))
      LEFT JOIN pg_inherits AS i ON i.inhrelid = c.oid AND i.inhparent = root.oid
)
SELECT oid, oid::regclass::text AS name, relkind IN ('r', 'p') AS is_table,
       coalesce(may_be_dropped AND upper <= :before, false) AS is_droppable
  FROM bounded
 ORDER BY upper NULLS LAST, name""")


@dataclass(frozen=True)
class SourceTable:
    """A table, or one of its partitions. Its name is quoted, and found through search_path.

    is_table: not a view and not a foreign table, from which retention does not delete.
    is_droppable: a partition that ends before the cutoff, is ours, and whose rows nobody else follows.
    """

    name: str
    oid: int
    is_table: bool
    is_droppable: bool


def tables_of(connection: Connection, table: str, time_column: str, before: datetime) -> list[SourceTable]:
    """`table` and all below it; `before` is the instant at or before which a partition must end to be droppable."""
    rows = connection.execute(_TABLES, {"table": table, "time_column": time_column, "before": before})
    return [SourceTable(row.name, row.oid, row.is_table, row.is_droppable) for row in rows]
