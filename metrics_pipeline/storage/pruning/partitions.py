"""The tables that hold rows: of a partitioned table its leaves, and which of them may be dropped as a whole."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, TextClause, text

from metrics_pipeline.errors import PermanentError

# A default partition has no upper bound. Only a partition by range of the time column alone says which days it holds;
# dropping one needs the ownership of it and of its parent. The order is that of time as far as the bounds tell.
_LEAVES = text("""
WITH root AS (
    SELECT c.oid, c.relkind, p.partstrat = 'r' AND p.partnatts = 1 AND a.attname = :time_column AS is_by_time,
           pg_has_role(c.relowner, 'USAGE') AS is_ours
      FROM pg_class AS c
      LEFT JOIN pg_partitioned_table AS p ON p.partrelid = c.oid
      LEFT JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum = p.partattrs[0]
     WHERE c.oid = to_regclass(:table)
), leaf AS (
    SELECT root.oid, false AS is_by_time FROM root WHERE relkind <> 'p'
    UNION ALL
    SELECT relid, is_by_time AND is_ours AND level = 1 FROM root, pg_partition_tree(root.oid)
     WHERE relkind = 'p' AND isleaf AND level > 0
), bounded AS (
    SELECT c.oid, c.relkind, pg_has_role(c.relowner, 'USAGE') AS is_ours, CASE WHEN is_by_time
           THEN substring(pg_get_expr(c.relpartbound, c.oid) FROM 'TO \\(''([^'']+)''\\)$')::timestamptz END AS upper
      FROM leaf JOIN pg_class AS c USING (oid)
)
SELECT oid::regclass::text AS name, relkind::text AS kind, coalesce(is_ours AND upper <= :before, false) AS is_droppable
  FROM bounded
 ORDER BY upper NULLS LAST, name""")


@dataclass(frozen=True)
class Leaf:
    """A table with rows of its own.

    name: quoted, and found through search_path. is_droppable: a partition that ends before the cutoff and is ours.
    """

    name: str
    is_droppable: bool

    def sql(self, statement: str) -> TextClause:
        """The statement with {leaf} as this table. A colon of its name is no parameter."""
        return text(statement.replace("{leaf}", self.name.replace(":", "\\:")))


def leaves(connection: Connection, table: str, time_column: str, before: datetime) -> list[Leaf]:
    """The leaves of `table`; `before` is the instant at or before which a partition must end to be droppable.

    Raises PermanentError for what is no table: a view, or a partition that is a foreign table.
    """
    rows = connection.execute(_LEAVES, {"table": table, "time_column": time_column, "before": before}).all()
    for row in rows:
        if row.kind != "r":
            raise PermanentError(
                f"Retention deletes from tables only, and {row.name} is none. "
                f"Let {table} be a table, plain or partitioned into tables."
            )
    return [Leaf(row.name, row.is_droppable) for row in rows]
