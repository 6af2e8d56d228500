"""Deleting raw logs: table by table, in each the verified logs of one sealed day after the other."""

from collections.abc import Callable
from datetime import date, datetime
from functools import partial
from typing import Any

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from metrics_pipeline.errors import PermanentError
from metrics_pipeline.logs.contract import UpstreamContract
from metrics_pipeline.logs.log_columns import fingerprint_columns, log_columns
from metrics_pipeline.metrics.fingerprint import SourceFingerprint
from metrics_pipeline.metrics.retention import UNSETTLED, StandingLogs
from metrics_pipeline.metrics.windows import DayWindow, day_window
from metrics_pipeline.retention.pace import PacedConnection, is_in_the_way
from metrics_pipeline.retention.partitions import Leaf, SourceTable, leaves
from metrics_pipeline.retention.report import HeldBackDay, RetentionReport
from metrics_pipeline.retention.transaction_ids import WRITER
from metrics_pipeline.retention.verification import (
    ALL_LOGS,
    VERIFICATION_TIMEOUT_MS,
    ExaminedDay,
    days_with_logs,
    examine,
    read_progress,
    seal,
    standing_logs,
)
from metrics_pipeline.store.publishing import lock_day

#: Called with a sentence on what was just done.
OnProgress = Callable[[str], None]

# A row that was changed since the candidates were read has another ctid by then, and stays.
_DELETE_BATCH = f"""
WITH candidate AS MATERIALIZED (
    SELECT ctid AS place, "timestamp" AS moment FROM ONLY {{leaf}}
    WHERE "timestamp" >= :after AND "timestamp" < :end AND {WRITER} < :verified_before
    ORDER BY "timestamp"
    LIMIT :rows
), gone AS (
    DELETE FROM ONLY {{leaf}} WHERE ctid = ANY(ARRAY(SELECT place FROM candidate))
    RETURNING "timestamp", agent_id, status, latency_ms, token_count, cost_usd, error_type, metadata
)
SELECT (SELECT count(*) FROM candidate) AS candidates, (SELECT max(moment) FROM candidate) AS last, {{fingerprint}}
FROM (SELECT {{log_columns}} FROM gone OFFSET 0) AS log"""

# Logs that came, changed or went since `verified_before` was the oldest open transaction make these two differ from
# what was counted then.
_COUNT_LEAF = f"""
SELECT count(*) AS logs, count(*) FILTER (WHERE {WRITER} < :verified_before) AS verified FROM ONLY {{leaf}}"""

_RECORD_PROGRESS = text("""
WITH sealed AS (
    UPDATE metric_day_ledger SET raw_pruned_logs = raw_pruned_logs + :logs WHERE metric_date = :metric_date
    RETURNING metric_date
)
UPDATE metric_day_pruning SET pruned_fingerprint = :pruned
WHERE metric_date = (SELECT metric_date FROM sealed)""")

_IN_PROGRESS = text("""
SELECT metric_date FROM metric_day_pruning JOIN metric_day_ledger USING (metric_date)
WHERE metric_date < :before AND time_zone = :time_zone ORDER BY 1""")

_FINISH = text("DELETE FROM metric_day_pruning WHERE metric_date = :metric_date")

_COUNT = text("""SELECT count(*) FROM agent_execution_logs WHERE "timestamp" < :before""")

_LATER = "written after the day was sealed: not in its metrics"
_KEPT = "could not be deleted: a trigger or a policy of the table keeps them"

# While a DETACH waits for its lock, writers wait behind it. So it waits briefly; what it does then takes milliseconds.
_DETACH_LOCK_TIMEOUT_MS = 200

_OTHERS_DEPEND_ON_IT = "2BP01"


