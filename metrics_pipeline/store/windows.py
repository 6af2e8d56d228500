"""Windows of stored days: reading rows and distributions, merging them, and comparing a day with its distributions."""

import sys
from array import array
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date
from enum import StrEnum
from typing import Any

import polars as pl
import psycopg
import pyarrow as pa
from psycopg.pq import Format
from sqlalchemy import Connection, text

from metrics_pipeline.metrics.catalog import (
    AGENT_DAY,
    AGENT_DIMENSION_DAY,
    ERROR_COUNT,
    GRAINS,
    METRIC_NAMES,
    OTHER_VALUES,
    Grain,
)
from metrics_pipeline.metrics.dimensions import SPELLED, VALUE, names_of
from metrics_pipeline.metrics.distributions import DISTRIBUTION_SCHEMA, merge_distributions
from metrics_pipeline.metrics.window_metrics import period_of, window_metrics
from metrics_pipeline.store.distributions import ARRAY_HEADER, DIGEST


class _Reading:
    """The statements that read windows of one grain. :value is for grains with dimensions: it and what may hide it."""

    def __init__(self, grain: Grain) -> None:
        keys = ", ".join(grain.key_names)
        equal = " = ".join(f"({', '.join(f'{of}.{key}' for key in grain.key_names)})" for of in ("stored", "metrics"))
        window = "metric_date BETWEEN :first AND :last AND (CAST(:agent_id AS text) IS NULL OR agent_id = :agent_id)"
        if "dimension" in grain.key_names:
            window += f""" AND dimension = :dimension AND (CAST(:value AS text) IS NULL OR value = :value
                OR value_kind = '{OTHER_VALUES}')"""
        self.rows = text(f"""
SELECT {keys}, {", ".join(name for name in METRIC_NAMES if name != "error_distribution")},
       EXISTS (SELECT FROM {grain.distributions} AS stored WHERE {equal}) AS has_distribution
FROM {grain.table} AS metrics WHERE {window}""")
        self.errors = text(f"""
SELECT {keys}, error_type, executions::bigint
FROM {grain.table} CROSS JOIN LATERAL jsonb_each_text(error_distribution) AS counts(error_type, executions)
WHERE failed_executions > 0 AND {window}""")
        types = ", ".join(f"%s::{key.sql_type}[]" for key in grain.keys)
        self.distributions = f"""
SELECT wanted.place, latencies_ms, latency_executions, user_hashes, total_latency_ms, latencies_exact, users_exact,
       user_key_id
FROM unnest({types}) WITH ORDINALITY AS wanted({keys}, place)
JOIN {grain.distributions} USING ({keys})"""


_READING = {grain: _Reading(grain) for grain in GRAINS}

# The days of a window that are stored without a dimension, of those on which anything was aggregated.
_LEDGER_DIMENSIONS = text("""
SELECT metric_date, coalesce(dimensions, '') AS dimensions FROM metric_day_ledger
WHERE metric_date BETWEEN :first AND :last AND metrics_expired_at IS NULL ORDER BY 1""")

_DAMAGED = text(f"""
SELECT agent_id FROM agent_day_distributions WHERE metric_date = :metric_date AND digest <> {DIGEST}""")

# How many executions are read at once. Two chunks are in memory: one is read while the other is merged.
_CHUNK = 1_000_000


class Grouping(StrEnum):
    """How the rows of a window are grouped: by agent, or by the day, week (from Monday) or month of metric_date."""

    AGENT = "agent"
    DAY = "day"
    WEEK = "week"
    MONTH = "month"


#: The columns that name the groups in the result.
GROUP_COLUMNS = {
    Grouping.AGENT: "agent_id",
    Grouping.DAY: "metric_date",
    Grouping.WEEK: "week",
    Grouping.MONTH: "month",
}


def read_window(
    connection: Connection,
    first: date,
    last: date,
    *,
    by: Sequence[Grouping] = (),
    agent_id: str | None = None,
    rows: pl.DataFrame | None = None,
    with_distributions: bool = True,
) -> pl.DataFrame:
    """The metrics of the stored days from `first` to `last`, of one agent or of all, one row for each group.

    The columns are those of window_metrics(): first GROUP_COLUMNS of `by`, in this order and sorted by them. A day of
    which no row is stored adds nothing; a window without any stored row gives no row, also without `by`. Logs are not
    read. The connection's transaction must see one state of the database (Database.snapshot()).
    `rows` is what stored_rows() says of the same state, for callers that read it once for several groupings. Without
    `with_distributions`, which take most of the time, the columns OF_DISTRIBUTIONS say nothing.
    """
    if rows is None:
        rows = stored_rows(connection, first, last, agent_id)
    return _grouped(
        connection, rows, [GROUP_COLUMNS[each] for each in by], AGENT_DAY, with_distributions=with_distributions
    )


