"""The one declaration of what a log is and what a day's metrics are: names, types, units, meaning.

The DDL, the casts of the calculator, the publishing statement and the documentation derive from it.
"""

from dataclasses import dataclass

import polars as pl

#: Money is kept as a whole number of nano-dollars until it is stored, so no float is on its way.
NANO_USD_PER_USD = 1_000_000_000

SUCCESS_STATUS = "success"
FAILED_STATUS = "failed"
UNKNOWN_ERROR_TYPE = "unknown"

#: Changes whenever the same logs would yield another number. The ledger stores it with each day.
DEFINITION_VERSION = "1"


#: What the extraction delivers: partial aggregates, of which each agent has one or several, one per part of the day.
#: The cost is NULL if costs are irregular (see EXACT_COSTS_SCHEMA). The latencies are those of all logs that have one,
#: in any order; the user ids are distinct, and long ones stand for themselves as a digest; the error types are those of
#: all failed logs. content_hash is the sum of a hash of every value that a metric depends on.
PARTIALS_SCHEMA = pl.Schema(
    {
        "agent_id": pl.String(),
        "total_executions": pl.Int64(),
        "successful_executions": pl.Int64(),
        "failed_executions": pl.Int64(),
        "human_interventions": pl.Int64(),
        "total_tokens": pl.Int64(),
        "cost_nano_usd": pl.Int128(),
        "content_hash": pl.Int128(),
        "latencies_ms": pl.List(pl.Int32()),
        "user_ids": pl.List(pl.String()),
        "error_types": pl.List(pl.String()),
    }
)


#: Of the agents with irregular costs: those that have a cost finer than a nano-dollar or no number, or of whose costs
#: a part of the day adds up to 10^19 USD or more. Total and mean are exact, rounded half away from zero, and NULL from
#: 1.7 * 10^29 USD on. regular_cost_nano_usd adds up the costs that are whole nano-dollars, as fingerprint_cost() keeps
#: them.
EXACT_COSTS_SCHEMA = pl.Schema(
    {
        "agent_id": pl.String(),
        "total_cost_nano_usd": pl.Int128(),
        "avg_cost_nano_usd": pl.Int128(),
        "regular_cost_nano_usd": pl.Int128(),
        "not_finite_costs": pl.Int64(),
    }
)

#: One entry of an error distribution; in PostgreSQL the list becomes a JSON object {error_type: count}.
ERROR_COUNT = pl.Struct({"error_type": pl.String, "executions": pl.Int64})


@dataclass(frozen=True)
class Column:
    """One column of agent_performance_metrics, in Polars and in PostgreSQL."""

    name: str
    dtype: pl.DataType | type[pl.DataType]
    sql_type: str
    description: str


KEY_COLUMNS = (
    Column("agent_id", pl.String(), "text", "The agent, as agent_registry.id spells it."),
    Column("metric_date", pl.Date(), "date", "The calendar day in the pipeline's time zone."),
)

METRIC_COLUMNS = (
    Column("total_executions", pl.Int64(), "bigint", "All logs of the day, whatever their status."),
    Column("successful_executions", pl.Int64(), "bigint", "Logs with status 'success'."),
    Column("failed_executions", pl.Int64(), "bigint", "Logs with status 'failed'."),
    Column(
        "success_rate",
        pl.Decimal(7, 6),
        "numeric(7,6)",
        "successful / total, rounded half away from zero to 6 places; 1 for a day without logs.",
    ),
    Column(
        "avg_latency_ms",
        pl.Int64(),
        "bigint",
        "Exact mean latency in milliseconds, rounded half away from zero; 0 without latencies.",
    ),
    Column(
        "p50_latency_ms",
        pl.Int64(),
        "bigint",
        "Median latency in milliseconds: linear interpolation in double precision, rounded half to even.",
    ),
    Column("p95_latency_ms", pl.Int64(), "bigint", "95th percentile of latency, as p50_latency_ms."),
    Column("p99_latency_ms", pl.Int64(), "bigint", "99th percentile of latency, as p50_latency_ms."),
    Column("total_tokens", pl.Int64(), "bigint", "Sum of token_count; NULL counts as 0."),
    Column("total_cost_usd", pl.Decimal(20, 9), "numeric(20,9)", "Exact sum of cost_usd; NULL and NaN count as 0."),
    Column(
        "avg_cost_per_execution",
        pl.Decimal(20, 9),
        "numeric(20,9)",
        "total cost / total executions in USD, the exact quotient rounded half away from zero to 9 places.",
    ),
    Column(
        "error_distribution",
        pl.List(ERROR_COUNT),
        "jsonb",
        "Failed logs by error_type, as {error_type: count}; NULL counts under 'unknown'.",
    ),
    Column("human_interventions", pl.Int64(), "bigint", "Logs whose metadata says human_intervention = true."),
    Column("unique_users", pl.Int64(), "bigint", "Distinct non-NULL user_id values in metadata."),
)

METRICS_SCHEMA = pl.Schema({column.name: column.dtype for column in KEY_COLUMNS + METRIC_COLUMNS})
