"""Partial aggregates from PostgreSQL: one pass on the server over the logs, and its rows as a frame."""

import sys
from array import array
from datetime import datetime
from typing import Any

import polars as pl
import pyarrow as pa
from sqlalchemy import Connection

from metrics_pipeline.logs.contract import UpstreamContract
from metrics_pipeline.logs.log_columns import PARTIALS, log_columns
from metrics_pipeline.metrics.catalog import PARTIALS_SCHEMA
from metrics_pipeline.metrics.costs import nano_usd

# A server process needs 16 MB to group 430,000 logs of 1,750 agents, and more for more agents or longer user ids. With
# less it spills to files. JIT compilation saves 7 % when warm, but costs 18 % in a session's first query, and a reader
# of a large day has just opened its session.
_SETTINGS = "SELECT set_config('work_mem', '64MB', true), set_config('jit', 'off', true)"

_READ = f"""
SELECT agent_id, {", ".join(f"{aggregate} AS {name}" for name, aggregate in PARTIALS.items())}
FROM (
    SELECT {{log_columns}}
    FROM agent_execution_logs
    WHERE "timestamp" >= %s AND "timestamp" < %s
    OFFSET 0
) AS log
GROUP BY agent_id"""

# Numerics arrive as text, and lists as bytes.
_FETCHED = {pl.Int128(): pl.String(), pl.List(pl.Int32()): pl.Binary(), pl.List(pl.String()): pl.Binary()}


def read_partials(connection: Connection, contract: UpstreamContract, start: datetime, end: datetime) -> pl.DataFrame:
    """The partial aggregates (PARTIALS_SCHEMA) of the logs in [start, end), a row per agent, including NULL.

    Changes work_mem and jit until the end of the connection's transaction.
    """
    connection.exec_driver_sql(_SETTINGS)
    # The driver's own cursor, because SQLAlchemy's fetches every value as text, which doubles the size of bytes.
    driver: Any = connection.connection.driver_connection
    with driver.cursor(binary=True) as cursor:
        cursor.execute(
            _READ.replace("{log_columns}", log_columns(contract)), [contract.instant(start), contract.instant(end)]
        )
        names = [column.name for column in cursor.description]
        columns: list[Any] = list(zip(*cursor.fetchall(), strict=True)) or [()] * len(names)
    fetched = pl.DataFrame(
        {
            name: pl.Series(values, dtype=_FETCHED.get(PARTIALS_SCHEMA[name], PARTIALS_SCHEMA[name]))
            for name, values in zip(names, columns, strict=True)
        }
    )
    return (
        fetched.lazy()
        .with_columns(
            _numbers(fetched["latencies_ms"]),
            _texts("user_ids").list.unique(),
            _texts("error_types"),
            nano_usd(pl.col("cost_nano_usd")).alias("cost_nano_usd"),
            latency_counts=pl.lit(None),
            error_counts=pl.lit(None),
        )
        .select(pl.col(name).cast(dtype) for name, dtype in PARTIALS_SCHEMA.items())
        .collect(engine="in-memory")
    )


def _numbers(joined: pl.Series) -> pl.Series:
    """Lists of numbers from the bytes of int4send(), four per number, big-endian."""
    numbers = array("i", b"".join(joined.drop_nulls()))
    if sys.byteorder == "little":
        numbers.byteswap()
    values = pa.Array.from_buffers(pa.int32(), len(numbers), [None, pa.py_buffer(numbers)])
    ends = (joined.bin.size().fill_null(0).cast(pl.Int64) // numbers.itemsize).cum_sum()
    offsets = pl.concat([pl.Series([0], dtype=pl.Int64), ends]).to_arrow()
    lists = pa.LargeListArray.from_arrays(offsets, values)
    # In a batch, because for a bare array Polars imports pyarrow.compute, which takes 0.05 s of the first day.
    return pl.DataFrame(pl.from_arrow(pa.RecordBatch.from_arrays([lists], [joined.name]))).to_series()


def _texts(name: str) -> pl.Expr:
    """Lists of texts from bytes that are separated by zero bytes; an empty list from NULL."""
    return pl.col(name).cast(pl.String).str.split("\0").fill_null(pl.lit([], dtype=pl.List(pl.String)))
