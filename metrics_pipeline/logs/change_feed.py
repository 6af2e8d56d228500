"""The change feed: triggers on the logs that note which old instants a transaction changed. Opt-in: see `db watch`.

The triggers are called for rows older than RIPE_AFTER by the server's clock. That is decided without calling a
function, so today's traffic costs little. They note rows older than the watermark, in the writer's transaction.

Why no committed change is missed. `raise_watermark` sets the watermark W first, which every transaction sees at once,
because it is a sequence. Then a new transaction takes an id, `complete_from`. A transaction with a later id writes its
first row after W was set, so it notes each row older than W. (The trigger is called for them, because W is at least
twice RIPE_AFTER old when it is set.) Transactions with earlier ids may have read an older watermark. So `mark` gives no
mark until all of them have ended: the verification's snapshot, which is taken afterwards, shows what they did. A later
transaction that was open at the mark is not visible in the mark's snapshot, and neither is its note: `touched_days`
looks for notes that are not visible in that snapshot, whenever they were written.

What makes a mark worthless: `structure` differs (a table, trigger, function or partition was added, dropped, disabled,
replaced or truncated, or it is another cluster, database or timeline); a trigger failed to write its note (a sequence
counts it, also if the writer rolls back); or notes that the mark needs were deleted. After a failure or a change of the
structure, `raise_watermark` takes `complete_from` again, because a transaction that noted nothing may still be open.
"""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import date, datetime
from typing import Any

from sqlalchemy import Connection, Row, text

from metrics_pipeline.errors import PermanentError
from metrics_pipeline.logs.contract import UpstreamContract
from metrics_pipeline.metrics.windows import DayWindow
from metrics_pipeline.postgres.database import Database

#: Younger rows are today's traffic. The watermark is at least twice as old, so that a clock may be set back by as much.
RIPE_AFTER = "30 minutes"

# The moment that decides whether the trigger of an event is called.
_MOMENTS = {
    "insert": 'NEW."timestamp"',
    "update": 'least(OLD."timestamp", NEW."timestamp")',
    "delete": 'OLD."timestamp"',
}

# Notes older than this serve no mark: each day is read in full once a night.
_KEPT = "3 days"
_MAX_NOTES = 100_000
# After the watermark was raised, the writers that were active need a moment to end.
_WAIT_SECONDS = 1.0

