"""The counters of the tables that can hold a day's logs: they tell that the day is unchanged without reading a log.

Or after counting its logs, while logs are at most added.
"""

from collections.abc import Iterator, Sequence
from datetime import date, datetime
from typing import Any

from sqlalchemy import Connection, Row, text

from metrics_pipeline.logs.table_counters import STATE, STATE_BUT_INSERTS, behind_view, counting_server
from metrics_pipeline.metrics.verification import JudgedBy, Mark
from metrics_pipeline.metrics.windows import DayWindow

# The tables that hold the logs from :start to :end, and those of the default partition. A partition whose detachment
# was begun is no longer part of the table. Its bounds say which days a partition belongs to; the logs that it holds
# do not change with them. The bounds that Python cannot represent become some that it can.
# A view's timestamp is followed to the column that it shows, as long as each row of the view is made from one row of
# one table: the only one that the query names, without anything that looks at several rows. A plain table, with those
# that inherit from it, is like a partition without bounds.
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
    SELECT c.oid, relkind
      FROM shown
      JOIN pg_class AS c ON c.oid = shown.oid
      LEFT JOIN pg_partitioned_table AS p
        ON p.partrelid = shown.oid AND p.partstrat = 'r' AND p.partnatts = 1 AND p.partattrs[0] = number
     WHERE (relkind = 'r' OR p.partrelid IS NOT NULL) AND NOT row_security_active(c.oid)
), partition AS (
    SELECT oid, '' AS bound FROM root WHERE relkind = 'r'
     UNION ALL
    SELECT c.oid, pg_get_expr(c.relpartbound, c.oid)
      FROM root
      JOIN pg_inherits AS i ON i.inhparent = root.oid AND NOT i.inhdetachpending
      JOIN pg_class AS c ON c.oid = i.inhrelid
     WHERE root.relkind = 'p'
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
       {STATE} AS state,
       {STATE_BUT_INSERTS} AS state_but_inserts
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

    Under JudgedBy.COUNTERS the day's partitions. If one of them has not ended, because today's logs are written to it,
    or the logs are a plain table, the same under JudgedBy.TABLES, and under JudgedBy.INSERTS without the counters of
    inserted rows. Under JudgedBy.TABLES all tables behind a view. Days with logs in other than ordinary tables are left
    out.
    """
    server = counting_server(connection)
    view = behind_view(connection)
    if not windows or server is None or (view is not None and view.doubt is not None):
        return {}
    start, end = min(window.start for window in windows), max(window.end for window in windows)
    tables = connection.execute(_TABLES, {"start": start, "end": end}).all()
    context: Mark = {"server": server} if view is None else {"server": server, "queries": view.queries}
    found: dict[date, Mark] = {}
    for window in windows:
        of_day = list(_tables_of(window, tables))
        all_writes = {**context, "tables": [table.state for table in of_day]}
        but_inserts = {**context, "tables": [table.state_but_inserts for table in of_day]}
        of_view: Mark = {} if view is None else {JudgedBy.TABLES: {**context, "tables": view.state}}
        if not tables or not all(table.is_counted for table in of_day):
            mark = of_view
        elif any(table.is_open for table in of_day):
            mark = {JudgedBy.TABLES: all_writes, **of_view, JudgedBy.INSERTS: but_inserts}
        else:
            mark = {JudgedBy.COUNTERS: all_writes}
        found[window.metric_date] = mark
    return {day: mark for day, mark in found.items() if mark}


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
