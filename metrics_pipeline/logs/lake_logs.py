"""The source of logs in a lake: Polars counts and adds, over files of Parquet, Delta Lake or Apache Iceberg.

The registry of agents stays in the database that holds the metrics.
"""

import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from typing import Any

import polars as pl
from sqlalchemy import Connection, text

from metrics_pipeline.errors import ContractError, PermanentError, PipelineError, TransientError
from metrics_pipeline.logs.lake_columns import LAKE_COLUMNS, TYPES_OF_NULLS, checked_names, log_frame
from metrics_pipeline.logs.lake_partials import DayPartials, agent_costs, day_partials
from metrics_pipeline.logs.lake_quality import LogsLookedAt, suspicions
from metrics_pipeline.logs.lake_tables import FAULTS_OF_LOGS, FAULTS_OF_STORAGE, LakeState, lake_state
from metrics_pipeline.logs.postgres_logs import registered_agents
from metrics_pipeline.logs.source import ExtractedDay, LogQuality
from metrics_pipeline.metrics.calculator import merged_values
from metrics_pipeline.metrics.conservation import AgentLogs
from metrics_pipeline.metrics.costs import fingerprint_cost
from metrics_pipeline.metrics.dimensions import Dimension
from metrics_pipeline.metrics.fingerprint import FingerprintKind, SourceFingerprint
from metrics_pipeline.metrics.verification import JudgedBy, Mark, Unreadable
from metrics_pipeline.metrics.windows import DayWindow
from metrics_pipeline.postgres.database import Database

#: The engine, and the version of what it computes: of the hashes, and of how values are read.
KIND: FingerprintKind = ("polars", 2)


class UnreadableLogsError(PermanentError):
    """Files hold logs that cannot be read."""


