"""The tables that hold rows: of a partitioned table its leaves, and which of them may be dropped as a whole."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, TextClause, text

from metrics_pipeline.errors import PermanentError

# A default partition has no upper bound. Only a partition by range of the time column alone says which days it holds;
# dropping one needs the ownership of it and of its parent. Where rows that are deleted set off triggers or actions of
# foreign keys, they are deleted one by one, because dropping a table sets off nothing. A partition whose detachment was
# begun is no part of the table any more. The order is that of time as far as the bounds tell.
_LEAVES = text("""
WITH RECURSIVE root AS (
    SELECT c.oid, p.partstrat = 'r' AND p.partnatts = 1 AND a.attname = :time_column AS is_by_time,
           pg_has_role(c.relowner, 'USAGE') AS is_ours
      FROM pg_class AS c
      LEFT JOIN pg_partitioned_table AS p ON p.partrelid = c.oid
      LEFT JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum = p.partattrs[0]
     WHERE c.oid = to_regclass(:table)
), member AS (
    SELECT oid, 0 AS level FROM root
    UNION
    SELECT i.inhrelid, level + 1 FROM member JOIN pg_inherits AS i ON i.inhparent = member.oid
     WHERE coalesce(to_jsonb(i)->>'inhdetachpending', 'false') = 'false'
), leaf AS (
    SELECT oid, min(level) AS level FROM member GROUP BY oid
), bounded AS (
    SELECT c.oid, c.relkind, c.relkind IN ('r', 'p') AND row_security_active(c.oid) AS hides_rows,
           root.is_ours AND pg_has_role(c.relowner, 'USAGE')
           AND NOT EXISTS (SELECT FROM pg_trigger AS t
                            WHERE t.tgrelid IN (root.oid, c.oid) AND t.tgtype & 8 <> 0 AND NOT t.tgisinternal)
           AND NOT EXISTS (SELECT FROM pg_constraint AS k
                            WHERE k.contype = 'f' AND k.confrelid IN (root.oid, c.oid)) AS may_be_dropped,
           CASE WHEN root.is_by_time AND leaf.level = 1
           THEN substring(pg_get_expr(c.relpartbound, c.oid) FROM 'TO \\(''([^'']+)''\\)$')::timestamptz END AS upper
      FROM root, leaf JOIN pg_class AS c USING (oid)
)
SELECT oid, oid::regclass::text AS name, relkind::text AS kind, hides_rows,
       coalesce(relkind = 'r' AND may_be_dropped AND upper <= :before, false) AS is_droppable
  FROM bounded
 ORDER BY upper NULLS LAST, name""")

_IS_PART = text("""
WITH RECURSIVE ancestor AS (
    SELECT to_regclass(:name)::oid AS oid
    UNION
    SELECT i.inhparent FROM ancestor JOIN pg_inherits AS i ON i.inhrelid = ancestor.oid
     WHERE coalesce(to_jsonb(i)->>'inhdetachpending', 'false') = 'false'
)
SELECT to_regclass(:name)::oid = :oid AND EXISTS (SELECT FROM ancestor WHERE oid = to_regclass(:table))""")


@dataclass(frozen=True)
class SourceTable:
    """A table that rows are read from. Its name is quoted, and found through search_path."""

    name: str

    def sql(self, statement: str) -> TextClause:
        """The statement with {leaf} as this table. A colon of its name is no parameter."""
        return text(statement.replace("{leaf}", self.name.replace(":", "\\:")))


@dataclass(frozen=True)
class Leaf(SourceTable):
    """A table with rows of its own, which are rows of `table`.

    is_droppable: a partition that ends before the cutoff, is ours, and whose rows nobody else follows.
    """

    oid: int
    table: str
    is_droppable: bool

    def is_still_part(self, connection: Connection) -> bool:
        """Whether the name still stands for this table, and it still belongs to `table`."""
        parameters = {"name": self.name, "oid": self.oid, "table": self.table}
        return bool(connection.execute(_IS_PART, parameters).scalar_one())


def leaves(connection: Connection, table: str, time_column: str, before: datetime) -> list[Leaf]:
    """The leaves of `table`; `before` is the instant at or before which a partition must end to be droppable.

    Raises PermanentError for what is no table, a view or a partition that is a foreign table, and where rows of a
    partitioned table are hidden from this role.
    """
    rows = connection.execute(_LEAVES, {"table": table, "time_column": time_column, "before": before}).all()
    for row in rows:
        if row.kind not in ("r", "p"):
            raise PermanentError(
                f"Retention deletes from tables only, and {row.name} is none. "
                f"Let {table} be a table, plain or partitioned into tables."
            )
        if row.hides_rows and len(rows) > 1:
            raise PermanentError(
                f"Row-level security hides rows of {row.name} from this role. A policy of a partitioned table does not "
                f"hold for its partitions, so hidden rows could be deleted from there. No row of {table} was deleted. "
                "Run retention as a role with BYPASSRLS."
            )
    return [Leaf(row.name, row.oid, table, row.is_droppable) for row in rows if row.kind == "r"]
