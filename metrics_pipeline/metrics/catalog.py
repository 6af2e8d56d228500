"""Each metric declared once: types, meaning, inputs, formula, rules, and how it combines over several days.

DDL, the publishing statement, lineage, validation, the API's models, period totals and the documentation derive from
these declarations. The partial aggregates that formulas read are declared here too; logs/log_columns.py has their SQL.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from enum import Enum
from typing import Any

import polars as pl

from metrics_pipeline.metrics.expressions import (
    LATENCY_COUNT,
    decimal,
    rounded_quotient,
    weighted_percentile,
)
from metrics_pipeline.metrics.upstream import FLAGS
from metrics_pipeline.names import DIMENSIONS_TABLE, METRICS_TABLE

#: Money is kept as a whole number of nano-dollars until it is stored, so that no float is involved.
NANO_USD_PER_USD = 1_000_000_000

SUCCESS_STATUS = "success"
FAILED_STATUS = "failed"
UNKNOWN_ERROR_TYPE = "unknown"

#: The value_kind of the row that merges all values of a dimension but the largest.
OTHER_VALUES = "other"

#: Changes whenever the same logs would yield another number. The ledger stores it with each day.
DEFINITION_VERSION = "1"

#: One entry of an error distribution; in PostgreSQL the list becomes a JSON object {error_type: count}.
ERROR_COUNT = pl.Struct({"error_type": pl.String, "executions": pl.Int64})

#: The partial aggregates that a source of logs delivers: a row per agent and part of the day. They are merged by
#: addition and union. The cost is NULL if costs are irregular (see EXACT_COSTS_SCHEMA). Latencies and error types are
#: either pairs with their number of executions, or bare values in any order, which count as one execution each; the
#: other list is NULL or empty. Error types are those of failed logs. User ids are distinct within a part; an id of 64
#: bytes or more of UTF-8 is replaced by its SHA-256 in hexadecimal digits; the ids may be categories. content_hash is
#: the sum over the logs of a hash of every value that a metric depends on.
PARTIALS_SCHEMA = pl.Schema(
    {
        "agent_id": pl.String(),
        "total_executions": pl.Int64(),
        "successful_executions": pl.Int64(),
        "failed_executions": pl.Int64(),
        **dict.fromkeys(FLAGS.values(), pl.Int64()),
        "total_tokens": pl.Int64(),
        "cost_nano_usd": pl.Int128(),
        "content_hash": pl.Int128(),
        "latencies_ms": pl.List(pl.Int32()),
        "latency_counts": pl.List(LATENCY_COUNT),
        "user_ids": pl.List(pl.String()),
        "error_types": pl.List(pl.String()),
        "error_counts": pl.List(ERROR_COUNT),
    }
)

#: The partial aggregates that a fingerprint holds, by their names in it. Inputs of later metrics are added to
#: FURTHER_FINGERPRINT, each as its own column of PARTIALS_SCHEMA, because content_hash must not change.
FINGERPRINT_TOTALS = {
    "logs": "total_executions",
    "successful": "successful_executions",
    "failed": "failed_executions",
    "latency_ms": "latency_ms",
    "tokens": "total_tokens",
    "content_hash": "content_hash",
}
FURTHER_FINGERPRINT: tuple[str, ...] = ()

#: A row per agent with irregular costs: a cost is finer than a nano-dollar or not finite, or one part of a day adds up
#: to 10^19 USD or more. Total and mean are exact, rounded half away from zero, and NULL from 1.7 * 10^29 USD on.
#: regular_cost_nano_usd is the fingerprint_cost() of the sum of the costs that are whole nano-dollars.
EXACT_COSTS_SCHEMA = pl.Schema(
    {
        "agent_id": pl.String(),
        "total_cost_nano_usd": pl.Int128(),
        "avg_cost_nano_usd": pl.Int128(),
        "regular_cost_nano_usd": pl.Int128(),
        "not_finite_costs": pl.Int64(),
    }
)


class OverDays(Enum):
    """How a metric combines over several days."""

    SUM = "the sum of the days"
    SUM_BY_KEY = "the sum of the days for each key"
    QUOTIENT = "the quotient of sums"
    DISTRIBUTION = "needs the days' distributions"


@dataclass(frozen=True)
class Column:
    """A column of a table of metrics, in Polars and in PostgreSQL, with an example value."""

    name: str
    dtype: pl.DataType
    sql_type: str
    meaning: str
    example: Any


@dataclass(frozen=True)
class Metric(Column):
    """A metric.

    inputs: the columns of agent_execution_logs that it depends on, besides agent_id and timestamp.
    formula: over an agent's merged partial aggregates, with its exact costs if it has irregular ones.
    over_days: how it combines over several days.
    without_logs: the value of an agent without logs.
    rules: conditions that every row must meet, by the words for a row that does not.
    """

    inputs: tuple[str, ...]
    formula: pl.Expr
    over_days: OverDays
    without_logs: Any = 0
    rules: Mapping[str, pl.Expr] = field(default_factory=dict)


@dataclass(frozen=True)
class Grain:
    """What one row of metrics describes: its tables and its key columns, which include agent_id and metric_date.

    distributions: the table with the distribution of each row, under the same key. further: columns that only this
    grain has. may_lose_rows: whether a row goes when the day is stored again without it; an agent's day never goes.
    """

    table: str
    distributions: str
    keys: tuple[Column, ...]
    further: tuple[Column, ...] = ()
    may_lose_rows: bool = False

    @property
    def key_names(self) -> tuple[str, ...]:
        """The names of the key columns, in order."""
        return tuple(key.name for key in self.keys)

    @property
    def day_keys(self) -> tuple[str, ...]:
        """The key columns that tell the rows of one day apart. They are text."""
        return tuple(name for name in self.key_names if name != "metric_date")

    @property
    def values(self) -> tuple[Column, ...]:
        """The columns that are not part of the key."""
        return (*METRICS, *self.further)

    @property
    def columns(self) -> tuple[Column, ...]:
        """The columns of the key, then those of all metrics, then those of this grain only."""
        return (*self.keys, *self.values)

    @property
    def schema(self) -> pl.Schema:
        """The schema of a frame of a day's rows."""
        return pl.Schema({column.name: column.dtype for column in self.columns})


