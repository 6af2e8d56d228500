"""The feed of changed days, from which a copy of the metrics elsewhere stays equal to them.

Whoever stores, clears or expires a day writes its row in the ledger in the same transaction, so a day has changed if
that row has. Times do not tell: a transaction may commit long after its now(). What tells is the transaction id in the
row's xmin. Each answer names the oldest transaction that was active when it was read; every transaction with a smaller
id had ended, so the answer shows what it did. The next answer has all days whose transaction is not older than that. So
a day may come twice, and none is missed. The ids of savepoints are larger than that of their transaction.

Rows that were changed past the pipeline, by hand for example, are told when their day is stored again; until then
coverage calls the day damaged.
"""

import re
from dataclasses import dataclass
from datetime import date, datetime

from sqlalchemy import Connection, text

from metrics_pipeline.store.answers.metrics import COLUMNS, SELECTED
from metrics_pipeline.store.answers.rows import as_array
from metrics_pipeline.store.unlogged import ROWS_AND_DAYS

#: About so many rows at most come in one answer; a day is never divided.
MOST_ROWS = 50_000

CURSOR_PATTERN = "([0-9a-f]{16})-([0-9]{1,18})(-([0-9]{1,18})-([0-9]{4}-[0-9]{2}-[0-9]{2}))?"

# Another cluster, timeline or database has other transactions under the same ids. After a change of our columns a copy
# lacks some.
_STATE = text(f"""
SELECT left(md5(concat_ws(' ', (SELECT system_identifier FROM pg_control_system()),
                (SELECT timeline_id FROM pg_control_checkpoint()),
                (SELECT oid FROM pg_database WHERE datname = current_database()),
                '{" ".join(COLUMNS)}')), 16) AS source,
       pg_snapshot_xmin(pg_current_snapshot())::text::bigint AS oldest_active,
       pg_snapshot_xmax(pg_current_snapshot())::text::bigint AS next_id""")


def transaction_id(xmin: str) -> str:
    """SQL of the largest id of 64 bits before :next_id that ends in the 32 bits of an xmin.

    For a row that was written four thousand million transactions ago it is too large, so its day may come once more.
    """
    low = f"{xmin}::text::bigint"
    return f"(:next_id / 4294967296 - CASE WHEN {low} >= :next_id % 4294967296 THEN 1 ELSE 0 END) * 4294967296 + {low}"


_ROWS = as_array(
    f"SELECT {SELECTED} FROM {ROWS_AND_DAYS} WHERE metrics.metric_date = chosen.metric_date ORDER BY agent_id"
)
# The days that have rows are found by walking the index from day to day. A day that another program stored may have no
# row in the ledger: its rows are looked at instead.
_DAYS = text(f"""
WITH RECURSIVE stored(metric_date) AS (
    (SELECT metric_date FROM agent_performance_metrics ORDER BY metric_date LIMIT 1)
    UNION ALL
    SELECT (SELECT next.metric_date FROM agent_performance_metrics AS next
            WHERE next.metric_date > stored.metric_date ORDER BY next.metric_date LIMIT 1)
    FROM stored WHERE stored.metric_date IS NOT NULL
), written AS (
    SELECT metric_date, aggregated_at, metrics_expired_at, agents, {transaction_id("ledger.xmin")} AS transaction_id
    FROM metric_day_ledger AS ledger
    UNION ALL
    SELECT metric_date, NULL, NULL, count(*), max({transaction_id("metrics.xmin")})
    FROM stored JOIN agent_performance_metrics AS metrics USING (metric_date)
    WHERE NOT EXISTS (SELECT FROM metric_day_ledger AS ledger WHERE ledger.metric_date = stored.metric_date)
    GROUP BY metric_date
), changed AS (
    SELECT *, sum(agents) OVER (ORDER BY metric_date) AS rows_so_far FROM written
    WHERE transaction_id >= :since AND metric_date > :after
    ORDER BY metric_date LIMIT :limit + 1
), chosen AS (
    SELECT * FROM changed WHERE rows_so_far <= {MOST_ROWS} OR rows_so_far = agents ORDER BY metric_date LIMIT :limit
)
SELECT ARRAY(SELECT metric_date FROM stored WHERE metric_date IS NOT NULL ORDER BY 1) AS stored_days,
       (SELECT count(*) FROM changed) > (SELECT count(*) FROM chosen) AS has_more,
       chosen.metric_date, aggregated_at, metrics_expired_at AS expired_at, {_ROWS} AS rows
FROM (SELECT) AS one LEFT JOIN chosen ON true ORDER BY chosen.metric_date""")


class OtherFeedError(Exception):
    """The cursor is of a database that this one does not continue: a copy must begin again."""


@dataclass(frozen=True)
class ChangedDay:
    """A day that was stored, sealed or expired, with all of its present rows as JSON."""

    metric_date: date
    aggregated_at: datetime | None
    expired_at: datetime | None
    rows: list[str]


@dataclass(frozen=True)
class Changes:
    """The changed days, oldest first; every day that has rows; and where to go on.

    has_more: whether more days have changed already.
    """

    days: list[ChangedDay]
    stored_days: list[date]
    cursor: str
    has_more: bool


def changes(connection: Connection, cursor: str | None, *, limit: int) -> Changes:
    """At most `limit` days that have changed since the answer that `cursor` is from; all days without one.

    Needs a snapshot. Raises ValueError for a text that is not a cursor, and OtherFeedError.
    """
    state = connection.execute(_STATE).one()
    since, until, after = 0, state.oldest_active, date.min
    if cursor is not None:
        parts = re.fullmatch(CURSOR_PATTERN, cursor)
        if parts is None:
            raise ValueError("is not the cursor of an answer")
        source, since = parts[1], int(parts[2])
        if parts[3] is not None:
            # The next page. What changes on the pages before is told after the last one, by the `until` of the first.
            until, after = int(parts[4]), date.fromisoformat(parts[5])
        if source != state.source or max(since, until) > state.next_id:
            raise OtherFeedError
    parameters = {"since": since, "after": after, "limit": limit, "next_id": state.next_id}
    found = connection.execute(_DAYS, parameters).all()
    days = [
        ChangedDay(row.metric_date, row.aggregated_at, row.expired_at, row.rows)
        for row in found
        if row.metric_date is not None
    ]
    has_more = found[0].has_more
    following = f"{since}-{until}-{days[-1].metric_date}" if has_more else str(until)
    return Changes(days, found[0].stored_days, f"{state.source}-{following}", has_more)
