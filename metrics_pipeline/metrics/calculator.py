"""From the logs of a day to each agent's metrics: Polars expressions only, exact in every column.

The logs pass once, as a stream. What stays in memory are sums per agent, one whole number per log for its agent and
latency, the distinct (agent, user) pairs, and the counts per error type; never whole rows.
"""

from dataclasses import dataclass
from datetime import date
from decimal import Decimal

import polars as pl

from metrics_pipeline.errors import InvariantError
from metrics_pipeline.metrics.fingerprint import SourceFingerprint
from metrics_pipeline.metrics.schema import (
    ERROR_COUNT,
    METRICS_SCHEMA,
    UNKNOWN_ERROR_TYPE,
)

_AGENT = pl.col("agent_id")
_MILLIONTH = Decimal("0.000001")
_NANO = Decimal("0.000000001")
#: Each cost and the column of EXACT_COSTS_SCHEMA that replaces it.
_EXACT_COSTS = {"total_cost_usd": "total_cost_nano_usd", "avg_cost_per_execution": "avg_cost_nano_usd"}
# Makes a latency of 32 bits a number that is not negative.
_LATENCY_OFFSET = 2**31
_NUMBER_OF_PAIR = pl.col("pair") % 2**32
_PERCENTILES = {"p50_latency_ms": 0.50, "p95_latency_ms": 0.95, "p99_latency_ms": 0.99}


@dataclass(frozen=True)
class LogAggregates:
    """One pass over the logs of a day, of all agents whatever their status in the registry.

    sums: one row per agent_id with counts and sums. latencies: agent_id, latency_ms of every log that has both, sorted,
    each agent's together. users: the distinct (agent_id, user_id). errors: agent_id, error_type, executions. agent_id
    is a String but in latencies and users, where it has the type it had in the logs.
    """

    sums: pl.DataFrame
    latencies: pl.DataFrame
    users: pl.DataFrame
    errors: pl.DataFrame

    @property
    def agents_with_irregular_costs(self) -> list[str]:
        """The agents with costs finer than a nano-dollar or of 10^19 USD and more, which the sums do not hold.

        They need `exact_costs`.
        """
        return self.sums.filter(pl.col("irregular_costs") > 0)["agent_id"].sort().to_list()

    @property
    def fingerprint(self) -> SourceFingerprint:
        """The totals over all agents."""
        total = self.sums.select(pl.exclude("agent_id").cast(pl.Int128).sum()).row(0, named=True)
        return SourceFingerprint(
            logs=total["total_executions"],
            successful=total["successful_executions"],
            failed=total["failed_executions"],
            latency_ms=total["latency_ms"],
            tokens=total["total_tokens"],
            cost_nano_usd=total["cost_nano_usd"],
            content_hash=total["content_hash"],
        )


@dataclass(frozen=True)
class DayMetrics:
    """The result of one day.

    metrics: one row per agent in scope, METRICS_SCHEMA, sorted by agent_id.
    skipped: agent_id, logs of the agents that have logs but are not in scope, most logs first.
    not_finite_costs: how many aggregated logs had a cost that is no number; they count as NULL.
    """

    metrics: pl.DataFrame
    skipped: pl.DataFrame
    not_finite_costs: int
    fingerprint: SourceFingerprint

    @property
    def aggregated_logs(self) -> int:
        """Logs that are counted in some agent's metrics."""
        return int(self.metrics["total_executions"].sum())

    @property
    def skipped_logs(self) -> int:
        """Logs of agents that are not in scope."""
        return int(self.skipped["logs"].sum())


def aggregate_logs(logs: pl.LazyFrame) -> LogAggregates:
    """Reads `logs` (logs_schema()) once on Polars' streaming engine and keeps what the metrics need."""
    schema = logs.collect_schema()
    # Without the cache node each of the four would read the source again. On the streaming engine it is a splitter
    # that hands every batch to all four, not a store of the rows.
    logs = logs.cache()
    sums, latencies, users, errors = pl.collect_all(
        [_sums(logs), _latencies(logs), _users(logs), _error_counts(logs)], engine="streaming"
    )
    return LogAggregates(
        sums,
        # A million pairs are sorted in 14 ms. Counting the equal ones in groups took 32 ms, and their percentiles 73.
        latencies.sort("pair").select(
            _agent_of_pair(schema), (_NUMBER_OF_PAIR - _LATENCY_OFFSET).cast(pl.Int32).alias("latency_ms")
        ),
        users.select(
            _agent_of_pair(schema), _NUMBER_OF_PAIR.cast(pl.UInt32).cat.to(schema["user_id"]).alias("user_id")
        ),
        errors,
    )


