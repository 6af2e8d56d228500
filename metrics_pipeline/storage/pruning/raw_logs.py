"""Deleting raw logs: table by table, in each the verified logs of one sealed day after the other."""

from collections.abc import Callable
from datetime import date, datetime
from functools import partial
from typing import Any

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from metrics_pipeline.errors import PermanentError
from metrics_pipeline.metrics.fingerprint import SourceFingerprint
from metrics_pipeline.metrics.retention import StandingLogs
from metrics_pipeline.metrics.windows import DayWindow, day_window
from metrics_pipeline.storage.contract import UpstreamContract
from metrics_pipeline.storage.log_columns import FINGERPRINT, FINGERPRINT_INPUT
from metrics_pipeline.storage.pruning.pace import PacedConnection, is_in_the_way
from metrics_pipeline.storage.pruning.partitions import Leaf, leaves
from metrics_pipeline.storage.pruning.report import HeldBackDay, RetentionReport
from metrics_pipeline.storage.pruning.transaction_ids import WRITER
from metrics_pipeline.storage.pruning.verification import (
    ALL_LOGS,
    VERIFICATION_TIMEOUT_MS,
    ExaminedDay,
    days_with_logs,
    examine,
    read_progress,
    seal,
    standing_logs,
)
from metrics_pipeline.storage.publishing import lock_day

#: Called with a sentence on what was just done.
OnProgress = Callable[[str], None]

# A row that was changed since the inner SELECT saw it has another ctid by then, and stays.
_DELETE_BATCH = f"""
WITH gone AS (
    DELETE FROM ONLY {{leaf}}
    WHERE ctid = ANY(ARRAY(
        SELECT ctid FROM ONLY {{leaf}}
        WHERE "timestamp" >= :after AND "timestamp" < :end AND {WRITER} < :verified_before
        ORDER BY "timestamp"
        LIMIT :rows))
    RETURNING "timestamp", agent_id, status, latency_ms, token_count, cost_usd, error_type, metadata
)
SELECT max(moment) AS last, {FINGERPRINT} FROM (SELECT {FINGERPRINT_INPUT} FROM gone OFFSET 0) AS log"""

_RECORD_PROGRESS = text("""
WITH sealed AS (
    UPDATE metric_day_ledger SET raw_pruned_logs = raw_pruned_logs + :logs WHERE metric_date = :metric_date
    RETURNING metric_date
)
UPDATE metric_day_pruning SET pruned_fingerprint = :pruned
WHERE metric_date = (SELECT metric_date FROM sealed)""")

_IN_PROGRESS = text("SELECT metric_date FROM metric_day_pruning WHERE metric_date < :before ORDER BY 1")

_FINISH = text("DELETE FROM metric_day_pruning WHERE metric_date = :metric_date")

_COUNT = text("""SELECT count(*) FROM agent_execution_logs WHERE "timestamp" < :before""")

_LATER = "written after the day was sealed: not in its metrics"

# While a DETACH waits for its lock, writers wait behind it. So it waits briefly; what it does then takes milliseconds.
_DETACH_LOCK_TIMEOUT_MS = 200


