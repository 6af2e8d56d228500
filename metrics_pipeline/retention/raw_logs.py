"""Deleting raw logs: a day is one transaction that seals it and deletes exactly the logs that were aggregated."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from time import monotonic, sleep
from typing import Any
from zoneinfo import ZoneInfo

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from metrics_pipeline.logs.contract import UpstreamContract
from metrics_pipeline.logs.counts import count_logs_before, count_logs_of_day, on_table
from metrics_pipeline.logs.log_columns import FINGERPRINT_KINDS, fingerprint_columns, log_columns
from metrics_pipeline.metrics.fingerprint import SourceFingerprint
from metrics_pipeline.metrics.reconciliation import LedgerRow
from metrics_pipeline.metrics.retention import FIRST_DAY, reason_of_difference, reason_to_hold_back
from metrics_pipeline.metrics.windows import DayWindow, day_window
from metrics_pipeline.metrics.wording import counted
from metrics_pipeline.names import LOGS_TABLE
from metrics_pipeline.retention.pace import HeldBackError, OnProgress, Pace, RetentionConnection, why_not
from metrics_pipeline.retention.partitions import SourceTable, tables_of
from metrics_pipeline.retention.report import HeldBackDay, RetentionReport
from metrics_pipeline.store.audit import stored_totals
from metrics_pipeline.store.ledger import read_stored_day
from metrics_pipeline.store.publishing import lock_day

_EARLIEST = datetime(FIRST_DAY.year, 1, 1, tzinfo=UTC)

_NEXT_LOG = """SELECT min("timestamp") FROM {table} WHERE "timestamp" >= :start AND "timestamp" < :end"""
_COUNT_FOREIGN = text("""
SELECT count(*) FROM agent_execution_logs
WHERE "timestamp" >= :start AND "timestamp" < :end AND tableoid = ANY(CAST(:foreign AS oid[]))""")

# What an earlier version deleted of a day without finishing it; an open day of another zone that shares its instants.
_FURTHER = text("""
SELECT (SELECT source_fingerprint::jsonb->>'pruned' FROM metric_day_ledger
         WHERE metric_date = :metric_date AND source_fingerprint LIKE '%"pruned"%') AS pruned,
       (SELECT min(metric_date) FROM metric_day_ledger
         WHERE metric_date <> :metric_date AND raw_pruned_at IS NULL AND time_zone <> :time_zone
           AND window_start < :end AND window_end > :start) AS overlapping""")

_LAST_OF_SLICE = text("""
SELECT "timestamp" FROM agent_execution_logs WHERE "timestamp" >= :start AND "timestamp" < :end
ORDER BY "timestamp" OFFSET :rows - 1 LIMIT 1""")

_READ = """SELECT {columns} FROM {table} WHERE "timestamp" >= :start AND "timestamp" < :end OFFSET 0"""

# The returned rows are kept until they are aggregated, in memory up to work_mem: so they are few, and narrow.
_DELETE = """
DELETE FROM agent_execution_logs
WHERE "timestamp" >= :start AND "timestamp" < :end AND tableoid <> CAST(:kept AS oid)
RETURNING {columns}"""

# A day that an earlier version pruned in part ends like the others: with all of its logs counted as pruned.
_SEAL = text("""
UPDATE metric_day_ledger
SET raw_pruned_at = coalesce(raw_pruned_at, now()), raw_pruned_logs = coalesce(raw_pruned_logs, 0) + :logs,
    source_fingerprint = (source_fingerprint::jsonb - 'pruned')::text
