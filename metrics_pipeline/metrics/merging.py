"""Merging distributions: counts of equal latencies added, users united."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from metrics_pipeline.metrics.distributions import SEVERAL_KEYS

#: An array of whole numbers, perhaps a view of bytes in any byte order.
Numbers = NDArray[Any]

# Latencies are counted in an array with a place for each from the smallest to the largest, if it has at most so many
# places for each pair; otherwise they are sorted, which takes ten times as long.
_MOST_PLACES = 8


@dataclass(frozen=True)
class Distributions:
    """Distributions whose lists are arrays, which need not be copied before they are merged.

    rows: the caller's keys, and the columns of DISTRIBUTION_SCHEMA that are not lists. latencies, executions and users:
    an array for each row, in the order of DISTRIBUTION_SCHEMA; latencies and users of a row are distinct.
    """

    rows: pl.DataFrame
    latencies: Sequence[Numbers]
    executions: Sequence[Numbers]
    users: Sequence[Numbers]

    @classmethod
    def concat(cls, parts: Sequence[Self]) -> Self:
        """The rows of all, in this order."""
        return cls(
            pl.concat([each.rows for each in parts]),
            [row for each in parts for row in each.latencies],
            [row for each in parts for row in each.executions],
            [row for each in parts for row in each.users],
        )

    def take(self, places: Sequence[int]) -> Self:
        """Some of the rows."""
        lists = ([each[place] for place in places] for each in (self.latencies, self.executions, self.users))
        return type(self)(self.rows[places], *lists)

    @property
    def size(self) -> int:
        """How many latencies and users there are."""
        return sum(map(len, self.latencies)) + sum(map(len, self.users))

    def frame(self) -> pl.DataFrame:
        """The columns of `rows`, and the lists of DISTRIBUTION_SCHEMA."""
        pairs = [pa.array(_one(self.latencies, np.int32)), pa.array(_one(self.executions, np.int64))]
        counts = _lists(pa.StructArray.from_arrays(pairs, ["latency_ms", "executions"]), self.latencies)
        users = _lists(pa.array(_one(self.users, np.int64)), self.users)
        return self.rows.with_columns(latency_counts=counts, user_hashes=users)


def merge_distributions(parts: Distributions, keys: Sequence[str]) -> Distributions:
    """The distribution of all logs of each combination of `keys`: counts added, users united.

    The combinations are in the order in which they come first in `parts`. Merging is associative and commutative. Exact
    parts give an exact result, of whatever size.
    """
    key_ids = pl.col("user_key_id").drop_nulls()
    merged = (
        parts.rows.lazy()
        .with_row_index("row")
        .group_by(keys, maintain_order=True)
        .agg(
            "row",
            pl.col("row").filter(~pl.col("users_exact")).alias("estimated"),
            pl.col("total_latency_ms").sum(),
            pl.col("latencies_exact").all(),
            pl.col("users_exact").all(),
            pl.when(key_ids.n_unique() > 1).then(pl.lit(SEVERAL_KEYS)).otherwise(key_ids.first()).alias("user_key_id"),
        )
        .collect(engine="in-memory")
    )
    latencies, executions, users = [], [], []
    for rows, estimated in merged.select("row", "estimated").iter_rows():
        distinct, added = _added([parts.latencies[row] for row in rows], [parts.executions[row] for row in rows])
        latencies.append(distinct)
        executions.append(added)
        users.append(_united([parts.users[row] for row in rows], [parts.users[row] for row in estimated]))
    return Distributions(merged.drop("row", "estimated"), latencies, executions, users)


def _added(latencies: list[Numbers], executions: list[Numbers]) -> tuple[Numbers, Numbers]:
    if len(latencies) == 1:
        return latencies[0], executions[0]
    values = np.concatenate(latencies, dtype=np.int64)
    if not len(values):
        return values, values
    smallest = values.min()
    values -= smallest
    if values.max() < _MOST_PLACES * len(values):
        # As numbers in double precision, which are exact up to 2^53.
        sums = np.bincount(values, np.concatenate(executions, dtype=np.float64))
        distinct = np.flatnonzero(sums)
        added = sums[distinct].astype(np.int64)
    else:
        order = np.argsort(values)
        values = values[order]
        starts = np.flatnonzero(_is_new(values))
        distinct, added = values[starts], np.add.reduceat(np.concatenate(executions, dtype=np.int64)[order], starts)
    return (distinct + smallest).astype(np.int32), added


def _united(users: list[Numbers], estimated: list[Numbers]) -> Numbers:
    if len(users) == 1:
        return users[0]
    hashes = np.concatenate(users, dtype=np.int64)
    # A sort takes a twentieth of the time of np.unique(), and less than a hash table in Polars.
    hashes.sort()
    distinct = hashes[_is_new(hashes)]
    # Of an estimated part only the hashes up to its largest are known.
    known = min((each.max() for each in estimated), default=None)
    return distinct if known is None else distinct[: np.searchsorted(distinct, known, side="right")]


def _is_new(values: Numbers) -> Numbers:
    """Whether each of these sorted numbers differs from the one before."""
    is_new = np.ones(len(values), dtype=bool)
    np.not_equal(values[1:], values[:-1], out=is_new[1:])
    return is_new


def _one(rows: Sequence[Numbers], dtype: type) -> Numbers:
    return np.concatenate(rows, dtype=dtype) if rows else np.empty(0, dtype)


def _lists(values: pa.Array, rows: Iterable[Numbers]) -> pl.Series:
    ends = pa.array(np.cumsum([0, *map(len, rows)], dtype=np.int64))
    # In a batch, because for a bare array Polars imports pyarrow.compute, which takes 0.05 s.
    column = pa.RecordBatch.from_arrays([pa.LargeListArray.from_arrays(ends, values)], ["column"])
    return pl.DataFrame(pl.from_arrow(column)).to_series()