def read_values(
    connection: Connection,
    first: date,
    last: date,
    dimension: str,
    *,
    by: Sequence[Grouping] = (),
    agent_id: str | None = None,
    value: str | None = None,
    with_distributions: bool = True,
) -> pl.DataFrame:
    """As read_window(), a row for each group and value of a dimension: value_kind and value come before the metrics.

    value: only this value as text, or "(none)", "(list)" or "(other)" for the row of that kind. Also has VALUE_COLUMNS.
    Days that are stored without the dimension add nothing; if no day has it, there is no row.
    with_distributions: as in read_window().
    """
    rows = stored_rows(connection, first, last, agent_id, dimension, value)
    keys = [GROUP_COLUMNS[each] for each in by]
    grouped = rows.with_columns(period_of(key).alias(key) for key in keys if key in ("week", "month"))
    others = grouped.filter(pl.col("value_kind") == OTHER_VALUES).with_columns(has_others=True)
    others = others.select(*keys, "has_others").unique()
    if value is not None:
        rows = _of_value(rows, value)
    found = _grouped(
        connection,
        rows,
        [*keys, "value_kind", "value"],
        AGENT_DIMENSION_DAY,
        with_distributions=with_distributions,
    )
    missing = pl.DataFrame(
        {"metric_date": days_without_dimension(connection, first, last, dimension)}, schema={"metric_date": pl.Date}
    ).with_columns(period_of(key).alias(key) for key in keys if key in ("week", "month"))
    periods = [key for key in keys if key != "agent_id"]
    lacking = (
        missing.with_columns(window=0)
        .group_by("window", *periods)
        .agg(
            days_without_dimension=pl.col("metric_date")
            if "metric_date" not in periods
            else pl.lit([], pl.List(pl.Date))
        )
    )
    return (
        found.with_columns(window=pl.lit(0, pl.Int32))
        .join(lacking, on=["window", *periods], how="left")
        .join(others.with_columns(window=pl.lit(0, pl.Int32)), on=["window", *keys], how="left")
        .with_columns(
            pl.col("days_without_dimension").fill_null(pl.lit([], pl.List(pl.Date))),
            is_complete=(pl.col("value_kind") == OTHER_VALUES) | pl.col("has_others").is_null(),
        )
        .sort(*keys, "value_kind", "value")
        .select(*found.columns, *VALUE_COLUMNS)
    )


def read_latencies(
    connection: Connection, first: date, last: date, dimension: str, agent_id: str, value: str
) -> list[tuple[int, int]]:
    """The latencies of an agent's executions of one value, as in read_values(), sorted, each with its executions."""
    rows = _of_value(stored_rows(connection, first, last, agent_id, dimension, value), value)
    merged = _merged(connection, rows, ["agent_id"], AGENT_DIMENSION_DAY)
    pairs = merged["latency_counts"].explode(empty_as_null=False, keep_nulls=False).struct.unnest()
    return list(pairs.iter_rows())


def _of_value(rows: pl.DataFrame, value: str) -> pl.DataFrame:
    kind = next((kind for kind, spelled in SPELLED.items() if spelled == value), VALUE)
    return rows.filter((pl.col("value") == value) & (pl.col("value_kind") == kind))


#: The columns of read_values() besides those of window_metrics(), with their meaning.
VALUE_COLUMNS = {
    "days_without_dimension": "The stored days of the period that are not broken down by the dimension.",
    "is_complete": "false if executions of this value may be in the row (other), on a day with more than 50 values.",
}


def stored_dimensions(connection: Connection) -> list[str]:
    """The names of the dimensions that any stored day has, sorted."""
    declared = (row.dimensions for row in connection.execute(_LEDGER_DIMENSIONS, {"first": date.min, "last": date.max}))
    return sorted({name for each in set(declared) if each for name in names_of(each)})


def days_without_dimension(connection: Connection, first: date, last: date, dimension: str) -> list[date]:
    """The stored days from `first` to `last` that are not broken down by the dimension."""
    rows = connection.execute(_LEDGER_DIMENSIONS, {"first": first, "last": last})
    return [row.metric_date for row in rows if dimension not in names_of(row.dimensions)]


