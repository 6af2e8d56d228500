"""Deleting raw logs: a day is one transaction that verifies it, seals it and deletes exactly what was verified."""

from datetime import date
from functools import partial

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from metrics_pipeline.logs.contract import UpstreamContract
from metrics_pipeline.logs.log_columns import fingerprint_columns, log_columns
from metrics_pipeline.metrics.fingerprint import SourceFingerprint
from metrics_pipeline.metrics.windows import DayWindow, day_window
from metrics_pipeline.names import LOGS_TABLE
from metrics_pipeline.retention.pace import OnProgress, PacedConnection, concerns_one_statement, server_words
from metrics_pipeline.retention.partitions import SourceTable, tables_of
from metrics_pipeline.retention.report import HeldBackDay, RetentionReport
from metrics_pipeline.retention.verification import (
    TABLES_ONLY,
    ExaminedDay,
    count_logs_of_day,
    days_with_logs,
    examine,
)
from metrics_pipeline.store.publishing import lock_day

# The returned rows are kept until they are aggregated, in memory up to work_mem: so they are few, and narrow.
_DELETE = """
WITH gone AS (
    DELETE FROM agent_execution_logs
    WHERE "timestamp" >= :start AND "timestamp" < :end AND tableoid <> CAST(:kept AS oid)
    RETURNING {log_columns}
)
SELECT {fingerprint} FROM gone"""

# A day that an earlier version pruned in part ends like the others: with all of its logs counted as pruned.
_SEAL = text("""
UPDATE metric_day_ledger
SET raw_pruned_at = coalesce(raw_pruned_at, now()), raw_pruned_logs = coalesce(raw_pruned_logs, 0) + :logs,
    source_fingerprint = CASE WHEN source_fingerprint::jsonb ? 'pruned'
                              THEN (source_fingerprint::jsonb - 'pruned')::text ELSE source_fingerprint END
WHERE metric_date = :metric_date""")

# While a DETACH waits for its lock, writers wait behind it. So it waits briefly; what it does then takes milliseconds.
_DETACH_LOCK_TIMEOUT_MS = 200


class _NotAsVerifiedError(Exception):
    """What would be deleted is not what was verified: the transaction is rolled back. Says why."""