def _total(name: str, meaning: str, example: int, *inputs: str, **more: Any) -> Metric:
    return Metric(name, pl.Int64(), "bigint", meaning, example, inputs, pl.col(name), OverDays.SUM, **more)


def _latency(name: str, meaning: str, example: int, formula: pl.Expr, **more: Any) -> Metric:
    inputs = ("latency_ms",)
    return Metric(name, pl.Int64(), "bigint", meaning, example, inputs, formula, OverDays.DISTRIBUTION, **more)


def _usd(name: str, meaning: str, example: float, over_days: OverDays, regular: pl.Expr, exact: str) -> Metric:
    # Not a coalesce: an exact cost is NULL when it is too large, and the regular one would then be wrong.
    cost = decimal(pl.when("has_irregular_costs").then(exact).otherwise(regular), Decimal("0.000000001"))
    return Metric(name, pl.Decimal(20, 9), "numeric(20,9)", meaning, example, ("cost_usd",), cost, over_days)


def _quantile(q: float) -> pl.Expr:
    return weighted_percentile(pl.col("latency_counts"), q).fill_null(0)


_TOTAL, _SUCCESSFUL, _FAILED = map(pl.col, ("total_executions", "successful_executions", "failed_executions"))
_COST = pl.col("cost_nano_usd")
_MEAN_LATENCY = rounded_quotient(pl.col("latency_ms"), pl.col("latencies"))
_ERRORS = pl.col("error_distribution").list.eval(pl.element().struct.field("executions")).list.sum()