# All tables that hold logs; what is missing of the feed; a digest of everything that a mark relies on. pg_trigger and
# pg_proc change their xmin with each change, and pg_class with TRUNCATE, ATTACH, DETACH, GRANT and every rewrite.
_CATALOG = text("""
WITH RECURSIVE logs AS (
    SELECT to_regclass('agent_execution_logs')::oid AS id
     UNION
    SELECT inhrelid FROM logs JOIN pg_inherits ON inhparent = logs.id
), family AS (
    SELECT pg_class.*, pg_class.xmin AS version, format('%I.%I', nspname, relname) AS name
      FROM logs JOIN pg_class ON oid = id JOIN pg_namespace ON pg_namespace.oid = relnamespace
), notes AS (
    SELECT pg_class.oid AS id, quote_ident(nspname) AS schema, nspname, pg_namespace.xmin AS version
      FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
     WHERE pg_class.oid = to_regclass('metric_log_changes')
), functions AS (
    SELECT pg_proc.*, pg_proc.xmin AS version FROM notes JOIN pg_proc
        ON pg_proc.oid IN (to_regprocedure(schema || '.metric_note_log_change()'),
                           to_regprocedure(schema || '.metric_count_tampered_notes()'))
       AND position(schema || '.metric_log_' IN prosrc) > 0
), ours AS (
    SELECT pg_class.*, pg_class.xmin AS version FROM notes JOIN pg_class
        ON oid IN (id, to_regclass(schema || '.metric_log_feed'), to_regclass(schema || '.metric_log_watermark'),
                   to_regclass(schema || '.metric_log_failures'))
), triggers AS (
    SELECT pg_trigger.*, pg_trigger.xmin AS version FROM pg_trigger
     WHERE tgrelid IN (SELECT oid FROM family UNION SELECT oid FROM ours)
), working AS (
    SELECT tgrelid, tgtype FROM triggers JOIN functions ON functions.oid = tgfoid WHERE tgenabled = 'A'
)
SELECT (SELECT count(*) FROM triggers JOIN functions ON functions.oid = tgfoid JOIN family ON family.oid = tgrelid) > 0
           AS is_installed,
       (SELECT relkind::text FROM family WHERE oid = to_regclass('agent_execution_logs')) AS kind,
       ARRAY(SELECT name FROM family WHERE NOT relispartition AND relkind IN ('r', 'p') ORDER BY 1)
           AS tables,
       ARRAY(SELECT name FROM family
              WHERE relkind NOT IN ('r', 'p')
                 OR (SELECT count(DISTINCT tgtype) FROM working WHERE tgrelid = oid AND tgtype IN (5, 9, 17)) < 3
              ORDER BY 1) AS unwatched,
       (SELECT schema FROM notes) AS schema,
       NOT pg_is_in_recovery()
           AND (SELECT count(*) FROM functions) = 2
           AND (SELECT count(*) FROM ours) = 4
           AND EXISTS (SELECT FROM working JOIN notes ON id = tgrelid WHERE tgtype = 25)
           AND (SELECT bool_and(has_schema_privilege(proowner, nspname, 'USAGE')
                            AND has_table_privilege(proowner, id, 'INSERT')
                            AND has_sequence_privilege(proowner, schema || '.metric_log_failures', 'USAGE')
                            AND has_sequence_privilege(proowner, schema || '.metric_log_watermark', 'SELECT'))
                  FROM functions, notes) AS may_note,
       (SELECT bool_and(has_table_privilege(oid, 'SELECT')) FROM ours) AS may_read,
       md5(concat_ws(' ', (SELECT system_identifier FROM pg_control_system()),
           (SELECT oid FROM pg_database WHERE datname = current_database()), (SELECT version FROM notes),
           CASE WHEN NOT pg_is_in_recovery() THEN left(pg_walfile_name(pg_current_wal_lsn()), 8) END,
           (SELECT string_agg(concat_ws(',', oid, version), ';' ORDER BY oid)
              FROM (SELECT oid, version FROM family UNION ALL SELECT oid, version FROM ours) AS tables),
           (SELECT string_agg(concat_ws(',', oid, version, tgenabled), ';' ORDER BY oid) FROM triggers),
           (SELECT string_agg(concat_ws(',', oid, version), ';' ORDER BY oid) FROM functions),
           (SELECT string_agg(concat_ws(',', attname, attnum, atttypid), ';' ORDER BY attnum) FROM pg_attribute
             WHERE attrelid = to_regclass('agent_execution_logs') AND attnum > 0))) AS structure""")

_IS_REPLICATED_TO = text(
    "SELECT EXISTS (SELECT FROM pg_subscription_rel WHERE srrelid = to_regclass('agent_execution_logs'))"
)

_STATE = text("""
SELECT pg_current_snapshot()::text AS snapshot, failures.last_value AS failures, watermark.last_value AS watermark,
       feed.failures AS known_failures, feed.watermark AS known_watermark, feed.structure, feed.pruned_before,
       pg_snapshot_xmin(pg_current_snapshot())::text::bigint >= feed.complete_from AS has_only_noting_writers
  FROM metric_log_feed AS feed, metric_log_failures AS failures, metric_log_watermark AS watermark""")

_WANTED = text(f"""
SELECT greatest(watermark.last_value, extract(epoch FROM least(CAST(:until AS timestamptz),
                clock_timestamp() - 2 * interval '{RIPE_AFTER}'))::bigint * 1000000)
  FROM metric_log_watermark AS watermark""")