class RawLogPruning:
    """One run's pruning of agent_execution_logs before the report's cutoff. Counts what it does in the report."""

    def __init__(
        self, paced: PacedConnection, contract: UpstreamContract, report: RetentionReport, on_progress: OnProgress
    ) -> None:
        self._paced = paced
        self._contract = contract
        self._report = report
        self._on_progress = on_progress
        self._seen: set[date] = set()
        self._foreign: dict[int, str] = {}

    def preview(self) -> None:
        """Counts what `run` would delete and hold back at this moment. Writes nothing."""
        tables = self._tables()
        prunable: dict[int, int] = {}
        for window in self._windows(LOGS_TABLE):
            if self._refuses(tables, window):
                continue
            examined = self._paced.transaction(partial(self._examine, window), in_one_snapshot=True)
            self._account(examined)
            if examined.reason is None:
                for oid, logs in examined.by_table.items():
                    prunable[oid] = prunable.get(oid, 0) + logs.logs
        for table in tables:
            if table.is_droppable and self._paced.transaction(partial(_count, table)) == prunable.get(table.oid, 0):
                self._report.dropped_partitions.append(table.name)

    def run(self) -> None:
        """Seals and deletes. Raises OutOfTimeError at the end of the time budget; what is done by then stays done."""
        tables = self._tables()
        for table in tables:
            if table.is_droppable:
                self._paced.check_time()
                self._drop(table)
        for window in self._windows(LOGS_TABLE):
            self._paced.check_time()
            if not self._refuses(tables, window):
                self._prune(window)

    def _refuses(self, tables: list[SourceTable], window: DayWindow) -> bool:
        """Holds the day back if agent_execution_logs is a view, whose rows say no table that they are in."""
        if any(table.is_table for table in tables):
            return False
        self._hold_back(window.metric_date, self._count_logs(window), f"{LOGS_TABLE} is not a table: {TABLES_ONLY}")
        return True

    def _prune(self, window: DayWindow) -> None:
        try:
            examined = self._paced.transaction(partial(self._take_day, window), in_one_snapshot=True)
        except (_NotAsVerifiedError, DBAPIError) as error:
            reason = f"could not be deleted: {_why_not(error)}"
            self._hold_back(window.metric_date, self._count_logs(window), reason)
        else:
            self._account(examined)
            if examined.reason is None:
                self._report_later_logs(window)
        self._paced.pause()

    def _drop(self, leaf: SourceTable) -> None:
        """Drops the partition with all days in it, or leaves its days to be deleted row by row."""
        try:
            windows = self._windows(leaf.name)
            examined = self._paced.transaction(
                partial(self._take_partition, leaf, windows),
                in_one_snapshot=True,
                lock_timeout_ms=_DETACH_LOCK_TIMEOUT_MS,
            )
        except (_NotAsVerifiedError, DBAPIError) as error:
            self._on_progress(f"{leaf.name}: is not dropped, its logs are deleted instead: {_why_not(error)}")
            return
        is_dropped = all(day.reason is None for day in examined)
        for day in examined:
            if is_dropped or day.reason is not None:
                self._account(day)
        if is_dropped:
            self._report.dropped_partitions.append(leaf.name)
            self._on_progress(f"{leaf.name}: dropped with the logs of {len(examined)} days")
            for day in examined:
                self._report_later_logs(day.window)
        self._paced.pause()

    def _take_day(self, window: DayWindow, connection: Connection) -> ExaminedDay:
        lock_day(connection, window)
        examined = self._examine(window, connection)
        if examined.reason is None and examined.standing.logs:
            self._take(connection, examined)
        return examined

    def _take_partition(self, leaf: SourceTable, windows: list[DayWindow], connection: Connection) -> list[ExaminedDay]:
        """The days in the partition, which are all gone unless one of them has a reason to be held back."""
        # Before the snapshot: then no log can come into the partition that the snapshot does not show.
        connection.execute(leaf.sql("LOCK TABLE ONLY {leaf} IN SHARE MODE"))
        for window in windows:
            lock_day(connection, window)
        if not leaf.is_still_part(connection, LOGS_TABLE):
            raise _NotAsVerifiedError("it is not a part of agent_execution_logs any more")
        examined = [self._examine(window, connection) for window in windows]
        if any(day.reason is not None for day in examined):
            return examined
        if _count(leaf, connection) != sum(day.by_table[leaf.oid].logs for day in examined if leaf.oid in day.by_table):
            raise _NotAsVerifiedError("it holds logs that belong to none of the verified days")
        for day in examined:
            self._take(connection, day, dropped_with=leaf.oid)
        connection.execute(leaf.sql("ALTER TABLE agent_execution_logs DETACH PARTITION {leaf}"))
        connection.execute(leaf.sql("DROP TABLE {leaf}"))
        return examined

    def _take(self, connection: Connection, day: ExaminedDay, dropped_with: int = 0) -> None:
        """Seals the day and deletes its logs, except those in the table of that oid, which goes as a whole.

        Raises _NotAsVerifiedError unless exactly the aggregated logs are gone.
        """
        # First, because it fails at once where the day was published since the snapshot.
        connection.execute(_SEAL, {"metric_date": day.window.metric_date, "logs": day.standing.logs})
        statement = text(
            _DELETE.replace("{log_columns}", log_columns(self._contract)).replace(
                "{fingerprint}", fingerprint_columns(day.kind)
            )
        )
        nothing = SourceFingerprint.of_no_logs(day.kind)
        gone = (day.pruned or nothing) + day.by_table.get(dropped_with, nothing)
        for start, end in day.slices(self._contract, self._paced.pace.batch_rows, dropped_with):
            deleted = connection.execute(statement, {"start": start, "end": end, "kept": dropped_with}).mappings().one()
            gone += SourceFingerprint.of(dict(deleted), day.kind)
        aggregated = day.stored.source_fingerprint if day.stored is not None else nothing
        if not aggregated.equals(gone):
            raise _NotAsVerifiedError(
                f"a trigger, a rule or a policy of the table kept logs, or its partitions were changed meanwhile "
                f"({', '.join(aggregated.differences(gone))})"
            )

    def _account(self, examined: ExaminedDay) -> None:
        day, logs = examined.window.metric_date, examined.standing.logs
        self._seen.add(day)
        if examined.reason is not None:
            self._hold_back(day, logs, examined.reason)
        elif logs:
            self._report.pruned_logs[day] = logs
            if examined.stored is not None and not examined.stored.is_sealed:
                self._report.sealed_days.append(day)
            if not self._report.is_dry_run:
                self._on_progress(f"{day}: {logs:,} verified logs deleted, the day is sealed")

    def _report_later_logs(self, window: DayWindow) -> None:
        """Logs that the snapshot of a sealed day did not show are in no metric."""
        later = self._paced.transaction(partial(self._examine, window), in_one_snapshot=True)
        if later.reason is not None:
            self._hold_back(window.metric_date, later.standing.logs, later.reason)

    def _hold_back(self, day: date, logs: int, reason: str) -> None:
        self._report.held_back.append(HeldBackDay(day, logs, reason))
        self._on_progress(f"{day}: {logs:,} logs are held back: {reason}")

    def _examine(self, window: DayWindow, connection: Connection) -> ExaminedDay:
        return examine(connection, self._contract, window, self._foreign)

    def _count_logs(self, window: DayWindow) -> int:
        return self._paced.transaction(partial(count_logs_of_day, contract=self._contract, window=window))

    def _tables(self) -> list[SourceTable]:
        cutoffs = self._report.cutoffs
        before = day_window(cutoffs.raw_logs, cutoffs.time_zone).start
        tables = self._paced.transaction(partial(tables_of, table=LOGS_TABLE, time_column="timestamp", before=before))
        self._foreign = {table.oid: table.name for table in tables if not table.is_table}
        return tables

    def _windows(self, table: str) -> list[DayWindow]:
        """The days before the cutoff that have logs in the table and were not seen yet, oldest first."""
        zone, before = self._report.cutoffs.time_zone, self._report.cutoffs.raw_logs
        days = self._paced.transaction(
            partial(days_with_logs, table=table, contract=self._contract, time_zone=zone, before=before)
        )
        return [day_window(day, zone) for day in days if day not in self._seen]


def _count(table: SourceTable, connection: Connection) -> int:
    count: int = connection.execute(table.sql("SELECT count(*) FROM ONLY {leaf}")).scalar_one()
    return count


def _why_not(error: DBAPIError | _NotAsVerifiedError) -> str:
    """Why the transaction was rolled back. Raises the error if it concerns more than this part of the work."""
    if isinstance(error, _NotAsVerifiedError):
        return str(error)
    if not concerns_one_statement(error):
        raise error
    return server_words(error)
