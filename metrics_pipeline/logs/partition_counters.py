"""PostgreSQL's own counters of writes to partitions: they tell that a day's logs are unchanged without reading one.

They are used where a write cannot escape them. Before version 15 they travelled as datagrams, which can be lost, and
those of an idle session could wait for hours.
"""

from collections.abc import Iterator, Sequence
from datetime import date, datetime
from typing import Any

from sqlalchemy import Connection, Row, text

from metrics_pipeline.metrics.verification import Mark
from metrics_pipeline.metrics.windows import DayWindow

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

# The tables that hold the logs from :start to :end, and those of the default partition. A partition whose detachment
# was begun is no part of the table any more. TRUNCATE and everything else that rewrites a table renews relfilenode. A
# column that is replaced by one of its name has another number. Its bounds say which days a partition belongs to; the
# logs that it holds do not change with them. The bounds that Python cannot represent become some that it can.
_TABLES = text("""
WITH RECURSIVE root AS (
    SELECT c.oid
      FROM pg_class AS c
      JOIN pg_partitioned_table AS p ON p.partrelid = c.oid AND p.partstrat = 'r' AND p.partnatts = 1
      JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum = p.partattrs[0] AND a.attname = 'timestamp'
     WHERE c.oid = to_regclass('agent_execution_logs') AND NOT row_security_active(c.oid)
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
       json_build_array(
           c.oid, c.relfilenode,
           (SELECT hashtext(string_agg(concat_ws(' ', attname, attnum, atttypid), ',' ORDER BY attnum))
              FROM pg_attribute WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped),
           pg_stat_get_tuples_inserted(c.oid), pg_stat_get_tuples_updated(c.oid), pg_stat_get_tuples_deleted(c.oid)
       ) AS state
  FROM bounded
  JOIN member ON member.partition = bounded.oid
  JOIN pg_class AS c ON c.oid = member.oid
 WHERE c.relkind <> 'p'
 ORDER BY lower, c.oid""")


def counters(connection: Connection, windows: Sequence[DayWindow]) -> dict[date, Mark]:
    """For each day whose partitions tell whether its logs change: their identity and their counters now.

    While a later answer for the day is the same, no write to its logs was counted. A write is counted when its session
    next waits for a command outside a transaction, at most 10 seconds later. Call it before the snapshot in which the
    logs are read: a write in between then shows later as a change, and not never.

    Days are left out if a partition of theirs has not ended, because today's logs are written to it, or is not an
    ordinary table; and so are all days of a table that is not partitioned by time alone.
    """
    if not windows or (connection.dialect.server_version_info or ()) < _MINIMUM_VERSION:
        return {}
    server = connection.execute(_SERVER).scalar_one_or_none()
    if server is None:
        return {}
    start, end = min(window.start for window in windows), max(window.end for window in windows)
    tables = connection.execute(_TABLES, {"start": start, "end": end}).all()
    found = {window.metric_date: list(_tables_of(window, tables)) for window in windows} if tables else {}
    return {
        day: {"server": server, "tables": [table.state for table in of_day]}
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
