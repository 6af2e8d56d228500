"""What a day's logs are in one snapshot, and why they may not be deleted: against the ledger, read-only."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

from sqlalchemy import Connection, text

from metrics_pipeline.logs.contract import UpstreamContract
from metrics_pipeline.logs.log_columns import FINGERPRINT_KINDS, fingerprint_columns, log_columns
from metrics_pipeline.metrics.fingerprint import FingerprintKind, SourceFingerprint
from metrics_pipeline.metrics.reconciliation import LedgerRow
from metrics_pipeline.metrics.retention import reason_to_hold_back
from metrics_pipeline.metrics.windows import DayWindow, day_window
from metrics_pipeline.store.ledger import ledger_rows

#: Why a log that is in a view or a foreign table is held back.
TABLES_ONLY = "retention deletes from tables only"

_EARLIEST = date(1900, 1, 1)
_HOUR = timedelta(hours=1)

_NEXT_LOG = """SELECT min("timestamp") FROM {table} WHERE "timestamp" >= :after AND "timestamp" < :before"""

_BY_HOUR = """
SELECT hour, table_oid, {fingerprint}
FROM (
    SELECT date_trunc('hour', "timestamp") AS hour, tableoid::bigint AS table_oid, {log_columns}
    FROM agent_execution_logs
    WHERE "timestamp" >= :start AND "timestamp" < :end
    OFFSET 0
) AS log
GROUP BY hour, table_oid"""

_PRUNED_BEFORE = text("""
SELECT source_fingerprint::json->>'pruned' FROM metric_day_ledger
WHERE metric_date = :metric_date AND raw_pruned_at IS NOT NULL""")

_OVERLAPPING = text("""
SELECT metric_date FROM metric_day_ledger
WHERE metric_date <> :metric_date AND raw_pruned_at IS NULL AND time_zone <> :time_zone
  AND window_start < :end AND window_end > :start
LIMIT 1""")

_COUNT = text("""SELECT count(*) FROM agent_execution_logs WHERE "timestamp" < :before""")
_COUNT_DAY = text("""
SELECT count(*) FROM agent_execution_logs WHERE "timestamp" >= :start AND "timestamp" < :end""")


@dataclass(frozen=True)
class ExaminedDay:
    """A day as one snapshot has it.

    standing: the logs that are there; by_table: the same by the oid of the table that holds them. by_hour: their number
    by hour, as agent_execution_logs.timestamp has it, and table. pruned: of a day that an earlier version pruned in
    part, what is gone. reason: why no log may be deleted; None if all that are there may.
    """

    window: DayWindow
    kind: FingerprintKind
    standing: SourceFingerprint
    by_table: Mapping[int, SourceFingerprint]
    by_hour: Mapping[tuple[datetime, int], int]
    stored: LedgerRow | None
    pruned: SourceFingerprint | None
    reason: str | None

    def slices(self, contract: UpstreamContract, rows: int, without_table: int) -> Iterator[tuple[datetime, datetime]]:
        """Half-open slices of the day, of about `rows` logs or fewer, that hold all logs of the other tables."""
        hours: Counter[datetime] = Counter()
        for (hour, table), logs in self.by_hour.items():
            hours[hour] += logs * (table != without_table)
        bounds = contract.bounds(self.window)
        for hour in sorted(+hours):
            start, end = max(hour, bounds["start"]), min(hour + _HOUR, bounds["end"])
            number = -(-hours[hour] // rows)
            step = (end - start) / number
            for n in range(number):
                yield start + n * step, end if n == number - 1 else start + (n + 1) * step


def examine(
    connection: Connection, contract: UpstreamContract, window: DayWindow, foreign: Mapping[int, str]
) -> ExaminedDay:
    """Compares the day's logs with the ledger. foreign: the tables that retention does not delete from, by oid."""
    day = window.metric_date
    stored = ledger_rows(connection, day, day).get(day)
    pruned = pruned_before(connection, day)
    kind = FINGERPRINT_KINDS[0]
    if stored is not None and stored.source_fingerprint.kind in FINGERPRINT_KINDS:
        kind = stored.source_fingerprint.kind
    standing = SourceFingerprint.of_no_logs(kind)
    by_table: dict[int, SourceFingerprint] = {}
    by_hour = {}
    statement = _BY_HOUR.replace("{fingerprint}", fingerprint_columns(kind))
    rows = connection.execute(text(statement.replace("{log_columns}", log_columns(contract))), contract.bounds(window))
    for row in map(dict, rows.mappings()):
        hour, table = row.pop("hour"), row.pop("table_oid")
        logs = SourceFingerprint.of(row, kind)
        standing += logs
        by_table[table] = by_table[table] + logs if table in by_table else logs
        by_hour[hour, table] = logs.logs
    overlapping = connection.execute(
        _OVERLAPPING,
        {"metric_date": day, "time_zone": window.time_zone, "start": window.start, "end": window.end},
    ).scalar_one_or_none()
    reason = reason_to_hold_back(standing, stored, pruned, time_zone=window.time_zone, overlapping=overlapping)
    held_by = [name for oid, name in foreign.items() if oid in by_table]
    if reason is None and held_by:
        reason = f"partly in {', '.join(held_by)}: {TABLES_ONLY}"
    return ExaminedDay(window, kind, standing, by_table, by_hour, stored, pruned, reason if standing.logs else None)


def pruned_before(connection: Connection, day: date) -> SourceFingerprint | None:
    """The logs that a version before 0003 of the tables deleted of a sealed day; None if it left no rest."""
    pruned = connection.execute(_PRUNED_BEFORE, {"metric_date": day}).scalar_one_or_none()
    return None if pruned is None else SourceFingerprint.from_text(pruned)


def days_with_logs(
    connection: Connection, table: str, contract: UpstreamContract, time_zone: str, before: date
) -> list[date]:
    """The days that have logs in the table of that quoted name, oldest first, by one look into the index for each."""
    after = day_window(_EARLIEST, time_zone).start
    end = day_window(before, time_zone).start
    statement = text(_NEXT_LOG.replace("{table}", table.replace(":", "\\:")))
    days: list[date] = []
    while True:
        bounds = {"after": contract.instant(after), "before": contract.instant(end)}
        moment: datetime | None = connection.execute(statement, bounds).scalar_one()
        if moment is None:
            return days
        instant = moment.replace(tzinfo=UTC) if contract.timestamp_is_naive else moment
        window = day_window(instant.astimezone(ZoneInfo(time_zone)).date(), time_zone)
        if window.end <= instant:
            # Clocks that go back over midnight show the day before again after the new one has begun.
            window = day_window(window.metric_date + timedelta(days=1), time_zone)
        days.append(window.metric_date)
        after = window.end


def count_logs_of_day(connection: Connection, contract: UpstreamContract, window: DayWindow) -> int:
    """How many logs of the day are in the table."""
    count: int = connection.execute(_COUNT_DAY, contract.bounds(window)).scalar_one()
    return count


def count_logs_before(connection: Connection, contract: UpstreamContract, moment: datetime) -> int:
    """How many logs of before the instant are in the table."""
    count: int = connection.execute(_COUNT, {"before": contract.instant(moment)}).scalar_one()
    return count