def daily_metrics(
    aggregates: LogAggregates, agents: pl.Series, metric_date: date, exact_costs: pl.DataFrame
) -> DayMetrics:
    """The metrics of every agent in `agents` (String, distinct), also of those without logs.

    `exact_costs` (EXACT_COSTS_SCHEMA) replaces the sums of the agents with irregular costs.
    Raises InvariantError for a total cost of 10^11 USD or more, which numeric(20,9) cannot hold.
    """
    scope = pl.DataFrame({"agent_id": agents}, schema={"agent_id": pl.String}).lazy()
    sums = aggregates.sums.lazy()
    metrics = (
        scope.join(sums, on="agent_id", how="left")
        .join(latency_percentiles(aggregates.latencies).lazy(), on="agent_id", how="left")
        .join(_user_counts(aggregates.users.lazy()), on="agent_id", how="left")
        .join(_error_distributions(aggregates.errors.lazy()), on="agent_id", how="left")
        .join(exact_costs.lazy(), on="agent_id", how="left")
        .with_columns(pl.lit(metric_date).alias("metric_date"), *_cost_columns())
        .with_columns(_success_rate(), _avg_latency_ms())
        .with_columns(pl.col("error_distribution").fill_null(pl.lit([], dtype=pl.List(ERROR_COUNT))))
        .with_columns(pl.col(pl.Int64, pl.UInt32).fill_null(0))
        # A cost that cannot be stored becomes NULL, and is refused below.
        .select(pl.col(name).cast(dtype, strict=name not in _EXACT_COSTS) for name, dtype in METRICS_SCHEMA.items())
        .sort("agent_id")
    )
    skipped = (
        sums.join(scope, on="agent_id", how="anti")
        .select("agent_id", logs="total_executions")
        .sort("logs", "agent_id", descending=[True, False])
    )
    not_finite = sums.join(scope, on="agent_id", how="semi").select(pl.col("not_finite_costs").sum())
    metrics_frame, skipped_frame, not_finite_frame = pl.collect_all([metrics, skipped, not_finite])
    too_dear = metrics_frame.filter(pl.col("total_cost_usd").is_null())["agent_id"]
    if not too_dear.is_empty():
        raise InvariantError(
            f"The costs of {metric_date} add up to 10^11 USD or more, which numeric(20,9) cannot hold, so nothing was "
            f"written. Correct cost_usd in agent_execution_logs; agents: {', '.join(map(repr, too_dear))}."
        )
    return DayMetrics(metrics_frame, skipped_frame, not_finite_frame.item(), aggregates.fingerprint)


def latency_percentiles(latencies: pl.DataFrame) -> pl.DataFrame:
    """Columns agent_id, p50_latency_ms, p95_latency_ms, p99_latency_ms (Int64) of LogAggregates.latencies.

    PostgreSQL's percentile_cont(q)::int, operation by operation in double precision: position = q * (n - 1),
    value = low + (position - floor(position)) * (high - low), rounded half to even
    (src/backend/utils/adt/orderedsetaggs.c, float8_lerp).
    """
    agents = latencies.select(pl.col("agent_id").rle()).unnest("agent_id").rename({"value": "agent_id"})
    first = pl.col("len").cum_sum() - pl.col("len")

    def latency_at(position: pl.Expr) -> pl.Expr:
        """The latency at a whole position among those of an agent, counted from 0."""
        return pl.lit(latencies["latency_ms"]).gather(first + position.cast(pl.UInt32)).cast(pl.Float64)

    def percentile(q: float) -> pl.Expr:
        position = q * (pl.col("len") - 1)
        low, high = latency_at(position.floor()), latency_at(position.ceil())
        return (low + (position - position.floor()) * (high - low)).round(0, mode="half_to_even").cast(pl.Int64)

    return agents.select(_AGENT.cast(pl.String), *(percentile(q).alias(name) for name, q in _PERCENTILES.items()))