# In a transaction of its own. Its id is given out after the watermark was set and the failures were read. The xmax of a
# snapshot would not do: it is one more than the newest id that has ended, and writers with this id or a later one may
# be active.
_BEGIN = text("""
UPDATE metric_log_feed
   SET watermark = :watermark, failures = :failures, structure = :structure,
       complete_from = pg_current_xact_id()::text::bigint""")

_PRUNE = (
    text(f"""
UPDATE metric_log_feed SET pruned_before = old.transaction_id + 1
  FROM (SELECT greatest(
            (SELECT max(transaction_id) FROM metric_log_changes WHERE noted_at < now() - interval '{_KEPT}'),
            (SELECT transaction_id FROM metric_log_changes ORDER BY transaction_id DESC OFFSET {_MAX_NOTES} LIMIT 1)
       ) AS transaction_id) AS old
 WHERE old.transaction_id >= pruned_before"""),
    text("DELETE FROM metric_log_changes WHERE transaction_id < (SELECT pruned_before FROM metric_log_feed)"),
)

_NOTES = text("""
SELECT DISTINCT day
  FROM metric_log_changes
  JOIN unnest(CAST(:starts AS timestamptz[]), CAST(:ends AS timestamptz[])) WITH ORDINALITY AS w(starts, ends, day)
    ON changed_from < ends AND changed_until > starts
 WHERE transaction_id >= pg_snapshot_xmin(CAST(:snapshot AS pg_snapshot))::text::bigint
   AND NOT pg_visible_in_snapshot(transaction_id::text::xid8, CAST(:snapshot AS pg_snapshot))""")


