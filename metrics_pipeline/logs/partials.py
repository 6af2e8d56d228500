"""Partial aggregates: one pass of the server over logs, and its rows as a frame."""

import sys
from array import array
from datetime import datetime
from typing import Any

import polars as pl
import pyarrow as pa
from sqlalchemy import Connection

from metrics_pipeline.logs.contract import UpstreamContract
from metrics_pipeline.logs.log_columns import CONTENT_HASH, HAS_FAILED, log_columns
from metrics_pipeline.metrics.costs import nano_usd
from metrics_pipeline.metrics.schema import PARTIALS_SCHEMA, UNKNOWN_ERROR_TYPE

# A process of the server that groups 430,000 logs of 1,750 agents needs 16 MB, and more for more agents or longer user
# ids. With less than it needs it would use files.
# The JIT compiler wins 7 % when warm, and costs 18 % in a session's first query, which that of a large day is.
_SETTINGS = "SELECT set_config('work_mem', '64MB', true), set_config('jit', 'off', true)"

# A user id of 64 bytes and more is counted by its SHA-256 in 64 digits, which no shorter id can be: one value of bytea
# holds all ids of a group, and 1 GB at most. No text of PostgreSQL's contains the zero byte that stands between them.
_USER = "CASE WHEN octet_length(user_id) < 64 THEN user_id ELSE encode(sha256(textsend(user_id)), 'hex') END"

# Arrays would do for the three lists as well. As bytes they take 15 % less of the server's and the client's time.
# A cost of more than nine places makes its sum irregular, unless they are zeros. The others are spared trim_scale().
_PARTIALS = rf"""
SELECT agent_id,
       count(*) AS total_executions,
       count(*) FILTER (WHERE is_successful) AS successful_executions,
       count(*) FILTER (WHERE {HAS_FAILED}) AS failed_executions,
       count(*) FILTER (WHERE is_human_intervention) AS human_interventions,
       coalesce(sum(token_count), 0) AS total_tokens,
       coalesce(sum(CASE WHEN scale(cost_usd) > 9 THEN trim_scale(cost_usd) ELSE cost_usd END), 0)::text AS cost_usd,
       sum({CONTENT_HASH})::text AS content_hash,
       string_agg(int4send(latency_ms), '') AS latencies_ms,
       string_agg(textsend({_USER}), '\x00') AS user_ids,
       string_agg(textsend(coalesce(error_type, '{UNKNOWN_ERROR_TYPE}')), '\x00') FILTER (WHERE {HAS_FAILED})
           AS error_types
FROM (
    SELECT {{log_columns}}
    FROM agent_execution_logs
    WHERE "timestamp" >= %s AND "timestamp" < %s
    OFFSET 0
) AS log
GROUP BY agent_id"""

_FETCHED = pl.Schema(
    {name: dtype for name, dtype in PARTIALS_SCHEMA.items() if name != "cost_nano_usd"}
    | {
        "cost_usd": pl.String(),
        "content_hash": pl.String(),
        "latencies_ms": pl.Binary(),
        "user_ids": pl.Binary(),
        "error_types": pl.Binary(),
    }
)


def read_partials(connection: Connection, contract: UpstreamContract, start: datetime, end: datetime) -> pl.DataFrame:
    """The partial aggregates (PARTIALS_SCHEMA) of the logs in [start, end), a row per agent, NULL included.

    The connection's transaction keeps the settings that serve this query.
    """
    connection.exec_driver_sql(_SETTINGS)
    # The driver's own cursor, because SQLAlchemy's has every value as text, which doubles bytes.
    driver: Any = connection.connection.driver_connection
    with driver.cursor(binary=True) as cursor:
        cursor.execute(
            _PARTIALS.replace("{log_columns}", log_columns(contract)), [contract.instant(start), contract.instant(end)]
        )
        names = [column.name for column in cursor.description]
        columns: list[Any] = list(zip(*cursor.fetchall(), strict=True)) or [()] * len(names)
    fetched = pl.DataFrame(
        {name: pl.Series(values, dtype=_FETCHED[name]) for name, values in zip(names, columns, strict=True)}
    )
    return (
        fetched.lazy()
        .with_columns(
            _numbers(fetched["latencies_ms"]),
            _texts("user_ids").list.unique(),
            _texts("error_types"),
            cost_nano_usd=nano_usd(pl.col("cost_usd")),
        )
        .select(pl.col(name).cast(dtype) for name, dtype in PARTIALS_SCHEMA.items())
        .collect(engine="in-memory")
    )


def _numbers(joined: pl.Series) -> pl.Series:
    """Lists of numbers from the bytes in which int4send() has them, four for each, the first one the highest."""
    numbers = array("i", b"".join(joined.drop_nulls()))
    if sys.byteorder == "little":
        numbers.byteswap()
    values = pa.Array.from_buffers(pa.int32(), len(numbers), [None, pa.py_buffer(numbers)])
    ends = (joined.bin.size().fill_null(0).cast(pl.Int64) // numbers.itemsize).cum_sum()
    offsets = pl.concat([pl.Series([0], dtype=pl.Int64), ends]).to_arrow()
    lists = pa.LargeListArray.from_arrays(offsets, values)
    # As a batch, because Polars imports pyarrow.compute for an array alone, which takes 0.05 s of the first day.
    return pl.DataFrame(pl.from_arrow(pa.RecordBatch.from_arrays([lists], [joined.name]))).to_series()


def _texts(name: str) -> pl.Expr:
    """Lists of texts from bytes with a zero byte between each two; none from NULL."""
    return pl.col(name).cast(pl.String).str.split("\0").fill_null(pl.lit([], dtype=pl.List(pl.String)))
