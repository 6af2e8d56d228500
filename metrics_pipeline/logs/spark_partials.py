"""From what Spark has counted to partial aggregates: of each agent, and of the values of each dimension."""

from collections.abc import Collection, Iterator, Sequence

import polars as pl

from metrics_pipeline.logs.lake_columns import marked, stored_error_type, stored_user_id
from metrics_pipeline.logs.lake_costs import group_costs, value_costs
from metrics_pipeline.logs.lake_json import json_value
from metrics_pipeline.logs.spark_session import Spark
from metrics_pipeline.logs.spark_sql import (
    BY_AGENT,
    BY_VALUE,
    COSTS,
    DOUBTFUL,
    ERRORS,
    LATENCIES,
    USERS,
    VALUE_SUMS,
    by_value,
    those_of,
)
from metrics_pipeline.metrics.calculator import agents_with_irregular_costs
from metrics_pipeline.metrics.catalog import UNKNOWN_ERROR_TYPE
from metrics_pipeline.metrics.dimensions import (
    AGENT_PARTIALS_SCHEMA,
    COST_NANO_USD,
    VALUE_COSTS_SCHEMA,
    VALUE_KEYS,
    VALUE_PARTIALS_SCHEMA,
    Dimension,
    ExtractedValues,
    kept_values,
    user_lists,
)
from metrics_pipeline.metrics.upstream import FLAGS, METADATA_KEYS

# Of users and latencies that arrive at once, also by value. A pair of agent and user takes about 100 bytes.
_LOGS_PER_BUCKET = 2_000_000

_NUMBERS = ("total_executions", "successful_executions", "failed_executions", "total_tokens", *FLAGS.values())


