"""The source of logs in the database that holds the metrics: agent_execution_logs and agent_registry."""

import logging
import os
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from datetime import UTC, date, datetime
from typing import Any

import polars as pl
from sqlalchemy import Connection, text

from metrics_pipeline.errors import PermanentError, PipelineError
from metrics_pipeline.logs import change_feed, partition_counters, quality
from metrics_pipeline.logs.contract import UpstreamContract
from metrics_pipeline.logs.counts import count_logs_of_day
from metrics_pipeline.logs.days import over_days
from metrics_pipeline.logs.log_columns import (
    CONTENT_HASH,
    FINGERPRINT_KINDS,
    REGULAR_COST_NANO_USD,
    cost,
    dimension_content,
    fingerprint_columns,
    log_columns,
    with_content_hash,
)
from metrics_pipeline.logs.partials import SlicePartials, exact_value_costs, read_partials
from metrics_pipeline.logs.slices import Slice, slices_of
from metrics_pipeline.logs.source import ExtractedDay, LogQuality, Suspicion, SuspiciousLog
from metrics_pipeline.logs.unreadable import day_by_day, is_fault_of_logs, remedy, unreadable_days
from metrics_pipeline.metrics.calculator import agents_with_irregular_costs
from metrics_pipeline.metrics.catalog import EXACT_COSTS_SCHEMA
from metrics_pipeline.metrics.conservation import AgentLogs
from metrics_pipeline.metrics.costs import NOT_FINITE
from metrics_pipeline.metrics.dimensions import (
    VALUE_COSTS_SCHEMA,
    Dimension,
    ExtractedValues,
    broken_down,
    by_agent,
    by_some_agents,
    fingerprint_names,
)
from metrics_pipeline.metrics.fingerprint import FingerprintKind, SourceFingerprint
from metrics_pipeline.metrics.verification import JudgedBy, Mark, Unreadable
from metrics_pipeline.metrics.windows import DayWindow
from metrics_pipeline.names import LOGS_TABLE
from metrics_pipeline.postgres.database import Database

_log = logging.getLogger(__name__)

# Each reader takes a connection and a core of the server, which other clients need at night too. The snapshot's own
# connection is one of them.
_MAX_READERS = 4

_EXPORT = text("SELECT pg_export_snapshot(), now()")

# Executed before a reader takes a slice: if it waits behind an ALTER TABLE, another reader takes all slices.
_LOCK = text("SELECT 1 FROM agent_execution_logs LIMIT 0")

# Integer division, because numeric's quotient is already rounded: rounding it to nano-dollars would round twice.
# COST stands for cost().
_EXACT_COSTS = f"""
SELECT agent_id,
       trunc(round(nano_usd))::text AS total_cost_nano_usd,
       (sign(nano_usd) * div(2 * abs(nano_usd) + logs, 2 * logs))::text AS avg_cost_nano_usd,
       trunc(regular_cost_nano_usd)::text,
       not_finite_costs
FROM (
    SELECT agent_id, count(*) AS logs,
           coalesce(sum(cost_usd) FILTER (WHERE cost_usd::text NOT IN {NOT_FINITE}), 0) * 1000000000 AS nano_usd,
           {REGULAR_COST_NANO_USD} AS regular_cost_nano_usd,
           count(*) FILTER (WHERE cost_usd::text IN {NOT_FINITE}) AS not_finite_costs
    FROM (SELECT agent_id::text COLLATE "C" AS agent_id, COST AS cost_usd FROM agent_execution_logs
          WHERE "timestamp" >= :start AND "timestamp" < :end) AS log
    WHERE agent_id = ANY(:agents) OR agent_id IS NULL
    GROUP BY agent_id
) AS costs"""

_AGENTS = text("""
SELECT id::text FROM agent_registry WHERE :include_inactive OR status::text COLLATE "C" = 'active'""")

# Without '-infinity' and the years before Christ, which Python cannot represent.
_FIRST_LOG = text("""
SELECT min("timestamp") FROM agent_execution_logs WHERE "timestamp" >= '0001-01-01' AND "timestamp" < '9999-01-01'""")