WHERE metric_date = :metric_date""")


@dataclass(frozen=True)
class _Day:
    """A day whose `logs` logs may go if they and those that an earlier version pruned are the aggregated ones."""

    window: DayWindow
    ledger: LedgerRow
    pruned: SourceFingerprint
    logs: int


@dataclass(frozen=True)
class RawLogPruning:
    """One run's pruning of agent_execution_logs before the report's cutoff. Counts what it does in the report."""

    connection: RetentionConnection
    pace: Pace
    contract: UpstreamContract
    report: RetentionReport
    on_progress: OnProgress

    def run(self) -> None:
        """Seals and deletes until the time budget ends; what is done by then stays done. A dry run only reads."""
        ends_at = monotonic() + self.pace.time_budget_minutes * 60
        for unit in self._units():
            started = monotonic()
            if started > ends_at:
                self.report.is_out_of_time = True
                return
            self._prune(unit)
            sleep((monotonic() - started) * self.pace.pause_ms / 1000)

    def _units(self) -> Iterator[SourceTable | DayWindow]:
        """What one transaction prunes: each partition that may be dropped, then each day that is left."""
        yield from (table for table in self.connection.transaction(self._tables) if table.is_droppable)
        yield from self.connection.transaction(partial(self._windows, LOGS_TABLE))

    def _tables(self, connection: Connection) -> list[SourceTable]:
        cutoffs = self.report.cutoffs
        return tables_of(connection, LOGS_TABLE, "timestamp", day_window(cutoffs.raw_logs, cutoffs.time_zone).start)

    def _windows(self, table: str, connection: Connection) -> list[DayWindow]:
        """The days before the cutoff with logs in the table, oldest first, by one look into the index for each."""
        zone = self.report.cutoffs.time_zone
        windows: list[DayWindow] = []
        statement = on_table(_NEXT_LOG, table)
        end = day_window(self.report.cutoffs.raw_logs, zone).start
        bounds = {"start": self.contract.instant(_EARLIEST), "end": self.contract.instant(end)}
        while (moment := connection.scalar(statement, bounds)) is not None:
            instant = moment.replace(tzinfo=UTC) if self.contract.timestamp_is_naive else moment
            window = day_window(instant.astimezone(ZoneInfo(zone)).date(), zone)
            if window.end <= instant:
                # Clocks that go back over midnight show the day before again after the new one has begun.
                window = day_window(window.metric_date + timedelta(days=1), zone)
            windows.append(window)
            bounds["start"] = self.contract.instant(window.end)
        return windows

    def _prune(self, unit: SourceTable | DayWindow) -> None:
        try:
            days = self.connection.transaction(partial(self._take, unit))
        except (HeldBackError, DBAPIError) as error:
            reason = why_not(error)
            if isinstance(unit, DayWindow):
                self._hold_back(unit, reason)
            else:
                self.on_progress(f"{unit.name}: is not dropped, its days are pruned one by one: {reason}")
            return
        if isinstance(unit, SourceTable):
            self.report.dropped_partitions.append(unit.name)
        for day in days:
            self.report.pruned_logs[day.window.metric_date] = day.logs
            if not day.ledger.is_sealed:
                self.report.sealed_days.append(day.window.metric_date)
            done = "would be deleted, and the day sealed" if self.report.is_dry_run else "deleted, the day is sealed"
            self.on_progress(f"{day.window.metric_date}: {day.logs:,} verified logs {done}")
        if isinstance(unit, DayWindow) and not self.report.is_dry_run:
            self._hold_back(unit, "arrived after the day was sealed: not in its metrics")

    def _hold_back(self, window: DayWindow, reason: str) -> None:
        """Reports the logs that are left of the day. There are none if another run of retention was faster."""
        if logs := self.connection.transaction(partial(count_logs_of_day, contract=self.contract, window=window)):
            self.report.held_back.append(HeldBackDay(window.metric_date, logs, reason))
            self.on_progress(f"{window.metric_date}: {counted(logs, 'log is', 'logs are')} held back: {reason}")

    def _take(self, unit: SourceTable | DayWindow, connection: Connection) -> list[_Day]:
        """Seals the day, or the days in the partition, and deletes their logs; the partition is dropped.

        A dry run only verifies. Raises HeldBackError if a day is held back, or if the partition may not be dropped.
        """
        is_dry_run = self.report.is_dry_run
        leaf = unit if isinstance(unit, SourceTable) else None
        if leaf is not None and not is_dry_run:
            # Before the snapshot: then no log can come into the partition that the snapshot does not show.
            connection.execute(on_table("LOCK TABLE ONLY {table} IN SHARE MODE", leaf.name))
        windows = [unit] if isinstance(unit, DayWindow) else self._windows(unit.name, connection)
        for window in [] if is_dry_run else windows:
            lock_day(connection, window)
        tables = self._tables(connection)
        has_strays = leaf is not None and count_logs_before(connection, self.contract, _EARLIEST, leaf.name)
        if has_strays or (leaf is not None and leaf not in tables):
            raise HeldBackError(f"it was changed meanwhile, or holds logs of before {_EARLIEST:%Y}")
        days = [self._judge(window, tables, connection) for window in windows]
        for day in days:
            reason = self._difference(connection, day) if is_dry_run else self._seal_and_delete(connection, day, leaf)
            if reason:
                raise HeldBackError(reason)
        if leaf is not None and not is_dry_run:
            connection.execute(on_table("DROP TABLE {table}", leaf.name))
        return days

    def _judge(self, window: DayWindow, tables: Collection[SourceTable], connection: Connection) -> _Day:
        """The day, if the ledger and its stored metrics allow that its logs go. Reads no log, only how many there are.

        Raises HeldBackError for a day that is held back.
        """
        stored = read_stored_day(connection, window.metric_date)
        pruned, overlapping = connection.execute(_FURTHER, vars(window)).one()
        half = SourceFingerprint.from_text(pruned) if pruned else None
        totals = len(stored.executions), sum(stored.executions.values())
        reason = reason_to_hold_back(stored.ledger, half, totals, window.time_zone, overlapping, FINGERPRINT_KINDS)
        foreign = [table.oid for table in tables if not table.is_table]
        bounds = self.contract.bounds(window) | {"foreign": foreign}
        if len(foreign) == len(tables) or (foreign and connection.scalar(_COUNT_FOREIGN, bounds)):
            reason = "in a view or a foreign table, wholly or in part: retention deletes from tables only"
        if reason or stored.ledger is None:
            raise HeldBackError(reason)
        [rows] = stored_totals(connection, window.metric_date, window.metric_date)
        if rows.is_altered or rows.is_breakdown_altered:
            raise HeldBackError("the stored metrics of this day are damaged (values were altered): backfill the day")
        pruned_logs = half or SourceFingerprint.of_no_logs(stored.ledger.source_fingerprint.kind)
        return _Day(window, stored.ledger, pruned_logs, count_logs_of_day(connection, self.contract, window))

    def _seal_and_delete(self, connection: Connection, day: _Day, leaf: SourceTable | None) -> str | None:
        """Deletes the day in slices, except its logs in the partition `leaf`, which are only read.

        Unless all of them together are the aggregated logs, returns the reason and leaves everything as it was.
        """
        aggregated = day.ledger.source_fingerprint
        if day.pruned.logs + day.logs != aggregated.logs:
            return self._difference(connection, day)
        bounds = self.contract.bounds(day.window)
        gone = day.pruned if leaf is None else day.pruned + self._read(connection, day, leaf.name)
        start: datetime | None = bounds["start"]
        with connection.begin_nested() as savepoint:
            # First, because it fails at once where the day was published since the snapshot.
            connection.execute(_SEAL, {"metric_date": day.window.metric_date, "logs": day.logs})
            while start is not None and gone.logs < aggregated.logs:
                slice_ = bounds | {"start": start, "rows": self.pace.batch_rows}
                last: datetime | None = connection.scalar(_LAST_OF_SLICE, slice_)
                end = bounds["end"] if last is None else last + timedelta(microseconds=1)
                kept = 0 if leaf is None else leaf.oid
                gone += self._fingerprint(connection, day, _DELETE, {"start": start, "end": end, "kept": kept})
                start = None if last is None else end
            if aggregated.equals(gone):
                return None
            savepoint.rollback()
        kept_by = "a trigger, a rule or a policy of the table kept logs"
        differences = ", ".join(aggregated.differences(gone))
        return self._difference(connection, day) or f"could not be deleted: {kept_by} ({differences})"

    def _difference(self, connection: Connection, day: _Day) -> str | None:
        return reason_of_difference(day.ledger, day.pruned + self._read(connection, day, LOGS_TABLE))

    def _read(self, connection: Connection, day: _Day, table: str) -> SourceFingerprint:
        statement = _READ.replace("{table}", table.replace(":", "\\:"))
        return self._fingerprint(connection, day, statement, self.contract.bounds(day.window))

    def _fingerprint(self, connection: Connection, day: _Day, rows: str, bounds: dict[str, Any]) -> SourceFingerprint:
        """The fingerprint, of the day's kind, of the rows that the statement gives with {columns} in it."""
        kind = day.ledger.source_fingerprint.kind
        rows = rows.replace("{columns}", log_columns(self.contract))
        statement = text(f"WITH log AS ({rows}) SELECT {fingerprint_columns(kind)} FROM log")
        return SourceFingerprint.of(dict(connection.execute(statement, bounds).mappings().one()), kind)
