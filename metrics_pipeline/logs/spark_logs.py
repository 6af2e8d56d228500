"""The source of logs in a table of Spark: Spark counts and adds on its machines, and Polars finishes here.

The registry of agents stays in the database that holds the metrics.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import TypeVar

import polars as pl
from sqlalchemy import Connection, text

from metrics_pipeline.errors import TransientError
from metrics_pipeline.logs.lake_columns import checked_names, stored_error_type, stored_user_id
from metrics_pipeline.logs.lake_costs import exact_costs, exact_costs_frame
from metrics_pipeline.logs.lake_json import json_value
from metrics_pipeline.logs.lake_logs import UnreadableLogsError
from metrics_pipeline.logs.postgres_logs import registered_agents
from metrics_pipeline.logs.source import ExtractedDay, LogQuality, Suspicion, SuspiciousLog
from metrics_pipeline.logs.spark_session import Spark
from metrics_pipeline.logs.spark_sql import (
    COSTS,
    COUNTS,
    ERRORS,
    LATENCIES,
    NEWEST,
    SUMS,
    USERS,
    logs_of,
    suspicions,
    texts,
)
from metrics_pipeline.metrics.catalog import FINGERPRINT_TOTALS, PARTIALS_SCHEMA, UNKNOWN_ERROR_TYPE
from metrics_pipeline.metrics.conservation import AgentLogs
from metrics_pipeline.metrics.costs import fingerprint_cost
from metrics_pipeline.metrics.fingerprint import FingerprintKind, SourceFingerprint
from metrics_pipeline.metrics.upstream import FLAGS
from metrics_pipeline.metrics.verification import JudgedBy, Mark, Unreadable
from metrics_pipeline.metrics.windows import DayWindow
from metrics_pipeline.postgres.database import Database

_T = TypeVar("_T")

#: The engine, and the version of what it computes: of the sums, and of the hash of a log.
KIND: FingerprintKind = ("spark", 1)

# Of users and latencies that arrive at once. An agent's user takes about 100 bytes.
_LOGS_PER_BUCKET = 4_000_000
_TOTALS = [*FINGERPRINT_TOTALS.values()]


class SparkLogs:
    """A LogSource over a table, a view or files that Spark reads.

    url, table, columns: METRICS_LOGS_URL, METRICS_LOGS_TABLE, METRICS_LOGS_COLUMNS.
    Raises ContractError if the table lacks what is read, and what Spark raises.
    """

    warnings: tuple[str, ...] = ()
    fingerprint_kinds: tuple[FingerprintKind, ...] = (KIND,)

    def __init__(
        self, url: str, table: str, columns: Mapping[str, str], statuses: Mapping[str, str] | None = None
    ) -> None:
        self._spark = Spark(url)
        self.name = f"{table} in {self._spark.name}"
        self._table = table
        self._statuses = statuses or {}
        self._schema = self._spark.frame(f"SELECT * FROM {table} LIMIT 0").schema
        self._names = checked_names(self._schema, columns, self.name)

    def read_day(self, snapshot: Connection, window: DayWindow, *, include_inactive_agents: bool) -> ExtractedDay:
        """See LogSource. Raises TransientError if the logs changed between the statements."""
        taken_at = snapshot.execute(text("SELECT now()")).scalar_one()
        agents = registered_agents(snapshot, include_inactive=include_inactive_agents)
        try:
            logs = self._logs([window])
            sums = self._sums(logs)
            exact = self._exact_costs(logs, sums).get(0, {})
            partials = self._partials(logs, sums)
        except ValueError as error:
            raise UnreadableLogsError(f"{self.name} cannot be read: {error}") from error
        if not self._sums(logs).equals(sums):
            raise TransientError(f"Logs of {window.metric_date} changed while they were read from {self.name}.")
        return ExtractedDay(agents, partials, exact_costs_frame(exact), taken_at, KIND)

    def fingerprints(
        self, snapshot: Connection, windows: Sequence[DayWindow], kind: FingerprintKind
    ) -> dict[date, SourceFingerprint | Unreadable]:
        """See LogSource: of all days in one statement."""
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
        column = self._names["timestamp"].replace("`", "``")
        first: datetime | None = self._spark.frame(f"SELECT min(`{column}`) FROM {self._table}").item()
        return first and first.replace(tzinfo=first.tzinfo or UTC).astimezone(UTC)

    def _logs(self, windows: Sequence[DayWindow]) -> str:
        self._spark.refresh(self._table)
        return logs_of(self._table, self._schema, self._names, self._statuses, windows)

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
        """What only adds up, by day and agent, sorted: also cost_nano_usd and content_hash of PARTIALS_SCHEMA."""
        cost = pl.col("regular_usd").cast(pl.Decimal(38, 9)).to_physical().cast(pl.Int128)
        return (
            self._spark.frame(SUMS.format(logs=logs))
            .with_columns(
                cost_nano_usd=pl.when(pl.col("irregular_costs") == 0).then(cost),
                content_hash=pl.col("hash_high").cast(pl.Int128) * 2**32 + pl.col("hash_low"),
            )
            .sort("day", "agent_id")
        )

    def _exact_costs(self, logs: str, sums: pl.DataFrame) -> dict[int, dict[str | None, tuple[int, int, int, int]]]:
        """The numbers of EXACT_COSTS_SCHEMA by position of the day, if an agent has irregular costs."""
        irregular = sums.filter(pl.col("cost_nano_usd").is_null())["agent_id"].unique()
        if irregular.is_empty():
            return {}
        counted = self._spark.frame(COSTS.format(logs=logs, agents=texts(irregular.drop_nulls().to_list()) or "NULL"))
        return {
            day: exact_costs(of_day.drop("day")) for (day,), of_day in counted.partition_by("day", as_dict=True).items()
        }

    def _partials(self, logs: str, sums: pl.DataFrame) -> pl.DataFrame:
        """PARTIALS_SCHEMA, a row for each agent."""
        buckets = max(1, -(-int(sums["total_executions"].sum()) // _LOGS_PER_BUCKET))
        users = (self._users(part) for part in self._spark.buckets(USERS.format(logs=logs), buckets))
        latencies = (_latencies(part) for part in self._spark.buckets(LATENCIES.format(logs=logs), buckets))
        for found in (pl.concat(users), pl.concat(latencies), _errors(self._spark.frame(ERRORS.format(logs=logs)))):
            sums = sums.join(found, on="agent_id", how="left", nulls_equal=True)
        return sums.with_columns(
            pl.col(*FLAGS.values()).fill_null(0), latencies_ms=pl.lit(None), error_types=pl.lit(None)
        ).select(pl.col(name).cast(dtype) for name, dtype in PARTIALS_SCHEMA.items())

    def _users(self, pairs: pl.DataFrame) -> pl.DataFrame:
        """The counts of FLAGS and user_ids by agent, of the rows of USERS. Doubtful metadata is read here."""
        doubtful = pairs["doubtful"].drop_nulls().unique().to_list()
        user_id, counts = pl.col("user_id"), {name: pl.col(name) for name in FLAGS.values()}
        is_doubtful = pl.col("doubtful").is_not_null()
        if "user_id" not in self._names:
            users = pl.col("doubtful").replace_strict(
                doubtful, [json_value(each, "user_id") for each in doubtful], return_dtype=pl.String
            )
            user_id = pl.when(is_doubtful).then(users).otherwise(user_id)
        for key in FLAGS.keys() - self._names.keys():
            flagged = [each for each in doubtful if json_value(each, key) == "true"]
            counted = pl.when(pl.col("doubtful").is_in(flagged)).then("executions").otherwise(0)
            counts[FLAGS[key]] = pl.when(is_doubtful).then(counted).otherwise(FLAGS[key])
        return pairs.group_by("agent_id").agg(
            *(count.sum().alias(name) for name, count in counts.items()),
            stored_user_id(user_id).drop_nulls().unique().alias("user_ids"),
        )

    def _fingerprints(self, windows: Sequence[DayWindow]) -> dict[date, SourceFingerprint]:
        logs = self._logs(windows)
        sums = self._sums(logs)
        exact = self._exact_costs(logs, sums)
        by_day = sums.partition_by("day", as_dict=True)
        found = {}
        for number, window in enumerate(windows):
            rows = by_day.get((number,), sums.clear())
            irregular = rows.filter(pl.col("cost_nano_usd").is_null())["agent_id"]
            totals = rows.select(pl.col(_TOTALS).cast(pl.Int128).sum()).row(0)
            cost = int(rows["cost_nano_usd"].sum()) + sum(exact[number][agent][2] for agent in irregular)
            numbers = dict(zip(_TOTALS, totals, strict=True))
            found[window.metric_date] = SourceFingerprint.of(
                {name: numbers[column] for name, column in FINGERPRINT_TOTALS.items()}
                | {"cost_nano_usd": fingerprint_cost(cost)},
                KIND,
            )
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


def _latencies(pairs: pl.DataFrame) -> pl.DataFrame:
    return pairs.group_by("agent_id").agg(pl.struct("latency_ms", "executions").alias("latency_counts"))


def _errors(counted: pl.DataFrame) -> pl.DataFrame:
    # Zero bytes are replaced before equal types are merged.
    error_type = stored_error_type(pl.col("error_type").str.replace_all("\0", "\ufffd", literal=True))
    return (
        counted.group_by("agent_id", error_type.fill_null(UNKNOWN_ERROR_TYPE).alias("error_type"))
        .agg(pl.col("executions").sum())
        .group_by("agent_id")
        .agg(pl.struct("error_type", "executions").alias("error_counts"))
    )