class PostgresLogs:
    """A LogSource. `database` opens further connections for large days."""

    def __init__(self, database: Database, contract: UpstreamContract, dimensions: Sequence[Dimension] = ()) -> None:
        self.contract = contract
        self.name = LOGS_TABLE
        self.dimensions = tuple(dimensions)
        self.warnings = contract.warnings
        self.fingerprint_kinds = FINGERPRINT_KINDS
        self.unlogged: Sequence[str] = contract.unlogged
        self._database = database

    def read_day(self, snapshot: Connection, window: DayWindow, *, include_inactive_agents: bool) -> ExtractedDay:
        """See LogSource.

        A large window is read in slices of time over several concurrent connections. Raises PermanentError for a log
        that cannot be read, with the log and its agent.
        """
        exported_id, taken_at = snapshot.execute(_EXPORT).one()
        agents = registered_agents(snapshot, include_inactive=include_inactive_agents)
        try:
            with snapshot.begin_nested():
                parts = self._parts(snapshot, window, exported_id)
                partials = pl.concat(part.by_agent for part in parts)
                if self.dimensions:
                    logs = pl.concat(part.logs for part in parts)
                    partials = pl.concat(by_agent(some, partials) for some in by_some_agents(logs))
                irregular = agents_with_irregular_costs(partials)
                exact_costs = self._exact_costs(snapshot, window, irregular)
                values = self._values(snapshot, window, parts, irregular) if self.dimensions else None
        except Exception as error:
            if is_fault_of_logs(error):
                found = self.fingerprints(snapshot, [window], self.fingerprint_kinds[0])[window.metric_date]
                if isinstance(found, Unreadable):
                    raise PermanentError(f"{found.reason}. {remedy(error)}") from error
            raise
        return ExtractedDay(
            agents=agents,
            partials=partials,
            exact_costs=exact_costs,
            taken_at=taken_at,
            kind=self.fingerprint_kinds[0],
            values=values,
            is_merged=bool(self.dimensions),
        )

    def _parts(self, snapshot: Connection, window: DayWindow, exported_id: str) -> list[SlicePartials]:
        slices = slices_of(snapshot, self.contract, window)
        if len(slices) == 1:
            return [read_partials(snapshot, self.contract, *slices[0], self.dimensions)]
        return self._read_at_once(snapshot, slices, exported_id)

    def _values(
        self,
        snapshot: Connection,
        window: DayWindow,
        parts: Sequence[SlicePartials],
        irregular: Sequence[str | None],
    ) -> ExtractedValues:
        partials, keys = broken_down(pl.concat(part.logs for part in parts), self.dimensions)
        costs = [pl.DataFrame(schema=VALUE_COSTS_SCHEMA)]
        if irregular:
            costs += [
                exact_value_costs(snapshot, self.contract, window, self.dimensions, number, irregular, keys)
                for number in range(len(self.dimensions))
            ]
        content = map(sum, zip(*(part.content for part in parts), strict=True))
        return ExtractedValues(
            self.dimensions,
            partials,
            keys,
            pl.concat(costs),
            dict(zip(fingerprint_names(self.dimensions), content, strict=True)),
        )

    def fingerprints(
        self, snapshot: Connection, windows: Sequence[DayWindow], kind: FingerprintKind
    ) -> dict[date, SourceFingerprint | Unreadable]:
        """See LogSource. One pass on the server over the logs of all windows."""
        found: dict[date, SourceFingerprint | Unreadable] = {}

        def read(some: Sequence[DayWindow]) -> None:
            found.update(self._fingerprints(snapshot, some, kind))

        return found | unreadable_days(snapshot, self.contract, windows, read)

    def _fingerprints(
        self, snapshot: Connection, windows: Sequence[DayWindow], kind: FingerprintKind
    ) -> dict[date, SourceFingerprint]:
        rows = over_days(
            snapshot, self.contract, windows, _fingerprints_statement(self.contract, kind, self.dimensions)
        )
        names = {f"content_{number}": name for number, name in enumerate(fingerprint_names(self.dimensions))}
        found = {
            windows[row["day"] - 1].metric_date: {
                names.get(name, name): value for name, value in row.items() if name != "day"
            }
            for row in rows
        }
        nothing = SourceFingerprint.of_no_logs(kind).numbers | dict.fromkeys(names.values(), 0)
        return {
            window.metric_date: SourceFingerprint.of(found.get(window.metric_date, nothing), kind) for window in windows
        }

    def watch(self, database: Database, until: datetime) -> None:
        """See LogSource: has the change feed note them, if it is installed."""
        change_feed.raise_watermark(database, until)

    def marks(self, connection: Connection, windows: Sequence[DayWindow]) -> Mapping[date, Mark]:
        """See LogSource: the counters of the day's tables, and the state of the change feed, where they exist."""
        feed = change_feed.mark(connection)
        of_all: dict[str, Any] = {} if feed is None else {JudgedBy.FEED: feed.to_json()}
        counters = partition_counters.counters(connection, windows)
        marks = {day: of_all | dict(counters.get(day, {})) for day in (window.metric_date for window in windows)}
        return {day: mark for day, mark in marks.items() if mark}

    def unchanged(
        self,
        connection: Connection,
        windows: Sequence[DayWindow],
        since: Mapping[date, Mark],
        now: Mapping[date, Mark],
    ) -> Mapping[date, JudgedBy]:
        """See LogSource."""
        # The feed knows of a write to a plain table when it is committed, the counters up to 10 seconds later.
        found = {
            day: evidence
            for day, mark in since.items()
            for evidence in (JudgedBy.TABLES, JudgedBy.COUNTERS)
            if evidence in mark
            and mark[evidence] == now.get(day, {}).get(evidence)
            and not (evidence is JudgedBy.TABLES and JudgedBy.FEED in mark)
        }
        # Days that were read together have the same mark.
        by_mark: dict[str, list[DayWindow]] = {}
        for window in windows:
            mark = since.get(window.metric_date, {}).get(JudgedBy.FEED)
            if mark is not None and window.metric_date not in found:
                by_mark.setdefault(mark, []).append(window)
        for mark, some in by_mark.items():
            touched = change_feed.touched_days(connection, change_feed.FeedMark.from_json(mark), some)
            if touched is not None:
                days = {window.metric_date for window in some} - touched
                found |= dict.fromkeys(days, JudgedBy.FEED)
        return found

    def counts(self, snapshot: Connection, windows: Sequence[DayWindow]) -> Mapping[date, int]:
        """See LogSource. For each day an index-only scan, if the table was vacuumed since, which workers share."""
        return {window.metric_date: count_logs_of_day(snapshot, self.contract, window) for window in windows}

    def logs_by_agent(self, snapshot: Connection, windows: Sequence[DayWindow]) -> list[AgentLogs]:
        """See LogSource. One pass on the server over the logs of all windows."""
        found: list[AgentLogs] = []

        def read(some: Sequence[DayWindow]) -> None:
            found.extend(
                AgentLogs(
                    some[row["day"] - 1].metric_date,
                    row["agent_id"],
                    row["logs"],
                    int(row["regular_cost_nano_usd"]),
                    int(row["cost_nano_usd"]),
                )
                for row in over_days(snapshot, self.contract, some, quality.by_agent(self.contract))
            )

        day_by_day(snapshot, windows, read)
        return found

    def quality(
        self, snapshot: Connection, windows: Sequence[DayWindow], *, future_from: datetime, examples: int
    ) -> LogQuality:
        """See LogSource. Two passes on the server over the logs of all windows."""

        def suspicion(count: int, condition: str, value: str, given: dict[str, datetime]) -> Suspicion:
            statement = text(quality.EXAMPLES.format(condition=condition, value=value))
            rows = snapshot.execute(statement, {**given, "limit": examples}).mappings() if count else ()
            return Suspicion(count, [SuspiciousLog(**row) for row in rows])

        kinds = quality.suspicions(self.contract)
        within = '"timestamp" >= :start AND "timestamp" < :end'
        parts: dict[tuple[date, ...], tuple[int, dict[str, Suspicion]]] = {}

        def read(some: Sequence[DayWindow]) -> None:
            if not some:
                return
            bounds = self.contract.bounds(replace(some[0], end=some[-1].end))
            counts = snapshot.execute(text(quality.counts(self.contract)), bounds).mappings().one()
            parts[tuple(window.metric_date for window in some)] = (
                counts["logs"],
                {
                    kind: suspicion(counts[kind], f"{within} AND {condition}", value, bounds)
                    for kind, (condition, value) in kinds.items()
                },
            )

        unreadable = unreadable_days(snapshot, self.contract, windows, read)
        for day in unreadable:
            # The search for its log has read parts of the day.
            parts.pop((day,), None)
        newest_first = [found for _, (_, found) in sorted(parts.items(), reverse=True)]
        suspicions = {
            kind: Suspicion(
                sum(found[kind].logs for found in newest_first),
                [log for found in newest_first for log in found[kind].examples][:examples],
            )
            for kind in kinds
        }
        future = {"start": self.contract.instant(future_from)}
        in_the_future: int = snapshot.execute(quality.COUNT_FUTURE, future).scalar_one()
        suspicions["in_the_future"] = suspicion(in_the_future, '"timestamp" > :start', '"timestamp"', future)
        return LogQuality(sum(logs for logs, _ in parts.values()), suspicions, unreadable)

    def first_log_at(self, snapshot: Connection) -> datetime | None:
        """See LogSource."""
        first: datetime | None = snapshot.execute(_FIRST_LOG).scalar_one()
        return first and first.replace(tzinfo=first.tzinfo or UTC)

    def _exact_costs(self, snapshot: Connection, window: DayWindow, agents: Sequence[str | None]) -> pl.DataFrame:
        if not agents:
            return pl.DataFrame(schema=EXACT_COSTS_SCHEMA)
        rows = snapshot.execute(
            text(_EXACT_COSTS.replace("COST", cost(self.contract))),
            {**self.contract.bounds(window), "agents": list(agents)},
        )
        texts = pl.DataFrame([tuple(row) for row in rows], schema=EXACT_COSTS_SCHEMA.names(), orient="row")
        return texts.cast(EXACT_COSTS_SCHEMA, strict=False)

    def _read_at_once(self, snapshot: Connection, slices: Sequence[Slice], exported_id: str) -> list[SlicePartials]:
        left = deque(slices)
        helpers = [_Helper() for _ in range(min(len(slices), _MAX_READERS, os.cpu_count() or 1) - 1)]
        for helper in helpers:
            # Not of a pool, which would wait for its threads: a pooler may let one wait for its connection for minutes.
            threading.Thread(target=self._help, args=(helper, left, exported_id), name="reader", daemon=True).start()
        try:
            snapshot.execute(_LOCK)
            partials = self._slices(snapshot, left)
            # One that has not begun finds nothing left.
            for helper in helpers:
                if helper.has_begun.is_set() or helper.result.done():
                    partials += helper.result.result()
            return partials
        finally:
            # After an error of one reader, or an interruption, the others stop when their slice is done.
            left.clear()
            for helper in helpers:
                if helper.has_begun.is_set():
                    helper.result.exception()

    def _help(self, helper: "_Helper", left: deque[Slice], exported_id: str) -> None:
        is_connected = False
        try:
            with self._database.snapshot() as connection:
                is_connected = True
                if left:
                    connection.exec_driver_sql(f"SET TRANSACTION SNAPSHOT '{exported_id}'")
                    connection.execute(_LOCK)
                helper.has_begun.set()
                partials = self._slices(connection, left)
        # Also what the end of a lost connection raises: in a thread, nobody else would notice it.
        except BaseException as error:
            if not is_connected and isinstance(error, PipelineError):
                # A role or a pool may have few connections, and the snapshot's own reads everything if need be.
                _log.warning("The day is read over fewer connections. %s", error)
                helper.result.set_result([])
            else:
                left.clear()
                helper.result.set_exception(error)
        else:
            helper.result.set_result(partials)

    def _slices(self, connection: Connection, left: deque[Slice]) -> list[SlicePartials]:
        """Reads one slice after the other until none is left."""
        return [read_partials(connection, self.contract, *bounds, self.dimensions) for bounds in _taken(left)]