class _NoPartAnyMoreError(Exception):
    """A leaf was detached, dropped or replaced since it was listed: its rows are not ours to delete."""


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
        self._is_patient = True
        self._seen: set[date] = set()
        self._days_to_prune: dict[date, ExaminedDay] = {}

    def preview(self) -> None:
        """Counts what `run` would delete and hold back at this moment. Writes nothing."""
        leaves_now = self._leaves()
        for day in self._days(ALL_LOGS):
            examined = examine(self._paced, self._contract, self._window(day), is_patient=self._is_patient)
            self._is_patient &= examined.reason != UNSETTLED
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
        for leaf in leaves_now:
            if leaf.is_droppable and held_back.isdisjoint(self._days(leaf)):
                self._report.dropped_partitions.append(leaf.name)

    def run(self) -> None:
        """Seals and deletes. Raises OutOfTimeError at the end of the time budget; what is done by then stands."""
        for leaf in self._leaves():
            if not self._paced.transaction(leaf.is_still_part):
                continue
            days = self._days(leaf)
            if leaf.is_droppable and all(self._seal(day) for day in days) and self._drop(leaf):
                continue
            for day in days:
                if self._seal(day):
                    self._delete_rows(leaf, self._days_to_prune[day])
        for day in self._paced.transaction(self._read_days_in_progress):
            if day not in self._seen or day in self._days_to_prune:
                self._finish(day)

    def _seal(self, day: date) -> bool:
        """Seals the day unless this run did so before; says whether its verified logs may be deleted."""
        if day not in self._seen:
            self._seen.add(day)
            examined = seal(self._paced, self._contract, self._window(day), is_patient=self._is_patient)
            # What an open transaction keeps from being verified after so long a wait, it keeps on other days too.
            self._is_patient &= examined.reason != UNSETTLED
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
            try:
                candidates, last, logs = self._paced.transaction(partial(self._delete_batch, leaf, day, after))
            except _NoPartAnyMoreError:
                self._on_progress(f"{leaf.name}: is no part of agent_execution_logs any more, so its logs stay")
                return
            self._report.pruned_logs[day.metric_date] += logs
            if logs:
                self._on_progress(
                    f"{day.metric_date}: {self._report.pruned_logs[day.metric_date]:,} of "
                    f"{day.standing.verifiable.logs:,} logs deleted"
                )
            if last is None or candidates < self._paced.pace.batch_rows or (logs == 0 and last == after):
                return
            after = last
            self._paced.pause()

    def _delete_batch(
        self, leaf: Leaf, day: ExaminedDay, after: datetime, connection: Connection
    ) -> tuple[int, datetime | None, int]:
        """Returns how many verified logs were found from `after` on, the last one's time, and how many are deleted."""
        lock_day(connection, day.window)
        if not leaf.is_still_part(connection):
            raise _NoPartAnyMoreError
        statement = leaf.sql(
            _DELETE_BATCH.replace("{log_columns}", log_columns(self._contract)).replace(
                "{fingerprint}", fingerprint_columns(day.kind)
            )
        )
        row = dict(connection.execute(statement, self._batch(day, after)).mappings().one())
        # Once more: from the DELETE on, nobody can take the table away before this transaction ends.
        if not leaf.is_still_part(connection):
            raise _NoPartAnyMoreError
        candidates, last = row.pop("candidates"), row.pop("last")
        gone = SourceFingerprint.of(row, day.kind)
        _record(connection, day.metric_date, gone)
        return candidates, last, gone.logs

    def _batch(self, day: ExaminedDay, after: datetime) -> dict[str, Any]:
        return {
            "after": after,
            "end": self._contract.instant(day.window.end),
            "verified_before": day.verified_before,
            "rows": self._paced.pace.batch_rows,
        }

    def _drop(self, leaf: Leaf) -> bool:
        """Drops the partition, in one transaction, if every log in it is verified; says whether it did."""
        try:
            # Read without a lock first: then what has to be done while writers of old logs wait is only a count.
            verified = self._paced.transaction(
                partial(self._verified_logs, leaf), statement_timeout_ms=VERIFICATION_TIMEOUT_MS
            )
            is_dropped = verified is not None and self._paced.transaction(
                partial(self._detach_and_drop, leaf, verified), statement_timeout_ms=VERIFICATION_TIMEOUT_MS
            )
        except DBAPIError as error:
            if is_in_the_way(error):
                why = "in use all the time"
            elif getattr(error.orig, "sqlstate", None) == _OTHERS_DEPEND_ON_IT:
                why = "other objects of the database depend on it"
            else:
                raise
            self._on_progress(f"{leaf.name}: {why}, so its logs are deleted instead of dropping it")
            return False
        if verified is None or not is_dropped:
            self._on_progress(f"{leaf.name}: holds logs that came after the verification, so it is not dropped")
            return False
        for day, gone in verified.items():
            self._report.pruned_logs[day] += gone.logs
        self._report.dropped_partitions.append(leaf.name)
        logs = sum(gone.logs for gone in verified.values())
        self._on_progress(f"{leaf.name}: dropped with {logs:,} verified logs")
        return True

    def _verified_logs(self, leaf: Leaf, connection: Connection) -> dict[date, SourceFingerprint] | None:
        """The verified logs of each day in the partition; None if there are others."""
        verified: dict[date, SourceFingerprint] = {}
        for day in self._days_within(connection, leaf):
            if day not in self._days_to_prune:
                return None
            examined = self._days_to_prune[day]
            standing = standing_logs(
                connection, self._contract, leaf, examined.window, examined.verified_before, examined.kind
            )
            if standing.later.logs:
                return None
            verified[day] = standing.verifiable
        return verified

    def _detach_and_drop(self, leaf: Leaf, verified: dict[date, SourceFingerprint], connection: Connection) -> bool:
        """Says whether it did: not unless exactly the verified logs stand in it."""
        for day in verified:
            lock_day(connection, self._days_to_prune[day].window)
        connection.execute(text(f"SET LOCAL lock_timeout = {_DETACH_LOCK_TIMEOUT_MS}"))
        connection.execute(leaf.sql("LOCK TABLE ONLY {leaf} IN SHARE MODE"))
        # The highest of the days' limits: what was invisible a moment ago, when all limits stood, is of none below it.
        limit = max((self._days_to_prune[day].verified_before for day in verified), default=0)
        count = connection.execute(leaf.sql(_COUNT_LEAF), {"verified_before": limit}).one()
        expected = sum(logs.logs for logs in verified.values())
        if (count.logs, count.verified) != (expected, expected) or not leaf.is_still_part(connection):
            return False
        connection.execute(leaf.sql("ALTER TABLE agent_execution_logs DETACH PARTITION {leaf}"))
        connection.execute(leaf.sql("DROP TABLE {leaf}"))
        for day, logs in verified.items():
            _record(connection, day, logs)
        return True

    def _finish(self, day: date) -> None:
        """Closes a day of which no verified log is left, and reports what else is there."""

        def close(connection: Connection) -> StandingLogs | None:
            lock_day(connection, self._window(day))
            progress = read_progress(connection, day)
            if progress is None:
                return None
            window, kind = self._window(day), progress.pruned.kind
            standing = standing_logs(connection, self._contract, ALL_LOGS, window, progress.verified_before, kind)
            if standing.verifiable.logs == 0:
                connection.execute(_FINISH, {"metric_date": day})
            return standing

        standing = self._paced.transaction(close, statement_timeout_ms=VERIFICATION_TIMEOUT_MS)
        if standing is not None and standing.logs:
            self._hold_back(day, standing.logs, _KEPT if standing.verifiable.logs else _LATER)

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

    def _days(self, leaf: SourceTable) -> list[date]:
        return self._paced.transaction(partial(self._days_within, leaf=leaf))

    def _days_within(self, connection: Connection, leaf: SourceTable) -> list[date]:
        cutoffs = self._report.cutoffs
        return days_with_logs(connection, leaf, self._contract, cutoffs.time_zone, cutoffs.raw_logs)

    def _read_days_in_progress(self, connection: Connection) -> list[date]:
        cutoffs = self._report.cutoffs
        parameters = {"before": cutoffs.raw_logs, "time_zone": cutoffs.time_zone}
        return list(connection.execute(_IN_PROGRESS, parameters).scalars())


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
