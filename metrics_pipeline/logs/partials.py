"""Partial aggregates from PostgreSQL: one pass on the server over the logs, and its rows as a frame."""

import sys
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import polars as pl
from sqlalchemy import Connection, text

from metrics_pipeline.logs.contract import UpstreamContract
from metrics_pipeline.logs.log_columns import (
    IRREGULAR_COST,
    LOG_FLAGS,
    PARTIALS,
    PER_LOG,
    dimension_content,
    dimension_value,
    log_columns,
    with_content_hash,
)
from metrics_pipeline.metrics.catalog import PARTIALS_SCHEMA
from metrics_pipeline.metrics.costs import NOT_FINITE, nano_usd
from metrics_pipeline.metrics.dimensions import (
    OTHER,
    SPELLED,
    VALUE_COSTS_SCHEMA,
    Dimension,
    log_schema,
)
from metrics_pipeline.metrics.windows import DayWindow

# A server process needs 16 MB to group 430,000 logs of 1,750 agents, and more for more agents or longer user ids. With
# less it spills to files. JIT compilation saves 7 % when warm, but costs 18 % in a session's first query, and a reader
# of a large day has just opened its session. Through a view that costs much a row, sorting the logs by agent looks as
# cheap as hashing them, but took a fifth of the time (Langfuse, OpenTelemetry).
_SETTINGS = """
SELECT set_config('work_mem', '64MB', true), set_config('jit', 'off', true), set_config('enable_sort', 'off', true)"""

_ROWS = """
    SELECT {log_columns}
    FROM agent_execution_logs
    WHERE "timestamp" >= %s AND "timestamp" < %s
    OFFSET 0"""
_READ = f"""
SELECT agent_id, {", ".join(f"{aggregate} AS {name}" for name, aggregate in PARTIALS.items())}
FROM ({_ROWS}
) AS log
GROUP BY agent_id"""

# Numerics arrive as text, and lists as bytes.
_FETCHED = {pl.Int128(): pl.String(), pl.List(pl.Int32()): pl.Binary(), pl.List(pl.String()): pl.Binary()}
_HASHES = {"agent_id": pl.Categorical(), "content_hash": pl.String()}


@dataclass(frozen=True)
class SlicePartials:
    """A slice of the logs.

    by_agent: PARTIALS_SCHEMA; with dimensions only agent_id (Categorical) and content_hash. With dimensions also logs:
    log_schema(); and content: of each dimension, its part of ExtractedValues.content.
    """

    by_agent: pl.DataFrame
    logs: pl.DataFrame
    content: tuple[int, ...]