class RawLogPruning:
    """One run's pruning of agent_execution_logs before the report's cutoff.

    Counts what it does in the report. Each day is examined, and sealed, once.
    """

    def __init__(
        self, paced: PacedConnection, contract: UpstreamContract, report: RetentionReport, on_progress: OnProgress
    ) -> None:
        self._paced = paced
        self._contract = contract
        self._report = report
        self._on_progress = on_progress
        self._seen: set[date] = set()
        self._days_to_prune: dict[date, ExaminedDay] = {}

    def preview(self) -> None:
        """Counts what `run` would delete and hold back at this moment. Writes nothing."""
        for day in self._days(ALL_LOGS):
            examined = examine(self._paced, self._contract, self._window(day))
            if examined.reason is not None:
                self._hold_back(day, examined.standing.logs, examined.reason)
                continue
            self._days_to_prune[day] = examined
            self._report.pruned_logs[day] = examined.standing.verifiable.logs
            if not examined.is_sealed:
                self._report.sealed_days.append(day)
            if examined.standing.later.logs:
                self._hold_back(day, examined.standing.later.logs, _LATER)
        held_back = {day.metric_date for day in self._report.held_back}
        for leaf in self._leaves():
            if leaf.is_droppable and held_back.isdisjoint(self._days(leaf)):
                self._report.dropped_partitions.append(leaf.name)

    def run(self) -> None:
        """Seals and deletes. Raises OutOfTimeError at the end of the time budget; what is done by then stands."""
        for leaf in self._leaves():
            days = self._days(leaf)
            if leaf.is_droppable and all(self._seal(day) for day in days) and self._drop(leaf):
                continue
            for day in days:
                if self._seal(day):
                    self._delete_rows(leaf, self._days_to_prune[day])
        for day in self._paced.transaction(self._read_days_in_progress):
            self._finish(day)

    def _seal(self, day: date) -> bool:
        """Seals the day unless this run did so before; says whether its verified logs may be deleted."""
        if day not in self._seen:
            self._seen.add(day)
            examined = seal(self._paced, self._contract, self._window(day))
            if examined.reason is not None:
                self._hold_back(day, examined.standing.logs, examined.reason)
            else:
                self._days_to_prune[day] = examined
                self._report.pruned_logs[day] = 0
                if not examined.is_sealed:
                    self._report.sealed_days.append(day)
                verb = "went on with" if examined.is_sealed else "sealed with"
                self._on_progress(f"{day}: {verb} {examined.standing.verifiable.logs:,} verified logs")
        return day in self._days_to_prune

    def _delete_rows(self, leaf: Leaf, day: ExaminedDay) -> None:
        after = self._contract.instant(day.window.start)
        while True:
            start = after

            def delete_batch(connection: Connection, start: datetime = start) -> tuple[datetime | None, int]:
                lock_day(connection, day.window)
                row = connection.execute(leaf.sql(_DELETE_BATCH), self._batch(day, start)).mappings().one()
                gone = SourceFingerprint(**{name: int(value) for name, value in row.items() if name != "last"})
                _record(connection, day.metric_date, gone)
                return row["last"], gone.logs

            last, logs = self._paced.transaction(delete_batch)
            self._report.pruned_logs[day.metric_date] += logs
            if last is not None:
                after = last
                self._on_progress(
                    f"{day.metric_date}: {self._report.pruned_logs[day.metric_date]:,} of "
                    f"{day.standing.verifiable.logs:,} logs deleted"
                )
            if logs < self._paced.pace.batch_rows:
                return
            self._paced.pause()

    def _batch(self, day: ExaminedDay, after: datetime) -> dict[str, Any]:
        return {
            "after": after,
            "end": self._contract.instant(day.window.end),
            "verified_before": day.verified_before,
            "rows": self._paced.pace.batch_rows,
        }

    def _drop(self, leaf: Leaf) -> bool:
        """Drops the partition, in one transaction, if every log in it is verified; says whether it did."""

        def detach_and_drop(connection: Connection) -> dict[date, int] | None:
            connection.execute(leaf.sql("LOCK TABLE ONLY {leaf} IN SHARE MODE"))
            gone: dict[date, SourceFingerprint] = {}
            for day in self._days_within(connection, leaf):
                if day not in self._days_to_prune:
                    return None
                examined = self._days_to_prune[day]
                lock_day(connection, examined.window)
                standing, _ = standing_logs(connection, self._contract, leaf, examined.window, examined.verified_before)
                if standing.later.logs:
                    return None
                gone[day] = standing.verifiable
            connection.execute(text(f"SET LOCAL lock_timeout = {_DETACH_LOCK_TIMEOUT_MS}"))
            connection.execute(leaf.sql("ALTER TABLE agent_execution_logs DETACH PARTITION {leaf}"))
            connection.execute(leaf.sql("DROP TABLE {leaf}"))
            for day, fingerprint in gone.items():
                _record(connection, day, fingerprint)
            return {day: fingerprint.logs for day, fingerprint in gone.items()}

        try:
            gone = self._paced.transaction(detach_and_drop, statement_timeout_ms=VERIFICATION_TIMEOUT_MS)
        except DBAPIError as error:
            if not is_in_the_way(error):
                raise
            self._on_progress(f"{leaf.name}: in use all the time, so its logs are deleted instead of dropping it")
            return False
        if gone is None:
            self._on_progress(f"{leaf.name}: holds logs that came after the verification, so it is not dropped")
            return False
        for day, logs in gone.items():
            self._report.pruned_logs[day] += logs
        self._report.dropped_partitions.append(leaf.name)
        self._on_progress(f"{leaf.name}: dropped with {sum(gone.values()):,} verified logs")
        return True

    def _finish(self, day: date) -> None:
        """Closes a day of which no verified log is left, and reports what else is there."""

        def close(connection: Connection) -> StandingLogs | None:
            lock_day(connection, self._window(day))
            progress = read_progress(connection, day)
            if progress is None:
                return None
            standing, _ = standing_logs(
                connection, self._contract, ALL_LOGS, self._window(day), progress.verified_before
            )
            if standing.verifiable.logs == 0:
                connection.execute(_FINISH, {"metric_date": day})
            return standing

        standing = self._paced.transaction(close, statement_timeout_ms=VERIFICATION_TIMEOUT_MS)
        if standing is not None and standing.later.logs and day in self._days_to_prune:
            self._hold_back(day, standing.later.logs, _LATER)

    def _hold_back(self, day: date, logs: int, reason: str) -> None:
        self._report.held_back.append(HeldBackDay(day, logs, reason))
        self._on_progress(f"{day}: {logs:,} logs are held back: {reason}")

    def _window(self, day: date) -> DayWindow:
        return day_window(day, self._report.cutoffs.time_zone)

    def _leaves(self) -> list[Leaf]:
        before = self._window(self._report.cutoffs.raw_logs).start
        return self._paced.transaction(
            partial(leaves, table="agent_execution_logs", time_column="timestamp", before=before)
        )

    def _days(self, leaf: Leaf) -> list[date]:
        return self._paced.transaction(partial(self._days_within, leaf=leaf))

    def _days_within(self, connection: Connection, leaf: Leaf) -> list[date]:
        cutoffs = self._report.cutoffs
        return days_with_logs(connection, leaf, self._contract, cutoffs.time_zone, cutoffs.raw_logs)

    def _read_days_in_progress(self, connection: Connection) -> list[date]:
        return list(connection.execute(_IN_PROGRESS, {"before": self._report.cutoffs.raw_logs}).scalars())


def count_logs_before(connection: Connection, contract: UpstreamContract, moment: datetime) -> int:
    """How many logs of before the instant stand in the table."""
    count: int = connection.execute(_COUNT, {"before": contract.instant(moment)}).scalar_one()
    return count


def _record(connection: Connection, day: date, gone: SourceFingerprint) -> None:
    if gone.logs == 0:
        return
    progress = read_progress(connection, day)
    if progress is None:
        raise PermanentError(
            f"metric_day_pruning lost its row of {day} while the day was being pruned. Nothing more of it was deleted."
        )
    parameters = {"metric_date": day, "logs": gone.logs, "pruned": (progress.pruned + gone).to_text()}
    connection.execute(_RECORD_PROGRESS, parameters)