@dataclass(frozen=True)
class FeedMark:
    """A state of the database from which on the feed tells what changed.

    snapshot: PostgreSQL's text of it. watermark: microseconds since 1970; only older rows are noted.
    failures and structure: what must still be the same.
    """

    snapshot: str
    watermark: int
    failures: int
    structure: str

    def to_json(self) -> str:
        """For storing."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, stored: str) -> "FeedMark":
        """From what to_json made."""
        return cls(**json.loads(stored))


def mark(connection: Connection) -> FeedMark | None:
    """The present state, for a verification whose snapshot is taken afterwards.

    None if the feed is not installed or not complete, or if writers are active that may have noted nothing.
    """
    catalog = _working(connection)
    if catalog is None:
        return None
    state = connection.execute(_STATE).one()
    if not state.has_only_noting_writers or (state.failures, state.watermark, catalog.structure) != (
        state.known_failures,
        state.known_watermark,
        state.structure,
    ):
        return None
    return FeedMark(state.snapshot, state.watermark, state.failures, state.structure)


def touched_days(connection: Connection, since: FeedMark, windows: Sequence[DayWindow]) -> set[date] | None:
    """The days of `windows` of which a log may have changed since the mark; also those that the mark does not cover.

    None if the feed cannot tell. A change that is visible to `connection` is reported; one that is not committed yet is
    reported later, for the same mark and for each mark taken before its commit.
    """
    catalog = _working(connection)
    if catalog is None or catalog.structure != since.structure:
        return None
    starts, ends = [window.start for window in windows], [window.end for window in windows]
    found = connection.execute(_NOTES, {"snapshot": since.snapshot, "starts": starts, "ends": ends}).scalars()
    touched = {windows[day - 1].metric_date for day in found}
    # After the notes: if they are pruned in between, it is seen here.
    state = connection.execute(_STATE).one()
    if (
        state.failures != since.failures
        or state.watermark < since.watermark
        or int(since.snapshot.split(":")[0]) < state.pruned_before
    ):
        return None
    return touched | {window.metric_date for window in windows if window.end.timestamp() * 1_000_000 > since.watermark}


def raise_watermark(database: Database, until: datetime) -> None:
    """Has the feed note changes of logs older than `until`: the end of a day that is about to be read.

    Also begins again after a failure or a change of the structure, and deletes old notes. Does nothing without a feed.
    Waits at most a second for the writers that were active; it never holds one up.
    """
    with database.begin() as connection:
        if _working(connection) is None:
            return
        connection.exec_driver_sql("SELECT FROM metric_log_feed FOR UPDATE")
        catalog, state = connection.execute(_CATALOG).one(), connection.execute(_STATE).one()
        for statement in _PRUNE:
            connection.execute(statement)
        watermark = connection.execute(_WANTED, {"until": until}).scalar_one()
        if (watermark, state.failures, catalog.structure) == (
            state.known_watermark,
            state.known_failures,
            state.structure,
        ):
            return
        connection.execute(text("SELECT setval('metric_log_watermark', :watermark)"), {"watermark": watermark})
        connection.execute(_BEGIN, {"watermark": watermark, "failures": state.failures, "structure": catalog.structure})
    deadline = time.monotonic() + _WAIT_SECONDS
    while time.monotonic() < deadline:
        with database.connect() as connection:
            if connection.execute(_STATE).one().has_only_noting_writers:
                return
        time.sleep(0.02)


def describe_feed(connection: Connection) -> tuple[str, list[str]]:
    """A sentence on the feed for `db check`, and a warning if it is installed and not complete."""
    catalog = connection.execute(_CATALOG).one()
    if not catalog.is_installed:
        return "Change feed: not installed", []
    problems = [f"{table} lacks a trigger that is enabled ALWAYS" for table in catalog.unwatched]
    if not catalog.may_note:
        problems.append("its functions or tables were changed, or their owner lost a privilege on them")
    if not catalog.may_read:
        problems.append("this role may not read it (metrics-pipeline db grants)")
    if not problems:
        return "Change feed: installed and complete", []
    warning = (
        f"The change feed is not used, so days are compared by reading them: {'; '.join(problems)}. Have the owner of "
        "the logs apply again what this prints: metrics-pipeline db watch"
    )
    return "Change feed: installed, not complete", [warning]


def trigger_statements(connection: Connection, contract: UpstreamContract, *, remove: bool) -> list[str]:
    """The statements that create or drop the triggers, for the owner of the logs.

    Raises PermanentError if the logs are not a table, if its triggers would hold up replication, or if our own tables
    are missing.
    """
    catalog = connection.execute(_CATALOG).one()
    if catalog.schema is None:
        raise PermanentError("The tables of the change feed are missing: run metrics-pipeline db upgrade first.")
    if catalog.kind not in ("r", "p"):
        raise PermanentError(
            "agent_execution_logs is not a table in this database: triggers of a view or of a foreign table do not see "
            "what others write to the tables behind it."
        )
    if catalog.kind == "p" and connection.scalar(_IS_REPLICATED_TO):
        raise PermanentError(
            "Logical replication writes to agent_execution_logs, which is partitioned. There PostgreSQL 18 leaks a "
            "reference to the partition of each row for which a trigger is called, and with thousands of them its "
            "parallel workers wait for each other forever. No feed is needed: the counters of partitions show what "
            "replication has written."
        )
    clock = "(clock_timestamp() AT TIME ZONE 'UTC')" if contract.timestamp_is_naive else "clock_timestamp()"
    statements = []
    for table in catalog.tables:
        for event, moment in _MOMENTS.items():
            name = f"metric_note_{event}"
            statements.append(f"DROP TRIGGER IF EXISTS {name} ON {table};")
            if not remove:
                statements.append(
                    f"CREATE TRIGGER {name} AFTER {event.upper()} ON {table} FOR EACH ROW\n"
                    f"    WHEN ({moment} < {clock} - interval '{RIPE_AFTER}')\n"
                    f"    EXECUTE FUNCTION {catalog.schema}.metric_note_log_change();"
                )
                statements.append(f"ALTER TABLE {table} ENABLE ALWAYS TRIGGER {name};")
    return statements


def _working(connection: Connection) -> Row[Any] | None:
    """What the catalog says of the feed, if it is complete and the role of `connection` may use it."""
    catalog = connection.execute(_CATALOG).one()
    is_complete = catalog.is_installed and not catalog.unwatched and catalog.may_note and catalog.may_read
    return catalog if is_complete else None