def read_partials(
    connection: Connection,
    contract: UpstreamContract,
    start: datetime,
    end: datetime,
    dimensions: Sequence[Dimension] = (),
) -> SlicePartials:
    """The partial aggregates of the logs in [start, end), a row per agent, also NULL; with dimensions also each log.

    Changes work_mem and jit until the end of the connection's transaction.
    """
    connection.exec_driver_sql(_SETTINGS)
    statement = _READ if not dimensions else _statement_with(dimensions, contract)
    # The driver's own cursor, because SQLAlchemy's fetches every value as text, which doubles the size of bytes.
    driver: Any = connection.connection.driver_connection
    with driver.cursor(binary=True) as cursor:
        cursor.execute(
            statement.replace("{log_columns}", log_columns(contract, dimensions)),
            [contract.instant(start), contract.instant(end)],
        )
        names = [column.name for column in cursor.description]
        columns: list[Any] = list(zip(*cursor.fetchall(), strict=True)) or [()] * len(names)
    found = dict(zip(names, columns, strict=True))
    if dimensions:
        content = tuple(sum(map(int, found[f"content_{number}"])) for number in range(len(dimensions)))
        hashes = pl.DataFrame({name: found[name] for name in ("agent_id", "content_hash")}, schema_overrides=_HASHES)
        return SlicePartials(hashes.cast({"content_hash": pl.Int128}), _logs(found, dimensions), content)
    fetched = pl.DataFrame(
        {
            name: pl.Series(values, dtype=_FETCHED.get(PARTIALS_SCHEMA[name], PARTIALS_SCHEMA[name]))
            for name, values in found.items()
        }
    )
    by_agent = (
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
    return SlicePartials(by_agent, pl.DataFrame(), ())


def _statement_with(dimensions: Sequence[Dimension], contract: UpstreamContract) -> str:
    aggregates = {"content_hash": "sum(content_hash)::text", **PER_LOG}
    for number, dimension in enumerate(dimensions):
        value = dimension_value(dimension, number, contract)
        aggregates[f"values_{number}"] = rf"string_agg(textsend({value}), '\x00')"
        aggregates[f"content_{number}"] = f"{dimension_content(number)}::text"
    listed = ", ".join(f"{aggregate} AS {name}" for name, aggregate in aggregates.items())
    return (
        f"SELECT agent_id, {listed} FROM ({with_content_hash(_ROWS.removesuffix('OFFSET 0'))}) AS log GROUP BY agent_id"
    )


def _logs(found: Mapping[str, Sequence[Any]], dimensions: Sequence[Dimension]) -> pl.DataFrame:
    """The logs, which arrive as lists of each agent, in log_schema()."""
    agents = pl.Series(found["agent_id"], dtype=pl.String).cast(pl.Categorical)
    logs = pl.Series(found["total_executions"], dtype=pl.Int64)
    numbers, costs = _native(found["numbers"]), _native(found["costs"])
    flag = {name: costs & (1 << bit) != 0 for bit, name in enumerate(LOG_FLAGS)}
    costs = costs // (1 << len(LOG_FLAGS))
    columns = {
        "agent_id": agents.gather(pl.int_range(len(logs), eager=True).repeat_by(logs).explode().drop_nulls()),
        **flag,
        "latency_ms": (numbers // 2**32).cast(pl.Int32).set(~flag["has_latency"], None),
        "token_count": (numbers % 2**32 - 2**31).cast(pl.Int32),
        "cost_nano_usd": costs.set(costs == IRREGULAR_COST, None),
        "user_id": _where(flag["has_user"], _joined(found["user_ids"]).cast(pl.Categorical)),
        "error_type": _where(flag["has_failed"], _joined(found["error_types"]).cast(pl.Categorical)),
        **{
            f"value_{number}": _joined(found[f"values_{number}"]).cast(pl.Categorical)
            for number in range(len(dimensions))
        },
    }
    return pl.DataFrame({name: columns[name] for name in log_schema(dimensions)})


def _joined(lists: Sequence[bytes | None]) -> pl.Series:
    """The texts of all lists, which are separated by zero bytes."""
    some = [each for each in lists if each is not None]
    joined = pl.Series([b"\0".join(some)] if some else [], dtype=pl.Binary).cast(pl.String)
    return joined.str.split("\0").explode(empty_as_null=False)


def _where(has_value: pl.Series, values: pl.Series) -> pl.Series:
    """The values, one after the other, where has_value is true, and otherwise NULL."""
    places = has_value.cum_sum().cast(pl.Int64) - 1
    return values.gather(places.set(~has_value, None))


def _native(joined: Sequence[bytes]) -> pl.Series:
    """Numbers from the bytes of int8send(), big-endian."""
    import pyarrow as pa

    numbers = array("q", b"".join(joined))
    if sys.byteorder == "little":
        numbers.byteswap()
    values = pa.Array.from_buffers(pa.int64(), len(numbers), [None, pa.py_buffer(numbers)])
    return pl.DataFrame(pl.from_arrow(pa.RecordBatch.from_arrays([values], ["numbers"]))).to_series()


def _numbers(joined: pl.Series) -> pl.Series:
    """Lists of numbers from the bytes of int4send(), four per number, big-endian."""
    # Imported here: it takes 25 MB, and not every process that opens the logs reads them. Retention does not.
    import pyarrow as pa

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


# A value's cost is what its rounded sum adds to that of the values before it, so that the values of an agent add up to
# the agent's rounded sum. Sums of whole nano-dollars come first and stay as they are, because a value with regular
# costs only is stored with its own sum. The others are wrong by a nano-dollar at most.
_EXACT_COSTS = f"""
SELECT agent_id, found, (trunc(round(up_to)) - trunc(round(up_to - nano_usd)))::text AS total_cost_nano_usd,
       (sign(nano_usd) * div(2 * abs(nano_usd) + logs, 2 * logs))::text AS avg_cost_nano_usd
FROM (
    SELECT sums.*, sum(nano_usd) OVER (
        PARTITION BY agent_id ORDER BY nano_usd <> trunc(nano_usd), found ROWS UNBOUNDED PRECEDING
    ) AS up_to
    FROM (
        SELECT log.agent_id, coalesce(kept.found, '') COLLATE "C" AS found, count(*) AS logs,
               coalesce(sum(cost_usd) FILTER (WHERE cost_usd::text NOT IN {NOT_FINITE}), 0) * 1000000000 AS nano_usd
        FROM (SELECT agent_id, cost_usd, {{value}} AS found FROM ({{rows}}) AS log) AS log
        LEFT JOIN unnest(CAST(:agents_kept AS text[]), CAST(:found_kept AS text[])) AS kept(agent_id, found)
            ON kept.agent_id = log.agent_id AND kept.found = log.found
        WHERE log.agent_id = ANY(:agents)
        GROUP BY 1, 2
    ) AS sums
) AS costs"""


def exact_value_costs(
    connection: Connection,
    contract: UpstreamContract,
    window: DayWindow,
    dimensions: Sequence[Dimension],
    number: int,
    agents: Sequence[str | None],
    keys: pl.DataFrame,
) -> pl.DataFrame:
    """The exact costs (VALUE_COSTS_SCHEMA) of the values of one of the dimensions, of `agents`.

    keys: ExtractedValues.keys.
    """
    name = dimensions[number].name
    own = keys.filter(pl.col("found").is_not_null(), pl.col("dimension") == name).with_columns(
        pl.col("agent_id", "found").cast(pl.String)
    )
    rows = f"""SELECT {log_columns(contract, dimensions)} FROM agent_execution_logs
        WHERE "timestamp" >= :start AND "timestamp" < :end"""
    statement = _EXACT_COSTS.format(value=dimension_value(dimensions[number], number, contract), rows=rows)
    parameters = {
        **contract.bounds(window),
        "agents": list(agents),
        "agents_kept": own["agent_id"].to_list(),
        "found_kept": own["found"].to_list(),
    }
    costs = [tuple(row) for row in connection.execute(text(statement), parameters)]
    names = ("agent_id", "found", "total_cost_nano_usd", "avg_cost_nano_usd")
    others = {"value_kind": OTHER, "value": SPELLED[OTHER]}
    return (
        pl.DataFrame(costs, schema=dict.fromkeys(names, pl.String), orient="row")
        .join(own, on=["agent_id", "found"], how="left")
        .with_columns(pl.lit(name).alias("dimension"), *(pl.col(key).fill_null(text) for key, text in others.items()))
        .select(VALUE_COSTS_SCHEMA.names())
        .cast(VALUE_COSTS_SCHEMA, strict=False)
    )