def _grouped(
    connection: Connection, rows: pl.DataFrame, keys: list[str], grain: Grain, *, with_distributions: bool
) -> pl.DataFrame:
    rows = rows.with_columns(period_of(key).alias(key) for key in keys if key in ("week", "month"))
    if not keys:
        keys, rows = ["window"], rows.with_columns(window=pl.lit(0))
    merged = _merged(connection, rows if with_distributions else rows.clear(), keys, grain)
    return window_metrics(rows, merged, keys).select(pl.exclude("window"))


@dataclass(frozen=True)
class DistributionAudit:
    """The distributions of a day against its rows of metrics.

    distributions: how many there are; not_exact: how many of them are rounded or estimated; without: rows with
    executions and no distribution. contradictory_agents: sorted.
    """

    distributions: int
    not_exact: int
    without: int
    contradictory_agents: tuple[str, ...]


def audit_day(connection: Connection, metric_date: date) -> DistributionAudit:
    """Computes from each distribution of the day what agent_performance_metrics says, and its digest."""
    rows = stored_rows(connection, metric_date, metric_date, None)
    merged = _merged(connection, rows, ["agent_id"])
    again = window_metrics(rows, merged, ["agent_id"])
    both = rows.filter("has_distribution").join(again, on="agent_id", suffix="_again").join(merged, on="agent_id")
    latencies = pl.col("latency_counts").list.agg(pl.element().struct.field("executions").sum())
    of_latencies = ("avg_latency_ms", "p50_latency_ms", "p95_latency_ms", "p99_latency_ms")
    differs = [
        # The mean is exact in any case. Without latencies it is 0 for a day, and null for a window.
        (pl.col("latencies_exact") | (name == "avg_latency_ms"))
        & (pl.col(name) != pl.col(f"{name}_again").fill_null(0))
        for name in of_latencies
    ]
    differs += [
        pl.col("users_exact") & (pl.col("unique_users") != pl.col("user_hashes").list.len()),
        latencies > pl.col("total_executions"),
    ]
    contradictory = both.filter(pl.any_horizontal(differs))["agent_id"].to_list()
    damaged = connection.execute(_DAMAGED, {"metric_date": metric_date}).scalars()
    return DistributionAudit(
        distributions=both.height,
        not_exact=both.filter(~(pl.col("latencies_exact") & pl.col("users_exact"))).height,
        without=rows.filter(~pl.col("has_distribution") & (pl.col("total_executions") > 0)).height,
        contradictory_agents=tuple(sorted({*contradictory, *damaged})),
    )


