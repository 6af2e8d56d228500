"""The counters of the tables that can hold a day's logs: they tell that the day is unchanged without reading a log."""

from collections.abc import Iterator, Sequence
from datetime import date, datetime
from typing import Any

from sqlalchemy import Connection, Row, text

from metrics_pipeline.logs.table_counters import STATE, behind_view, counting_server
from metrics_pipeline.metrics.verification import JudgedBy, Mark
from metrics_pipeline.metrics.windows import DayWindow

# The tables that hold the logs from :start to :end, and those of the default partition. A partition whose detachment
# was begun is no longer part of the table. Its bounds say which days a partition belongs to; the logs that it holds
# do not change with them. The bounds that Python cannot represent become some that it can.
# A view's timestamp is followed to the column that it shows, as long as each row of the view is made from one row of
# one table: the only one that the query names, without anything that looks at several rows.
_TABLES = text(f"""
WITH RECURSIVE shown AS (
    SELECT attrelid AS oid, attnum AS number
      FROM pg_attribute WHERE attrelid = to_regclass('agent_execution_logs') AND attname = 'timestamp'
     UNION ALL
    SELECT origin[1]::oid, origin[2]::int2
      FROM shown
      JOIN pg_class AS c ON c.oid = shown.oid AND relkind = 'v'
      JOIN pg_rewrite ON ev_class = c.oid AND ev_type = '1'
     CROSS JOIN LATERAL regexp_replace(ev_action::text, format('rtekind 0 .relid %s ', c.oid), '', 'g') AS tree
     CROSS JOIN LATERAL regexp_match(tree, format(
               'resno %s .resname \\S+ .ressortgroupref \\d+ .resorigtbl (\\d+) .resorigcol (\\d+) ', number
           )) AS origin
     WHERE regexp_count(tree, '{{QUERY ') = 1 AND regexp_count(tree, 'rtekind 0 .relid ') = 1
       AND tree !~ '(hasAggs|hasWindowFuncs|hasDistinctOn) true|limit(Offset|Count) {{'
), root AS (
    SELECT p.partrelid AS oid
      FROM shown
      JOIN pg_partitioned_table AS p
        ON p.partrelid = shown.oid AND p.partstrat = 'r' AND p.partnatts = 1 AND p.partattrs[0] = number
     WHERE NOT row_security_active(p.partrelid)
), partition AS (
    SELECT c.oid, pg_get_expr(c.relpartbound, c.oid) AS bound
      FROM root
      JOIN pg_inherits AS i ON i.inhparent = root.oid AND NOT i.inhdetachpending
      JOIN pg_class AS c ON c.oid = i.inhrelid
), bounded AS (
    SELECT oid, bound = 'DEFAULT' AS is_default,
           coalesce(substring(bound FROM 'FROM \\(''([^'']+)''')::timestamptz, '-infinity') AS lower,
           coalesce(substring(bound FROM 'TO \\(''([^'']+)''')::timestamptz, 'infinity') AS upper
      FROM partition
), member AS (
    SELECT oid, oid AS partition FROM bounded WHERE is_default OR (lower < :end AND upper > :start)
     UNION ALL
    SELECT i.inhrelid, member.partition
      FROM member
      JOIN pg_inherits AS i ON i.inhparent = member.oid AND NOT i.inhdetachpending
)
SELECT is_default,
       greatest(least(lower, '9990-01-01Z'), '0010-01-01Z') AS lower,
       greatest(least(upper, '9990-01-01Z'), '0010-01-01Z') AS upper,
       NOT is_default AND upper > now() AS is_open,
       c.relkind = 'r' AS is_counted,
       {STATE} AS state
  FROM bounded
  JOIN member ON member.partition = bounded.oid
  JOIN pg_class AS c ON c.oid = member.oid
 WHERE c.relkind <> 'p'
 ORDER BY lower, c.oid""")


def counters(connection: Connection, windows: Sequence[DayWindow]) -> dict[date, Mark]:
    """For each day whose tables tell whether its logs change: their identity and their counters now.

    While a later answer for the day is the same, no write to its logs was counted. A write is counted when its session
    next waits for a command outside a transaction, at most 10 seconds later. Call it before the snapshot in which the
    logs are read: a write in between then shows later as a change, and not never.

    Under JudgedBy.COUNTERS the day's partitions, unless one of them has not ended, because today's logs are written to
    it, or is not an ordinary table. Otherwise all tables behind a view under JudgedBy.TABLES. Other days are left out.
    """
    server = counting_server(connection)
    view = behind_view(connection)
    if not windows or server is None or (view is not None and view.doubt is not None):
        return {}
    start, end = min(window.start for window in windows), max(window.end for window in windows)
    tables = connection.execute(_TABLES, {"start": start, "end": end}).all()
    found = {window.metric_date: list(_tables_of(window, tables)) for window in windows} if tables else {}
    queries = {} if view is None else {"queries": view.queries}
    return {
        window.metric_date: {JudgedBy.TABLES: {"server": server, **queries, "tables": view.state}}
        for window in windows
        if view is not None
    } | {
        day: {JudgedBy.COUNTERS: {"server": server, **queries, "tables": [table.state for table in of_day]}}
        for day, of_day in found.items()
        if all(table.is_counted and not table.is_open for table in of_day)
    }


def _tables_of(window: DayWindow, tables: Sequence[Row[Any]]) -> Iterator[Row[Any]]:
    """The tables that can hold a log of the window: the default partition's too, if the others leave a gap."""
    covered_to: datetime = window.start
    for table in tables:
        if not table.is_default and table.lower < window.end and table.upper > window.start:
            if table.lower <= covered_to:
                covered_to = max(covered_to, table.upper)
            yield table
    if covered_to < window.end:
        yield from (table for table in tables if table.is_default)