def registered_agents(snapshot: Connection, *, include_inactive: bool) -> pl.Series:
    """The ids (String, distinct) of the agents in scope, from agent_registry."""
    agents = snapshot.execute(_AGENTS, {"include_inactive": include_inactive}).scalars().all()
    return pl.Series("agent_id", agents, dtype=pl.String)


class _Helper:
    """A reader beside the snapshot's own connection, and what it has read."""

    def __init__(self) -> None:
        self.has_begun = threading.Event()
        self.result: Future[list[SlicePartials]] = Future()


def _fingerprints_statement(contract: UpstreamContract, kind: FingerprintKind, dimensions: Sequence[Dimension]) -> str:
    columns = fingerprint_columns(kind)
    rows = f"SELECT {{day}} AS day, {log_columns(contract, dimensions)} FROM {{logs}}"
    if dimensions:
        columns = columns.replace(CONTENT_HASH, "content_hash")
        columns += "".join(f", {dimension_content(number)} AS content_{number}" for number in range(len(dimensions)))
        # Once per log: without a dimension it is used once, and parallel workers can share the work.
        rows = with_content_hash(rows)
    return f"SELECT day, {columns} FROM ({rows}) AS log GROUP BY day"


def _taken(left: deque[Slice]) -> Iterator[Slice]:
    """Takes slices from a queue that threads share, the largest first, so that all end at about the same time."""
    while True:
        try:
            yield left.pop()
        except IndexError:
            return
