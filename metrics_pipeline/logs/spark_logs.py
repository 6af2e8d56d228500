"""The source of logs in a table of Spark: Spark counts and adds on its machines, and Polars finishes here.

The registry of agents stays in the database that holds the metrics.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import TypeVar

import polars as pl
from sqlalchemy import Connection, text

from metrics_pipeline.errors import TransientError
from metrics_pipeline.logs.lake_columns import LAKE_COLUMNS, checked_names
from metrics_pipeline.logs.lake_costs import exact_costs, exact_costs_frame
from metrics_pipeline.logs.lake_logs import UnreadableLogsError
from metrics_pipeline.logs.postgres_logs import registered_agents
from metrics_pipeline.logs.source import ExtractedDay, LogQuality, Suspicion, SuspiciousLog
from metrics_pipeline.logs.spark_partials import SparkCounts, summed
from metrics_pipeline.logs.spark_session import Spark
from metrics_pipeline.logs.spark_sql import (
    AS_READ,
    BY_AGENT,
    CONTENTS,
    COSTS,
    COUNTS,
    NEWEST,
    SUMS,
    by_value,
    logs_of,
    quoted,
    suspicions,
    those_of,
)
from metrics_pipeline.metrics.calculator import agents_with_irregular_costs
from metrics_pipeline.metrics.catalog import FINGERPRINT_TOTALS
from metrics_pipeline.metrics.conservation import AgentLogs
from metrics_pipeline.metrics.costs import fingerprint_cost
from metrics_pipeline.metrics.dimensions import Dimension, fingerprint_names
from metrics_pipeline.metrics.fingerprint import FingerprintKind, SourceFingerprint
from metrics_pipeline.metrics.upstream import METADATA_KEYS
from metrics_pipeline.metrics.verification import JudgedBy, Mark, Unreadable
from metrics_pipeline.metrics.windows import DayWindow
from metrics_pipeline.postgres.database import Database

_T = TypeVar("_T")

#: The engine, and the version of what it computes: of the sums, and of the hash of a log.
KIND: FingerprintKind = ("spark", 2)

_TOTALS = [*FINGERPRINT_TOTALS.values()]


class SparkLogs:
    """A LogSource over a table, a view or files that Spark reads.

    url, table, columns, dimensions: METRICS_LOGS_URL, METRICS_LOGS_TABLE, METRICS_LOGS_COLUMNS, METRICS_DIMENSIONS.
    statuses: Settings.statuses. Raises ContractError if the table lacks what is read, and what Spark raises.
    """

    warnings: tuple[str, ...] = ()
    fingerprint_kinds: tuple[FingerprintKind, ...] = (KIND,)
    unlogged: Sequence[str] = ()

    def __init__(
        self,
        url: str,
        table: str,
        columns: Mapping[str, str],
        statuses: Mapping[str, str] | None = None,
        dimensions: Sequence[Dimension] = (),
    ) -> None:
        self._spark = Spark(url)
        self.name = f"{table} in {self._spark.name}"
        self.dimensions = tuple(dimensions)
        self._table = table
        self._statuses = statuses or {}
        read = {columns.get(name, name) for name in LAKE_COLUMNS}
        read |= {dimension.column for dimension in dimensions if not dimension.keys}
        self._schema = self._spark.schema(table, read)
        self._names = checked_names(self._schema, columns, self.name, dimensions, setting="METRICS_LOGS_TABLE")

    def read_day(self, snapshot: Connection, window: DayWindow, *, include_inactive_agents: bool) -> ExtractedDay:
        """See LogSource. Raises TransientError if the logs changed between the statements."""
        taken_at = snapshot.execute(text("SELECT now()")).scalar_one()
        agents = registered_agents(snapshot, include_inactive=include_inactive_agents)
        snapshot.rollback()
        try:
            logs = self._logs([window])
            sums, [content] = self._sums(logs), self._contents(logs, 1)
            exact = self._exact_costs(logs, sums).get(0, {})
            counts = SparkCounts(self._spark, logs, sums, {*METADATA_KEYS} - {*self._names})
            partials = counts.by_agent()
            values = counts.values(self.dimensions, content) if self.dimensions else None
            as_read = self._spark.frame(AS_READ.format(logs=logs)).sort("agent_id")
            is_unchanged = as_read.equals(sums.select(as_read.columns))
        except ValueError as error:
            raise UnreadableLogsError(f"{self.name} cannot be read: {error}") from error
        if not is_unchanged:
            raise TransientError(f"Logs of {window.metric_date} changed while they were read from {self.name}.")
        return ExtractedDay(agents, partials, exact_costs_frame(exact), taken_at, KIND, values=values, is_merged=True)

    def fingerprints(
        self, snapshot: Connection, windows: Sequence[DayWindow], kind: FingerprintKind
    ) -> dict[date, SourceFingerprint | Unreadable]:
        """See LogSource: of all days in one statement."""
        snapshot.rollback()
        parts, unreadable = self._by_part(windows, self._fingerprints)
        found = {day: each for part in parts for day, each in part.items()} | unreadable
        return {window.metric_date: found[window.metric_date] for window in windows}

    def watch(self, database: Database, until: datetime) -> None:
        """See LogSource: nothing has to be told."""

    def marks(self, connection: Connection, windows: Sequence[DayWindow]) -> Mapping[date, Mark]:
        """See LogSource: none, because Spark does not tell which logs of a table have changed."""
        return {}

    def unchanged(
        self, connection: Connection, windows: Sequence[DayWindow], since: Mapping[date, Mark], now: Mapping[date, Mark]
    ) -> Mapping[date, JudgedBy]:
        """See LogSource."""
        return {}

    def counts(self, snapshot: Connection, windows: Sequence[DayWindow]) -> Mapping[date, int]:
        """See LogSource."""
        counted = dict(self._spark.frame(COUNTS.format(logs=self._logs(windows))).iter_rows()) if windows else {}
        return {window.metric_date: counted.get(number, 0) for number, window in enumerate(windows)}

    def logs_by_agent(self, snapshot: Connection, windows: Sequence[DayWindow]) -> list[AgentLogs]:
        """See LogSource."""
        parts, _ = self._by_part(windows, self._logs_by_agent)
        return [each for part in parts for each in part]

    def quality(
        self, snapshot: Connection, windows: Sequence[DayWindow], *, future_from: datetime, examples: int
    ) -> LogQuality:
        """See LogSource. Of the logs after `future_from`, those of two days."""
        kinds = suspicions(self._statuses)
        parts, unreadable = self._by_part(windows, lambda some: self._suspicious(some, kinds, examples))
        start = future_from + timedelta(microseconds=1)
        future = DayWindow(future_from.date(), "UTC", start, start + timedelta(days=2))
        _, in_the_future = self._suspicious([future], {"in_the_future": ("true", "at")}, examples)
        found = {
            kind: Suspicion(
                sum(of_part[kind].logs for _, of_part in parts),
                [example for _, of_part in reversed(parts) for example in of_part[kind].examples][:examples],
            )
            for kind in kinds
        }
        return LogQuality(sum(logs for logs, _ in parts), found | in_the_future, unreadable)

    def first_log_at(self, snapshot: Connection) -> datetime | None:
        """See LogSource."""
        column = quoted(self._names["timestamp"])
        first: datetime | None = self._spark.frame(f"SELECT min({column}) FROM {self._table}").item()
        return first and first.replace(tzinfo=first.tzinfo or UTC).astimezone(UTC)

    def _logs(self, windows: Sequence[DayWindow]) -> str:
        self._spark.refresh(self._table)
        return logs_of(self._table, self._schema, self._names, self._statuses, windows, self.dimensions)

    def _by_part(
        self, windows: Sequence[DayWindow], read: Callable[[Sequence[DayWindow]], _T]
    ) -> tuple[list[_T], dict[date, Unreadable]]:
        """What `read` finds: of all days together, or if any cannot be read, of each of the others."""
        if not windows:
            return [], {}
        try:
            return [read(windows)], {}
        except (UnreadableLogsError, ValueError) as error:
            if len(windows) == 1:
                return [], {windows[0].metric_date: Unreadable(str(error))}
        parts = [self._by_part([window], read) for window in windows]
        return [one for found, _ in parts for one in found], {
            day: why for _, each in parts for day, why in each.items()
        }

    def _sums(self, logs: str) -> pl.DataFrame:
        """SUMS as summed() has them, by day and agent, sorted."""
        hashes = pl.col("hash_high").cast(pl.Int128) * 2**32 + pl.col("hash_low")
        sums = summed(self._spark.frame(SUMS.format(logs=logs)))
        return sums.with_columns(content_hash=hashes).sort("day", "agent_id")

    def _contents(self, logs: str, days: int) -> list[dict[str, int]]:
        """What the fingerprint of each day holds of the dimensions."""
        names = fingerprint_names(self.dimensions)
        contents = [dict.fromkeys(names, 0) for _ in range(days)]
        if names:
            counted = self._spark.frame(CONTENTS.format(logs=by_value(logs, len(names))))
            for day, dimension, high, low in counted.iter_rows():
                contents[day][names[dimension]] = high * 2**32 + low
        return contents

    def _exact_costs(self, logs: str, sums: pl.DataFrame) -> dict[int, dict[str | None, tuple[int, int, int, int]]]:
        """The numbers of EXACT_COSTS_SCHEMA by position of the day, if an agent has irregular costs."""
        irregular = agents_with_irregular_costs(sums)
        if not irregular:
            return {}
        statement = COSTS.format(logs=logs, keys=f"day, {BY_AGENT}", agents=those_of(irregular))
        counted = self._spark.frame(statement).partition_by("day", as_dict=True)
        return {day: exact_costs(of_day.drop("day")) for (day,), of_day in counted.items()}

    def _fingerprints(self, windows: Sequence[DayWindow]) -> dict[date, SourceFingerprint]:
        logs = self._logs(windows)
        sums, contents = self._sums(logs), self._contents(logs, len(windows))
        exact = self._exact_costs(logs, sums)
        by_day = sums.partition_by("day", as_dict=True)
        found = {}
        for number, window in enumerate(windows):
            rows = by_day.get((number,), sums.clear())
            irregular = rows.filter(pl.col("cost_nano_usd").is_null())["agent_id"]
            numbers = rows.select(pl.col(_TOTALS).cast(pl.Int128).sum()).row(0, named=True)
            cost = int(rows["cost_nano_usd"].sum()) + sum(exact[number][agent][2] for agent in irregular)
            found[window.metric_date] = SourceFingerprint.of(
                {name: numbers[column] for name, column in FINGERPRINT_TOTALS.items()}
                | {"cost_nano_usd": fingerprint_cost(cost)},
                KIND,
            ).with_further(contents[number])
        return found

    def _logs_by_agent(self, windows: Sequence[DayWindow]) -> list[AgentLogs]:
        logs = self._logs(windows)
        sums = self._sums(logs)
        exact = self._exact_costs(logs, sums)
        found = []
        for day, agent, executions, cost in sums.select(
            "day", "agent_id", "total_executions", "cost_nano_usd"
        ).iter_rows():
            total, _, regular, _ = exact[day][agent] if cost is None else (cost, 0, fingerprint_cost(cost), 0)
            found.append(AgentLogs(windows[day].metric_date, agent, executions, regular, total))
        return found

    def _suspicious(
        self, windows: Sequence[DayWindow], kinds: Mapping[str, tuple[str, str]], examples: int
    ) -> tuple[int, dict[str, Suspicion]]:
        """The number of logs, and the suspicious ones by kind."""
        logs = self._logs(windows)
        counted = ", ".join(f"count_if({condition}) AS {kind}" for kind, (condition, _) in kinds.items())
        [counts] = self._spark.frame(f"SELECT count(*) AS logs, {counted} FROM ({logs})").to_dicts()
        found = {}
        for kind, (condition, value) in kinds.items():
            newest = NEWEST.format(logs=logs, condition=condition, value=value, examples=examples)
            rows = self._spark.frame(newest).iter_rows() if counts[kind] else ()
            found[kind] = Suspicion(counts[kind], [SuspiciousLog(*row) for row in rows])
        return counts["logs"], found