def read_distributions(connection: Connection, wanted: pl.DataFrame, grain: Grain = AGENT_DAY) -> pl.DataFrame:
    """The stored distributions of the rows of `wanted` (keys of the grain): its columns and DISTRIBUTION_SCHEMA."""
    # The driver's own cursor, because arrays as Python lists take 20 times as long as their bytes.
    driver: Any = connection.connection.driver_connection
    with driver.cursor(binary=True) as cursor:
        for name in ("int4", "int8"):
            cursor.adapters.register_loader(psycopg.adapters.types[name].array_oid, _Elements)
        cursor.execute(_READING[grain].distributions, [wanted[key].to_list() for key in grain.key_names])
        columns: list[Any] = list(zip(*cursor.fetchall(), strict=True)) or [()] * 8
    place, latencies, executions, users, total, latencies_exact, users_exact, key_id = columns
    lengths = pl.Series([len(each) // 8 for each in latencies], dtype=pl.Int64)
    pairs = pl.DataFrame({"latency_ms": _int4(latencies), "executions": _int4(executions).cast(pl.Int64)})
    found = {
        "place": pl.Series(place, dtype=pl.Int64),
        "latency_counts": _lists(pairs.to_struct(), lengths),
        "total_latency_ms": total,
        "latencies_exact": latencies_exact,
        "user_hashes": _lists(_int8(users), pl.Series([len(each) // 12 for each in users], dtype=pl.Int64)),
        "users_exact": users_exact,
        "user_key_id": key_id,
    }
    return (
        pl.DataFrame(found, schema_overrides=DISTRIBUTION_SCHEMA)
        .join(wanted.with_row_index("place", offset=1).cast({"place": pl.Int64}), on="place")
        .select(*wanted.columns, *DISTRIBUTION_SCHEMA)
    )


def stored_rows(
    connection: Connection,
    first: date,
    last: date,
    agent_id: str | None,
    dimension: str | None = None,
    value: str | None = None,
) -> pl.DataFrame:
    """The stored rows of agents, or of values of a dimension: the keys, the metrics, and has_distribution."""
    grain = AGENT_DAY if dimension is None else AGENT_DIMENSION_DAY
    window: dict[str, Any] = {"first": first, "last": last, "agent_id": agent_id}
    if dimension is not None:
        window |= {"dimension": dimension, "value": value}
    names = (*grain.key_names, *METRIC_NAMES)
    without_errors = {name: grain.schema[name] for name in names if name != "error_distribution"}
    rows = pl.DataFrame(
        [tuple(row) for row in connection.execute(_READING[grain].rows, window)],
        schema={**without_errors, "has_distribution": pl.Boolean},
        orient="row",
    )
    errors = pl.DataFrame(
        [tuple(row) for row in connection.execute(_READING[grain].errors, window)],
        schema={**{key.name: key.dtype for key in grain.keys}, **ERROR_COUNT.to_schema()},
        orient="row",
    )
    distributions = errors.group_by(grain.key_names).agg(error_distribution=pl.struct("error_type", "executions"))
    return rows.join(distributions, on=grain.key_names, how="left").with_columns(
        pl.col("error_distribution").fill_null(pl.lit([], pl.List(ERROR_COUNT)))
    )


def _merged(connection: Connection, rows: pl.DataFrame, keys: Sequence[str], grain: Grain = AGENT_DAY) -> pl.DataFrame:
    """The merged distribution of each group, read in chunks. A group that ends in a later chunk is carried over."""
    columns = list(dict.fromkeys([*keys, *grain.key_names]))
    wanted = rows.filter("has_distribution").sort(columns)
    numbered = wanted.select(*columns, chunk=pl.col("total_executions").cum_sum() // _CHUNK)
    chunks = numbered.partition_by("chunk", maintain_order=True, include_key=False)
    carried = pl.DataFrame(schema={**{key: rows.schema[key] for key in keys}, **DISTRIBUTION_SCHEMA})
    merged = []
    for chunk, parts in _read_ahead(connection, chunks, grain):
        so_far = merge_distributions(pl.concat([carried, parts.select(carried.columns)]), keys)
        last = chunk.tail(1)
        merged.append(so_far.join(last, on=keys, how="anti"))
        carried = so_far.join(last, on=keys, how="semi")
    return pl.concat([*merged, carried])


def _read_ahead(
    connection: Connection, chunks: Sequence[pl.DataFrame], grain: Grain
) -> Iterator[tuple[pl.DataFrame, pl.DataFrame]]:
    """Each chunk with its distributions. The next one is read while the caller works; only this uses the connection."""
    coming: deque[tuple[pl.DataFrame, Future[pl.DataFrame]]] = deque()
    with ThreadPoolExecutor(1, thread_name_prefix="ahead") as ahead:
        for chunk in chunks:
            coming.append((chunk, ahead.submit(read_distributions, connection, chunk, grain)))
            if len(coming) > 1:
                read, parts = coming.popleft()
                yield read, parts.result()
        for read, parts in coming:
            yield read, parts.result()


class _Elements(psycopg.adapt.Loader):
    """The elements of an array in PostgreSQL's binary form, each with its length."""

    format = Format.BINARY

    def load(self, data: Any) -> bytes:
        return bytes(data[ARRAY_HEADER.size :])


def _int4(arrays: Sequence[bytes]) -> pl.Series:
    return (_native("q", b"".join(arrays)) & 0xFFFFFFFF).cast(pl.UInt32).reinterpret(signed=True)


def _int8(arrays: Sequence[bytes]) -> pl.Series:
    thirds = _native("i", b"".join(arrays))
    high, low = thirds.gather_every(3, 1), thirds.gather_every(3, 2)
    return high.cast(pl.Int64) * 2**32 + low.reinterpret(signed=False).cast(pl.Int64)


def _native(code: str, elements: bytes) -> pl.Series:
    numbers = array(code, elements)
    if sys.byteorder == "little":
        numbers.byteswap()
    dtype = pa.int64() if code == "q" else pa.int32()
    column = pa.Array.from_buffers(dtype, len(numbers), [None, pa.py_buffer(numbers)])
    return pl.DataFrame(pl.from_arrow(pa.RecordBatch.from_arrays([column], ["numbers"]))).to_series()


def _lists(values: pl.Series, lengths: pl.Series) -> pl.Series:
    offsets = pl.concat([pl.Series([0], dtype=pl.Int64), lengths.cum_sum()]).to_arrow()
    lists = pa.LargeListArray.from_arrays(offsets, values.to_arrow())
    return pl.DataFrame(pl.from_arrow(pa.RecordBatch.from_arrays([lists], ["lists"]))).to_series()