def _sums(logs: pl.LazyFrame) -> pl.LazyFrame:
    # Polars sums an Int32 column in Int32: widen before summing. Costs are Int128 already.
    return (
        logs.group_by("agent_id")
        .agg(
            pl.len().cast(pl.Int64).alias("total_executions"),
            pl.col("is_successful").sum().cast(pl.Int64).alias("successful_executions"),
            pl.col("is_failed").sum().cast(pl.Int64).alias("failed_executions"),
            pl.col("latency_ms").cast(pl.Int64).sum(),
            pl.col("latency_ms").count().cast(pl.Int64).alias("latencies"),
            pl.col("token_count").cast(pl.Int64).sum().alias("total_tokens"),
            pl.col("cost_nano_usd").sum(),
            pl.col("is_cost_irregular").sum().cast(pl.Int64).alias("irregular_costs"),
            pl.col("is_cost_not_finite").sum().cast(pl.Int64).alias("not_finite_costs"),
            pl.col("human_intervention").sum().cast(pl.Int64).alias("human_interventions"),
            pl.col("content_hash").cast(pl.Int128).sum(),
        )
        .with_columns(_AGENT.cast(pl.String))
    )


def _pairs(logs: pl.LazyFrame, number: pl.Expr) -> pl.LazyFrame:
    """The agent's category and a number of 32 bits as one whole number, which sorts as both do; only where both are."""
    return logs.select(pair=_AGENT.to_physical().cast(pl.Int64) * 2**32 + number).filter(pl.col("pair").is_not_null())


def _agent_of_pair(schema: pl.Schema) -> pl.Expr:
    return (pl.col("pair") // 2**32).cast(pl.UInt32).cat.to(schema["agent_id"]).alias("agent_id")


def _latencies(logs: pl.LazyFrame) -> pl.LazyFrame:
    return _pairs(logs, pl.col("latency_ms").cast(pl.Int64) + _LATENCY_OFFSET)


def _users(logs: pl.LazyFrame) -> pl.LazyFrame:
    return _pairs(logs, pl.col("user_id").to_physical()).unique()


def _user_counts(users: pl.LazyFrame) -> pl.LazyFrame:
    return (
        users.group_by("agent_id")
        .agg(pl.len().cast(pl.Int64).alias("unique_users"))
        .with_columns(_AGENT.cast(pl.String))
    )


def _error_counts(logs: pl.LazyFrame) -> pl.LazyFrame:
    # NULL and the text 'unknown' are one error type, so they are made one before they are counted.
    return (
        logs.filter("is_failed")
        .with_columns(pl.col("error_type").cast(pl.String).fill_null(UNKNOWN_ERROR_TYPE))
        .group_by("agent_id", "error_type")
        .agg(pl.len().cast(pl.Int64).alias("executions"))
        .with_columns(_AGENT.cast(pl.String))
    )


def _error_distributions(errors: pl.LazyFrame) -> pl.LazyFrame:
    return (
        errors.sort("agent_id", "error_type")
        .group_by("agent_id")
        .agg(pl.struct("error_type", "executions").alias("error_distribution"))
    )


def _success_rate() -> pl.Expr:
    millionths = rounded_quotient(pl.col("successful_executions") * 1_000_000, pl.col("total_executions"))
    return _decimal(millionths.fill_null(1_000_000), _MILLIONTH).alias("success_rate")


def _avg_latency_ms() -> pl.Expr:
    # NULL where an agent has logs but no latency: the quotient of 0 by 0.
    has_latency = pl.col("latencies") > 0
    return (
        pl.when(has_latency).then(rounded_quotient(pl.col("latency_ms"), pl.col("latencies"))).alias("avg_latency_ms")
    )


def _cost_columns() -> list[pl.Expr]:
    average = rounded_quotient(pl.col("cost_nano_usd"), pl.col("total_executions"))
    regular = {"total_cost_usd": pl.col("cost_nano_usd"), "avg_cost_per_execution": average}
    return [
        # Not a coalesce: an exact cost is NULL when it is too large, and the regular one would then be wrong.
        _decimal(pl.when(pl.col("irregular_costs") > 0).then(exact).otherwise(regular[name].fill_null(0)), _NANO).alias(
            name
        )
        for name, exact in _EXACT_COSTS.items()
    ]


def rounded_quotient(numerator: pl.Expr, denominator: pl.Expr) -> pl.Expr:
    """Numerator / denominator in whole numbers, rounded half away from zero; the denominator is positive."""
    magnitude = (2 * numerator.abs() + denominator) // (2 * denominator)
    # Polars 2.1 has no unary minus for Int128.
    return pl.when(numerator < 0).then(0 - magnitude).otherwise(magnitude)


def _decimal(scaled: pl.Expr, unit: Decimal) -> pl.Expr:
    """A whole number of units as a decimal number, with the unit's places."""
    return scaled.cast(pl.Decimal(38, 0), strict=False) * pl.lit(unit)