class LakeLogs:
    """A LogSource over the table that `url` names.

    columns, dimensions: METRICS_LOGS_COLUMNS and METRICS_DIMENSIONS. statuses: Settings.statuses.

    Raises ContractError if the table lacks what is read, PermanentError, and TransientError for a passing fault.
    """

    warnings: tuple[str, ...] = ()
    fingerprint_kinds: tuple[FingerprintKind, ...] = (KIND,)
    unlogged: Sequence[str] = ()

    def __init__(
        self,
        url: str,
        columns: Mapping[str, str],
        statuses: Mapping[str, str] | None = None,
        dimensions: Sequence[Dimension] = (),
    ) -> None:
        self.name = url
        self.dimensions = tuple(dimensions)
        self._columns = columns
        self._statuses = statuses or {}
        self._types_of_nulls = {columns.get(column, column): dtype for column, dtype in TYPES_OF_NULLS.items()}
        with self._state() as state:
            # Also of days without files.
            self._schema = state.schema()
            self._timestamp = checked_names(self._schema, columns, url, dimensions)["timestamp"]

    def read_day(self, snapshot: Connection, window: DayWindow, *, include_inactive_agents: bool) -> ExtractedDay:
        """See LogSource. The files are listed after the snapshot, so they are never older than it."""
        taken_at = snapshot.execute(text("SELECT now()")).scalar_one()
        agents = registered_agents(snapshot, include_inactive=include_inactive_agents)
        snapshot.rollback()
        found = self._partials(window)
        return ExtractedDay(
            agents, found.by_agent, found.exact_costs, taken_at, KIND, values=found.values, is_merged=True
        )

    def fingerprints(
        self, snapshot: Connection, windows: Sequence[DayWindow], kind: FingerprintKind
    ) -> dict[date, SourceFingerprint | Unreadable]:
        """See LogSource."""
        snapshot.rollback()
        found: dict[date, SourceFingerprint | Unreadable] = {}
        for window in windows:
            try:
                day = self._partials(window)
                total = merged_values(day.by_agent).fingerprint(day.exact_costs, kind)
                found[window.metric_date] = total.with_further(day.values.content if day.values else {})
            except UnreadableLogsError as error:
                found[window.metric_date] = Unreadable(str(error))
        return found

    def watch(self, database: Database, until: datetime) -> None:
        """See LogSource: nothing has to be told."""

    def marks(self, connection: Connection, windows: Sequence[DayWindow]) -> Mapping[date, Mark]:
        """See LogSource: the files that may hold the day's logs."""
        with self._state() as state:
            evidence = state.evidence(self._timestamp, windows)
        return {day: {JudgedBy.SNAPSHOT: files} for day, files in evidence.items()}

    def unchanged(
        self, connection: Connection, windows: Sequence[DayWindow], since: Mapping[date, Mark], now: Mapping[date, Mark]
    ) -> Mapping[date, JudgedBy]:
        """See LogSource."""
        return {day: JudgedBy.SNAPSHOT for day, mark in since.items() if mark == now.get(day)}

    def counts(self, snapshot: Connection, windows: Sequence[DayWindow]) -> Mapping[date, int]:
        """See LogSource."""
        found = {}
        for window in windows:
            with self._reading(window) as logs:
                found[window.metric_date] = _collected(logs.select(pl.len())).item()
        return found

    def logs_by_agent(self, snapshot: Connection, windows: Sequence[DayWindow]) -> list[AgentLogs]:
        """See LogSource."""
        found = []
        for window in windows:
            try:
                with self._reading(window) as logs:
                    sums, exact = agent_costs(logs)
            except UnreadableLogsError:
                continue
            for agent, executions, cost in sums.iter_rows():
                total, _, regular, _ = exact[agent] if cost is None else (cost, 0, fingerprint_cost(cost), 0)
                found.append(AgentLogs(window.metric_date, agent, executions, regular, total))
        return found

    def quality(
        self, snapshot: Connection, windows: Sequence[DayWindow], *, future_from: datetime, examples: int
    ) -> LogQuality:
        """See LogSource. Of the logs after `future_from`, those of two days."""
        looked, unreadable = LogsLookedAt(examples), {}
        for window in reversed(windows):
            try:
                with self._reading(window) as logs:
                    looked.look(logs, suspicions())
            except UnreadableLogsError as error:
                unreadable[window.metric_date] = Unreadable(str(error))
        logs_read = looked.logs
        future = DayWindow(
            future_from.date(), "UTC", future_from + timedelta(microseconds=1), future_from + timedelta(days=2)
        )
        try:
            with self._reading(future) as logs:
                looked.look(logs, {"in_the_future": (pl.col("timestamp").is_not_null(), "timestamp")})
        except UnreadableLogsError as error:
            unreadable[future.metric_date] = Unreadable(str(error))
        return LogQuality(logs_read, looked.suspicions(), unreadable)

    def first_log_at(self, snapshot: Connection) -> datetime | None:
        """See LogSource."""
        with self._state() as state:
            for logs in state.oldest():
                first: datetime | None = _collected(logs.select(pl.col(self._timestamp).min())).item()
                if first is not None:
                    return first.replace(tzinfo=first.tzinfo or UTC).astimezone(UTC)
        return None

    def _partials(self, window: DayWindow) -> DayPartials:
        with self._reading_parts(window) as (logs, parts):
            return day_partials(logs, parts, self.dimensions)

    @contextmanager
    def _state(self) -> Iterator[LakeState]:
        """The present state of the table. Faults within the block become TransientError or UnreadableLogsError."""
        try:
            yield lake_state(self.name, self._types_of_nulls)
        except PipelineError:
            raise
        except FAULTS_OF_STORAGE as error:
            raise TransientError(
                f"{self.name} could not be read: {_in_one_line(error)}. Check that it is reachable, that we may read "
                f"it, and that {tempfile.gettempdir()} has space."
            ) from error
        except (*FAULTS_OF_LOGS, ValueError) as error:
            raise UnreadableLogsError(_unreadable(self.name, error)) from error

    @contextmanager
    def _reading(self, window: DayWindow) -> Iterator[pl.LazyFrame]:
        """The log_frame() of the window. Raises TransientError at the end if its files changed meanwhile."""
        with self._reading_parts(window) as (logs, _):
            yield logs

    @contextmanager
    def _reading_parts(self, window: DayWindow) -> Iterator[tuple[pl.LazyFrame, Iterator[pl.LazyFrame]]]:
        """The same, and the log_frame() of each of its parts."""
        with self._state() as state:
            try:
                logs = state.scan(window)
                schema = logs.collect_schema()
                if not schema:
                    logs, schema = pl.LazyFrame(schema=self._schema), self._schema
                names = self._names(schema, window)
                at = pl.col(names["timestamp"])
                start, end = (_instant(moment, schema[names["timestamp"]]) for moment in (window.start, window.end))
                is_within = (at >= start) & (at < end)

                def frame(some: pl.LazyFrame) -> pl.LazyFrame:
                    return log_frame(some.filter(is_within), schema, names, self._statuses, self.dimensions)

                yield frame(logs), map(frame, state.parts(window, is_within))
            except FAULTS_OF_LOGS as error:
                read = {self._columns.get(column, column) for column in LAKE_COLUMNS}
                file = state.unreadable_file(window, read | {each.column for each in self.dimensions})
                raise UnreadableLogsError(_unreadable(self.name, error, file)) from error
            finally:
                # Before any other error: a file that was replaced while it was read may look damaged.
                state.require_unchanged(window)

    def _names(self, schema: pl.Schema, window: DayWindow) -> dict[str, str]:
        """See checked_names(). The columns of other days may be right."""
        try:
            return checked_names(schema, self._columns, self.name, self.dimensions)
        except ContractError as error:
            raise UnreadableLogsError(f"In the first file of {window.metric_date}, {error}") from error


def _in_one_line(error: Exception) -> str:
    """Without the colours of deltalake."""
    return " ".join(re.sub(r"\x1b\[\d+m", "", str(error)).split())


def _unreadable(where: str, error: Exception, file: str | None = None) -> str:
    # Polars appends options of its own, and the expression.
    what = re.split(r", (?:hint|consider)|\n", str(error))[0]
    if file is not None:
        return f"{file} cannot be read like the other files of its day: {what}. Have it written again, or move it away."
    return f"{where} cannot be read: {what}"


def _collected(frame: pl.LazyFrame) -> pl.DataFrame:
    return frame.collect(engine="streaming")


def _instant(moment: datetime, dtype: Any) -> pl.Expr:
    literal = pl.lit(moment.replace(tzinfo=None)).cast(pl.Datetime(dtype.time_unit))
    return literal.dt.replace_time_zone("UTC").dt.convert_time_zone(dtype.time_zone) if dtype.time_zone else literal