class SparkCounts:
    """What Spark counts of the logs of one day.

    logs: a query of spark_sql.logs_of(). sums: summed(), with content_hash. in_json: which METADATA_KEYS are keys of
    JSON text.
    """

    def __init__(self, spark: Spark, logs: str, sums: pl.DataFrame, in_json: Collection[str]) -> None:
        self._spark, self._logs, self._sums, self._in_json = spark, logs, sums, in_json

    def by_agent(self) -> pl.DataFrame:
        """AGENT_PARTIALS_SCHEMA, a row for each agent, with sorted pairs."""
        buckets = self._buckets(1)
        parts = []
        for part, counted in enumerate(self._counted(self._logs, BY_AGENT, buckets)):
            counted["sums"] = self._sums.filter(pl.col("agent_hash") % buckets == part)
            rows = counted["sums"].select("agent_id").with_row_index("row")
            merged = _merged(counted, rows, ["agent_id"])
            parts.append(_in_schema(rows.lazy().join(merged, on="row"), AGENT_PARTIALS_SCHEMA))
        return pl.concat(parts)

    def values(self, dimensions: Sequence[Dimension], content: dict[str, int]) -> ExtractedValues:
        """The logs by the values of the dimensions."""
        partials, keys = self._by_value(dimensions)
        costs = self._value_costs(dimensions, keys)
        return ExtractedValues(tuple(dimensions), partials, keys, costs, content)

    def _by_value(self, dimensions: Sequence[Dimension]) -> tuple[pl.DataFrame, pl.DataFrame]:
        """What broken_down() returns."""
        logs = by_value(self._logs, len(dimensions))
        partials, keys = [], []
        for counted in self._counted(logs, BY_VALUE, self._buckets(len(dimensions)), sums=VALUE_SUMS):
            found = {name: _with_found(frame, dimensions) for name, frame in counted.items()}
            found["sums"] = summed(found["sums"]).with_columns(content_hash=0)
            for number, dimension in enumerate(dimensions):
                of_dimension = {name: frame.filter(dimension=number) for name, frame in found.items()}
                counts = of_dimension["sums"].group_by("agent_id", "found").agg(len=pl.col("total_executions").sum())
                of_rows, rows = kept_values(counts, dimension.name)
                merged = _merged(of_dimension, rows, ["agent_id", "found"])
                partials.append(_in_schema(of_rows.lazy().join(merged, on="row"), VALUE_PARTIALS_SCHEMA))
                texts = of_rows.with_columns(pl.col("agent_id", "found").cast(pl.String))
                keys.append(texts.select(*VALUE_KEYS, "merged_values", "found"))
        return pl.concat(partials), pl.concat(keys)

    def _value_costs(self, dimensions: Sequence[Dimension], keys: pl.DataFrame) -> pl.DataFrame:
        """VALUE_COSTS_SCHEMA of the agents with irregular costs."""
        irregular = agents_with_irregular_costs(self._sums)
        frames = [pl.DataFrame(schema=VALUE_COSTS_SCHEMA)]
        if irregular:
            logs = by_value(self._logs, len(dimensions))
            counted = self._spark.frame(COSTS.format(logs=logs, keys=BY_VALUE, agents=those_of(irregular)))
            found = _with_found(counted, dimensions).with_columns(pl.col("agent_id", "found").cast(pl.String))
            for number, dimension in enumerate(dimensions):
                rows = found.filter(dimension=number).select("agent_id", "found", "cost_usd", "executions")
                frames.append(value_costs(group_costs(rows), keys, dimension.name))
        return pl.concat(frames)

    def _buckets(self, rows_per_log: int) -> int:
        return max(1, -(-int(self._sums["total_executions"].sum()) * rows_per_log // _LOGS_PER_BUCKET))

    def _counted(self, logs: str, keys: str, buckets: int, **further: str) -> Iterator[dict[str, pl.DataFrame]]:
        """Of some agents after the others, what each statement counts. Doubtful metadata is read."""
        statements = {"users": USERS, "latencies": LATENCIES, "errors": ERRORS, **further}
        if self._sums["doubtful"].sum():
            statements["doubtful"] = DOUBTFUL
        frames = (self._spark.buckets(each.format(logs=logs, keys=keys), buckets) for each in statements.values())
        for counted in zip(*frames, strict=True):
            yield self._read(dict(zip(statements, counted, strict=True)))

    def _read(self, counted: dict[str, pl.DataFrame]) -> dict[str, pl.DataFrame]:
        """With the users of doubtful metadata among `users`, and the counts of FLAGS in it as `flagged`."""
        doubtful = counted.pop("doubtful", None)
        if doubtful is None:
            none = counted["latencies"].clear()
            return counted | {"flagged": none.with_columns(pl.lit(0, pl.Int64).alias(name) for name in FLAGS.values())}
        distinct = doubtful.select(pl.col("doubtful").unique())
        for key in METADATA_KEYS:
            read = [json_value(text, key) if key in self._in_json else None for text in distinct["doubtful"]]
            distinct = distinct.with_columns(pl.Series(key, read, dtype=pl.String))
        rows = doubtful.join(distinct, on="doubtful")
        users = rows.drop_nulls("user_id").select(counted["users"].columns)
        flagged = rows.with_columns(
            pl.when(pl.col(key) == "true").then("executions").otherwise(0).alias(name) for key, name in FLAGS.items()
        )
        return {**counted, "users": pl.concat([counted["users"], users]), "flagged": flagged}


def summed(sums: pl.DataFrame) -> pl.DataFrame:
    """The rows of SUMS or VALUE_SUMS with cost_nano_usd as PARTIALS_SCHEMA has it."""
    cost = pl.col("regular_usd").cast(pl.Decimal(38, 9)).to_physical().cast(pl.Int128)
    return sums.with_columns(cost_nano_usd=pl.when(pl.col("irregular_costs") == 0).then(cost))


def _with_found(counted: pl.DataFrame, dimensions: Sequence[Dimension]) -> pl.DataFrame:
    """The rows with their value, as MARKS has it, in place of what Spark found."""
    distinct = counted.select("dimension", "found", "unread").unique()
    read = distinct.filter(pl.col("unread").is_not_null())
    values = [json_value(text, *dimensions[number].keys, marks_lists=True) for number, _, text in read.iter_rows()]
    values_of = pl.concat(
        [
            distinct.filter(pl.col("unread").is_null()).with_columns(text="found"),
            read.with_columns(text=pl.Series(values, dtype=pl.String)),
        ]
    ).with_columns(text=marked(pl.col("text")).cast(pl.Categorical))
    return (
        counted.join(values_of, on=["dimension", "found", "unread"], how="left", nulls_equal=True)
        .with_columns(pl.col("agent_id").cast(pl.Categorical), found="text")
        .drop("text", "unread")
    )


def _merged(counted: dict[str, pl.DataFrame], rows: pl.DataFrame, keys: Sequence[str]) -> pl.LazyFrame:
    """What was counted of the groups that have the same row: row, numbers, and sorted users, latencies and errors.

    rows: row (UInt32) by `keys`.
    """
    by_row = {name: frame.lazy().join(rows.lazy(), on=keys, nulls_equal=True) for name, frame in counted.items()}
    merged = (
        by_row["sums"]
        .group_by("row")
        .agg(pl.col(*_NUMBERS, "content_hash").sum(), COST_NANO_USD)
        .join(
            by_row["flagged"].group_by("row").agg(pl.col(*FLAGS.values()).sum().name.suffix("_read")),
            on="row",
            how="left",
        )
        .with_columns(pl.col(name) + pl.col(f"{name}_read").fill_null(0) for name in FLAGS.values())
    )
    # Zero bytes are replaced before equal types are merged.
    error_type = stored_error_type(pl.col("error_type").str.replace_all("\0", "\ufffd", literal=True))
    users = by_row["users"].with_columns(stored_user_id(pl.col("user_id")).cast(pl.Categorical))
    for lists in (
        user_lists(users.select("row", "user_id")),
        _pairs(by_row["latencies"], "latency_ms", "latency_counts"),
        _pairs(by_row["errors"].with_columns(error_type.fill_null(UNKNOWN_ERROR_TYPE)), "error_type", "error_counts"),
    ):
        merged = merged.join(lists, on="row", how="left")
    return merged


def _pairs(counted: pl.LazyFrame, value: str, name: str) -> pl.LazyFrame:
    """Of each row its values with their executions, sorted by the value."""
    return (
        counted.group_by("row", value)
        .agg(pl.col("executions").sum())
        .sort("row", value)
        .group_by("row", maintain_order=True)
        .agg(pl.struct(value, "executions").alias(name))
    )


def _in_schema(rows: pl.LazyFrame, schema: pl.Schema) -> pl.DataFrame:
    bare = {name: pl.lit(None) for name in ("latencies_ms", "error_types")}
    lists = [pl.col(name).fill_null([]) for name in ("user_ids", "latency_counts", "error_counts")]
    columns = [pl.col(name).cast(dtype) for name, dtype in schema.items()]
    return rows.with_columns(*lists, **bare).select(columns).collect(engine="in-memory")
