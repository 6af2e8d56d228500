"""The source of logs in a lake: Polars counts and adds, over files of Parquet, Delta Lake or Apache Iceberg.

The registry of agents stays in the database that holds the metrics.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from fractions import Fraction
from typing import Any

import polars as pl
from sqlalchemy import Connection, text

from metrics_pipeline.errors import PermanentError, PipelineError, TransientError
from metrics_pipeline.logs.lake_columns import (
    HAS_FAILED,
    IS_SUCCESSFUL,
    checked_names,
    decimal_cost,
    log_frame,
    stored_error_type,
    stored_user_id,
    suspicions,
)
from metrics_pipeline.logs.lake_digest import agent_digest, number_hash, text_hash
from metrics_pipeline.logs.lake_tables import FAULTS_OF_LOGS, FAULTS_OF_STORAGE, LakeState, lake_state
from metrics_pipeline.logs.postgres_logs import registered_agents
from metrics_pipeline.logs.source import ExtractedDay, LogQuality, Suspicion, SuspiciousLog
from metrics_pipeline.metrics.calculator import agents_with_irregular_costs, merge_partials
from metrics_pipeline.metrics.catalog import (
    EXACT_COSTS_SCHEMA,
    NANO_USD_PER_USD,
    PARTIALS_SCHEMA,
    UNKNOWN_ERROR_TYPE,
)
from metrics_pipeline.metrics.conservation import AgentLogs
from metrics_pipeline.metrics.costs import fingerprint_cost
from metrics_pipeline.metrics.fingerprint import FingerprintKind, SourceFingerprint
from metrics_pipeline.metrics.verification import JudgedBy, Mark, Unreadable
from metrics_pipeline.metrics.windows import DayWindow
from metrics_pipeline.postgres.database import Database

#: The engine, and the version of what it computes: of the digest, and of how values are read.
KIND: FingerprintKind = ("polars", 1)

# Logs whose users are grouped at once. A group of agent and user takes about 100 bytes.
_LOGS_PER_BUCKET = 4_000_000
# From here on EXACT_COSTS_SCHEMA holds NULL.
_LARGEST_INT128 = 17 * 10**37


class UnreadableLogsError(PermanentError):
    """Files hold logs that cannot be read."""


class LakeLogs:
    """A LogSource over the table that `url` names. columns: METRICS_LOGS_COLUMNS.

    Raises ContractError if the table lacks what is read, PermanentError, and TransientError for a passing fault.
    """

    warnings: tuple[str, ...] = ()
    fingerprint_kinds: tuple[FingerprintKind, ...] = (KIND,)

    def __init__(self, url: str, columns: Mapping[str, str], statuses: Mapping[str, str] | None = None) -> None:
        self.name = url
        self._columns = columns
        self._statuses = statuses or {}
        with self._state() as state:
            self._timestamp = checked_names(state.schema(), columns, url)["timestamp"]

    def read_day(self, snapshot: Connection, window: DayWindow, *, include_inactive_agents: bool) -> ExtractedDay:
        """See LogSource. The files are listed after the snapshot, so they are never older than it."""
        taken_at = snapshot.execute(text("SELECT now()")).scalar_one()
        agents = registered_agents(snapshot, include_inactive=include_inactive_agents)
        return ExtractedDay(agents, *self._partials(window), taken_at, KIND)

    def fingerprints(
        self, snapshot: Connection, windows: Sequence[DayWindow], kind: FingerprintKind
    ) -> dict[date, SourceFingerprint | Unreadable]:
        """See LogSource."""
        found: dict[date, SourceFingerprint | Unreadable] = {}
        for window in windows:
            try:
                partials, exact_costs = self._partials(window)
                found[window.metric_date] = merge_partials(partials).fingerprint(exact_costs, kind)
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
                    sums = _collected(_sums(logs))
                    exact = _exact_costs(logs, agents_with_irregular_costs(sums))
            except UnreadableLogsError:
                continue
            for agent, executions, cost in sums.select("agent_id", "total_executions", "cost_nano_usd").iter_rows():
                total, _, regular, _ = exact[agent] if cost is None else (cost, 0, fingerprint_cost(cost), 0)
                found.append(AgentLogs(window.metric_date, agent, executions, regular, total))
        return found

    def quality(
        self, snapshot: Connection, windows: Sequence[DayWindow], *, future_from: datetime, examples: int
    ) -> LogQuality:
        """See LogSource. Of the logs after `future_from`, those of two days."""
        logs_read, unreadable = 0, {}
        counts: dict[str, int] = defaultdict(int)
        shown: dict[str, list[SuspiciousLog]] = defaultdict(list)

        def look(window: DayWindow, kinds: Mapping[str, tuple[pl.Expr, str]]) -> int:
            with self._reading(window) as logs:
                found = _collected(
                    logs.select(pl.len(), *(condition.sum().alias(kind) for kind, (condition, _) in kinds.items()))
                )
                for kind, (condition, value) in kinds.items():
                    counts[kind] += found[kind].item()
                    if found[kind].item() and len(shown[kind]) < examples:
                        newest = logs.filter(condition).top_k(examples - len(shown[kind]), by="timestamp")
                        rows = newest.select(
                            "log_id",
                            "agent_id",
                            pl.col("timestamp").cast(pl.String),
                            pl.col(value).cast(pl.String).alias("value"),
                        )
                        shown[kind] += [SuspiciousLog(*row) for row in _collected(rows).iter_rows()]
            return int(found["len"].item())

        for window in reversed(windows):
            try:
                logs_read += look(window, suspicions())
            except UnreadableLogsError as error:
                unreadable[window.metric_date] = Unreadable(str(error))
        future = DayWindow(
            future_from.date(), "UTC", future_from + timedelta(microseconds=1), future_from + timedelta(days=2)
        )
        look(future, {"in_the_future": (pl.col("timestamp").is_not_null(), "timestamp")})
        kinds = [*suspicions(), "in_the_future"]
        return LogQuality(logs_read, {kind: Suspicion(counts[kind], shown[kind]) for kind in kinds}, unreadable)

    def first_log_at(self, snapshot: Connection) -> datetime | None:
        """See LogSource."""
        with self._state() as state:
            for logs in state.oldest():
                first: datetime | None = _collected(logs.select(pl.col(self._timestamp).min())).item()
                if first is not None:
                    return first.replace(tzinfo=first.tzinfo or UTC).astimezone(UTC)
        return None

    def _partials(self, window: DayWindow) -> tuple[pl.DataFrame, pl.DataFrame]:
        """PARTIALS_SCHEMA, a row for each agent, and EXACT_COSTS_SCHEMA."""
        with self._reading(window) as logs:
            sums = _collected(_sums(logs))
            exact = _exact_costs(logs, agents_with_irregular_costs(sums))
            lists = [_latencies(logs), _errors(logs), _users(logs, int(sums["total_executions"].sum()))]
        for each in lists:
            sums = sums.join(each, on="agent_id", how="left", nulls_equal=True)
        hashed = ("agent_id", "total_executions", "successful_executions", "failed_executions", "human_interventions",
                  "total_tokens", "cost_nano_usd", "error_counts", "latency_hash", "user_hash")  # fmt: skip
        digests = [
            agent_digest([*row.values(), exact[row["agent_id"]] if row["cost_nano_usd"] is None else ()])
            for row in sums.select(hashed).iter_rows(named=True)
        ]
        partials = sums.with_columns(
            pl.Series("content_hash", digests, dtype=pl.Int128), latencies_ms=pl.lit(None), error_types=pl.lit(None)
        ).select(pl.col(name).cast(dtype) for name, dtype in PARTIALS_SCHEMA.items())
        return partials, exact_costs_frame(exact)

    @contextmanager
    def _state(self) -> Iterator[LakeState]:
        """The present state of the table. Faults within the block become TransientError or UnreadableLogsError."""
        try:
            yield lake_state(self.name)
        except PipelineError:
            raise
        except FAULTS_OF_STORAGE as error:
            raise TransientError(f"{self.name} could not be read: {error}") from error
        except (*FAULTS_OF_LOGS, ValueError) as error:
            raise UnreadableLogsError(f"{self.name} cannot be read: {error}") from error

    @contextmanager
    def _reading(self, window: DayWindow) -> Iterator[pl.LazyFrame]:
        """The log_frame() of the window. Raises TransientError at the end if its files changed meanwhile."""
        with self._state() as state:
            logs = state.scan(window)
            schema = logs.collect_schema()
            names = checked_names(schema, self._columns, self.name)
            at = pl.col(names["timestamp"])
            start, end = (_instant(moment, schema[names["timestamp"]]) for moment in (window.start, window.end))
            try:
                yield log_frame(logs.filter(at >= start, at < end), schema, names, self._statuses)
            finally:
                # Before any other error: a file that was replaced while it was read may look damaged.
                state.require_unchanged(window)


def _collected(frame: pl.LazyFrame) -> pl.DataFrame:
    return frame.collect(engine="streaming")


def _instant(moment: datetime, dtype: Any) -> pl.Expr:
    literal = pl.lit(moment.replace(tzinfo=None)).cast(pl.Datetime(dtype.time_unit))
    return literal.dt.replace_time_zone("UTC").dt.convert_time_zone(dtype.time_zone) if dtype.time_zone else literal


def _sums(logs: pl.LazyFrame) -> pl.LazyFrame:
    """What only adds up, by agent."""
    cost = pl.col("cost_nano_usd").sum()
    return logs.group_by("agent_id").agg(
        pl.len().cast(pl.Int64).alias("total_executions"),
        IS_SUCCESSFUL.sum().cast(pl.Int64).alias("successful_executions"),
        HAS_FAILED.sum().cast(pl.Int64).alias("failed_executions"),
        pl.col("token_count").sum().alias("total_tokens"),
        pl.when(~pl.col("has_irregular_cost").any()).then(cost).alias("cost_nano_usd"),
    )


def _latencies(logs: pl.LazyFrame) -> pl.DataFrame:
    counted = (
        logs.drop_nulls("latency_ms")
        .group_by("agent_id", "latency_ms")
        .agg(pl.len().cast(pl.Int64).alias("executions"))
    )
    pairs = _collected(counted)
    return (
        pairs.with_columns(number_hash(pairs["latency_ms"]).alias("hash"))
        .group_by("agent_id")
        .agg(
            pl.struct("latency_ms", "executions").alias("latency_counts"),
            (pl.col("hash").cast(pl.Int128) * pl.col("executions")).sum().alias("latency_hash"),
        )
    )


def _errors(logs: pl.LazyFrame) -> pl.DataFrame:
    counted = (
        logs.filter(HAS_FAILED).group_by("agent_id", "error_type").agg(pl.len().cast(pl.Int64).alias("executions"))
    )
    error_type = stored_error_type(pl.col("error_type")).fill_null(UNKNOWN_ERROR_TYPE)
    return (
        _collected(counted)
        .group_by("agent_id", error_type.alias("error_type"))
        .agg(pl.col("executions").sum())
        .sort("error_type")
        .group_by("agent_id")
        .agg(pl.struct("error_type", "executions").alias("error_counts"))
    )


def _users(logs: pl.LazyFrame, number_of_logs: int) -> pl.DataFrame:
    """Grouped bucket by bucket of agents, so that the groups of a large day fit into memory."""
    buckets = max(1, -(-number_of_logs // _LOGS_PER_BUCKET))
    found = []
    for bucket in range(buckets):
        # Polars' own hash serves here: it only has to be the same within this run.
        of_bucket = logs.filter(pl.col("agent_id").hash() % buckets == bucket) if buckets > 1 else logs
        pairs = _collected(
            of_bucket.group_by("agent_id", "user_id").agg(pl.col("is_human_intervention").sum().cast(pl.Int64))
        ).with_columns(stored_user_id(pl.col("user_id")))
        found.append(
            pairs.with_columns(text_hash(pairs["user_id"]).alias("hash"))
            .group_by("agent_id")
            .agg(
                pl.col("is_human_intervention").sum().alias("human_interventions"),
                pl.col("user_id").drop_nulls().alias("user_ids"),
                pl.col("hash").cast(pl.Int128).sum().alias("user_hash"),
            )
        )
    return pl.concat(found)


def _exact_costs(logs: pl.LazyFrame, agents: Sequence[str | None]) -> dict[str | None, tuple[int, int, int, int]]:
    """The numbers of EXACT_COSTS_SCHEMA of these agents, and of the logs without an agent; none if there are none."""
    if not agents:
        return {}
    chosen = logs.filter(pl.col("agent_id").is_in(agents, nulls_equal=True) | pl.col("agent_id").is_null())
    return exact_costs(_collected(chosen.group_by("agent_id", "cost_usd").agg(pl.len())))


def exact_costs(counted: pl.DataFrame) -> dict[str | None, tuple[int, int, int, int]]:
    """The numbers of EXACT_COSTS_SCHEMA of each agent, as integers of any length. Raises ValueError.

    counted: agent_id, cost_usd (String), and the number of logs, in this order.
    """
    by_agent: dict[str | None, list[tuple[str | None, int]]] = defaultdict(list)
    for agent, cost, executions in counted.iter_rows():
        by_agent[agent].append((cost, executions))
    return {agent: _exact(costs) for agent, costs in by_agent.items()}


def exact_costs_frame(exact: Mapping[str | None, tuple[int, int, int, int]]) -> pl.DataFrame:
    """EXACT_COSTS_SCHEMA of the numbers that exact_costs() returns."""
    rows = [
        (agent, *(number if abs(number) < _LARGEST_INT128 else None for number in numbers))
        for agent, numbers in exact.items()
    ]
    return pl.DataFrame(rows, schema=EXACT_COSTS_SCHEMA, orient="row")


def _exact(costs: Sequence[tuple[str | None, int]]) -> tuple[int, int, int, int]:
    """Total, mean and regular total in nano-dollars, and the number of costs that are not finite."""
    decimals = [(decimal_cost(cost), executions) for cost, executions in costs if cost is not None]
    finite = [(Fraction(cost) * NANO_USD_PER_USD, executions) for cost, executions in decimals if cost.is_finite()]
    total = sum((cost * executions for cost, executions in finite), Fraction())
    regular = sum(int(cost) * executions for cost, executions in finite if cost.denominator == 1)
    return (
        _rounded(total),
        _rounded(total / sum(executions for _, executions in costs)),
        fingerprint_cost(regular),
        sum(executions for cost, executions in decimals if not cost.is_finite()),
    )


def _rounded(number: Fraction) -> int:
    """Half away from zero."""
    magnitude = (2 * abs(number.numerator) + number.denominator) // (2 * number.denominator)
    return magnitude if number >= 0 else -magnitude