METRICS = (
    _total("total_executions", "All logs of the day, whatever their status.", 100),
    _total(
        "successful_executions",
        "Logs with status 'success'.",
        98,
        "status",
        rules={"successful and failed executions exceed the total": _SUCCESSFUL + _FAILED <= _TOTAL},
    ),
    _total("failed_executions", "Logs with status 'failed'.", 1, "status"),
    Metric(
        "success_rate",
        pl.Decimal(7, 6),
        "numeric(7,6)",
        "successful / total, rounded half away from zero to 6 places; 1 for a day without logs.",
        0.98,
        ("status",),
        decimal(rounded_quotient(_SUCCESSFUL * 1_000_000, _TOTAL), Decimal("0.000001")),
        OverDays.QUOTIENT,
        without_logs=1,
        rules={"success_rate is not between 0 and 1": pl.col("success_rate").is_between(0, 1)},
    ),
    _latency(
        "avg_latency_ms",
        "Exact mean latency in milliseconds, rounded half away from zero; 0 without latencies.",
        840,
        pl.when(pl.col("latencies") > 0).then(_MEAN_LATENCY).otherwise(0),
    ),
    _latency(
        "p50_latency_ms",
        "Median latency in milliseconds: linear interpolation in double precision, rounded half to even.",
        610,
        _quantile(0.50),
        rules={
            "the percentiles are not in order": (pl.col("p50_latency_ms") <= pl.col("p95_latency_ms"))
            & (pl.col("p95_latency_ms") <= pl.col("p99_latency_ms"))
        },
    ),
    _latency("p95_latency_ms", "95th percentile of latency, as p50_latency_ms.", 2310, _quantile(0.95)),
    _latency("p99_latency_ms", "99th percentile of latency, as p50_latency_ms.", 4102, _quantile(0.99)),
    _total("total_tokens", "Sum of token_count; NULL counts as 0.", 128400, "token_count"),
    _usd(
        "total_cost_usd",
        "Exact sum of cost_usd; NULL and NaN count as 0.",
        1.25,
        OverDays.SUM,
        _COST,
        "total_cost_nano_usd",
    ),
    _usd(
        "avg_cost_per_execution",
        "total cost / total executions in USD, the exact quotient rounded half away from zero to 9 places.",
        0.0125,
        OverDays.QUOTIENT,
        rounded_quotient(_COST, _TOTAL),
        "avg_cost_nano_usd",
    ),
    Metric(
        "error_distribution",
        pl.List(ERROR_COUNT),
        "jsonb",
        "Failed logs by error_type, as {error_type: count}; NULL counts under 'unknown'.",
        {"timeout": 1},
        ("status", "error_type"),
        pl.col("error_counts"),
        OverDays.SUM_BY_KEY,
        without_logs=[],
        rules={"the error distribution does not sum to failed_executions": _FAILED == _ERRORS},
    ),
    _total(
        "human_interventions",
        "Logs whose metadata says human_intervention = true.",
        2,
        "metadata",
        rules={
            "more unique users or human interventions than executions": (
                pl.max_horizontal("unique_users", "human_interventions") <= _TOTAL
            )
        },
    ),
    Metric(
        "unique_users",
        pl.Int64(),
        "bigint",
        "Distinct non-NULL user_id values in metadata.",
        37,
        ("metadata",),
        pl.col("unique_users"),
        OverDays.DISTRIBUTION,
    ),
)

_AGENT_AND_DAY = (
    Column("agent_id", pl.String(), "text", "The agent, as agent_registry.id spells it.", "support-triage"),
    Column("metric_date", pl.Date(), "date", "The calendar day in the pipeline's time zone.", "2025-07-11"),
)

#: One row per agent and day.
AGENT_DAY = Grain(METRICS_TABLE, "agent_day_distributions", _AGENT_AND_DAY)

#: One row per agent, day and value of a dimension; see metrics/dimensions.py.
AGENT_DIMENSION_DAY = Grain(
    DIMENSIONS_TABLE,
    "agent_dimension_distributions",
    (
        *_AGENT_AND_DAY,
        Column("dimension", pl.String(), "text", "The dimension, as METRICS_DIMENSIONS names it.", "model"),
        Column(
            "value_kind",
            pl.String(),
            "text",
            "value; none: the log has no value; list: it has a list or an object; other: the merged values.",
            "value",
        ),
        Column(
            "value",
            pl.String(),
            "text",
            "The value as text; (none), (list) or (other) for the other kinds; more than 128 characters are shortened.",
            "small-2",
        ),
    ),
    further=(
        Column("merged_values", pl.Int64(), "bigint", "How many values the row holds: more than 1 in (other) only.", 1),
    ),
    may_lose_rows=True,
)

#: Every grain that is stored: each has its tables, indexes and privileges, and expires with its day.
GRAINS = (AGENT_DAY, AGENT_DIMENSION_DAY)

METRIC_NAMES = tuple(metric.name for metric in METRICS)
