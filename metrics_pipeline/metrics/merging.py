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

# How many users of one combination are held until they are united, repeated ones counted each time: 64 MB. As many
# pairs of latencies and executions.
_HELD = 8_000_000

_SCALARS = ("total_latency_ms", "latencies_exact", "users_exact", "user_key_id")


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

    def frame(self) -> pl.DataFrame:
        """The columns of `rows`, and the lists of DISTRIBUTION_SCHEMA."""
        pairs = [pa.array(_one(self.latencies, np.int32)), pa.array(_one(self.executions, np.int64))]
        counts = _lists(pa.StructArray.from_arrays(pairs, ["latency_ms", "executions"]), self.latencies)
        users = _lists(pa.array(_one(self.users, np.int64)), self.users)
        return self.rows.with_columns(latency_counts=counts, user_hashes=users)


def merge_distributions(parts: Iterable[Distributions], keys: Sequence[str]) -> Distributions:
    """The distribution of all logs of each combination of `keys`: counts added, users united.

    The combinations are in the order in which they come first in `parts`. Merging is associative and commutative. Exact
    parts give an exact result, of whatever size. Of each combination, memory holds what is merged, about as much or
    _HELD numbers of what is not, and no part for longer.
    """
    groups: dict[tuple[Any, ...], _Group] = {}
    rows = []
    for part in parts:
        rows.append(part.rows.select(*keys, *_SCALARS))
        places = (
            part.rows.lazy()
            .with_row_index("row")
            .group_by(keys, maintain_order=True)
            .agg("row", estimated=pl.col("row").filter(~pl.col("users_exact")))
            .collect(engine="in-memory")
        )
        for *key, of_group, estimated in places.iter_rows():
            groups.setdefault(tuple(key), _Group()).add(part, of_group, estimated)
    key_ids = pl.col("user_key_id").drop_nulls()
    merged = (
        pl.concat(rows)
        .lazy()
        .group_by(keys, maintain_order=True)
        .agg(
            pl.col("total_latency_ms").sum(),
            pl.col("latencies_exact").all(),
            pl.col("users_exact").all(),
            pl.when(key_ids.n_unique() > 1).then(pl.lit(SEVERAL_KEYS)).otherwise(key_ids.first()).alias("user_key_id"),
        )
        .collect(engine="in-memory")
    )
    pairs = [group.pairs() for group in groups.values()]
    users = [group.users() for group in groups.values()]
    return Distributions(merged, [each for each, _ in pairs], [each for _, each in pairs], users)


class _Group:
    """What has come of one combination of keys, most of it merged."""

    def __init__(self) -> None:
        self._latencies: list[Numbers] = []
        self._executions: list[Numbers] = []
        self._most_pairs = _HELD
        self._users = _Union()
        self._largest: list[int] = []

    def add(self, part: Distributions, rows: Sequence[int], estimated: Sequence[int]) -> None:
        """Adds some rows of a part. estimated: those of which only the smallest users are known."""
        latencies, executions = _added([part.latencies[row] for row in rows], [part.executions[row] for row in rows])
        self._latencies.append(latencies)
        self._executions.append(executions)
        # What is merged is merged again only when as much has come: otherwise the time would grow with the square.
        if sum(map(len, self._latencies)) > self._most_pairs:
            self._most_pairs = max(_HELD, 2 * len(self.pairs()[0]))
        self._users.add([part.users[row] for row in rows])
        self._largest += [part.users[row].max() for row in estimated]

    def pairs(self) -> tuple[Numbers, Numbers]:
        """The distinct latencies, and the executions of each."""
        latencies, executions = _added(self._latencies, self._executions)
        self._latencies, self._executions = [latencies], [executions]
        return latencies, executions

    def users(self) -> Numbers:
        """The distinct users. Those of an estimated part are known up to its largest, so all above are left out."""
        users = self._users.numbers()
        return users[: np.searchsorted(users, min(self._largest), side="right")] if self._largest else users


class _Union:
    """The distinct numbers of arrays, each of which is sorted and distinct. They are copied, so that none is kept."""

    def __init__(self) -> None:
        self._room: Numbers = np.empty(0, np.int64)
        self._filled = 0
        self._is_united = True

    def add(self, arrays: list[Numbers]) -> None:
        """Adds the numbers of some arrays."""
        size = sum(map(len, arrays))
        if self._filled + size > len(self._room):
            united = self.numbers()
            # At first room for these only, because most groups come at once.
            spare = max(_HELD, len(united)) if self._filled else 0
            if len(united) + size + spare > len(self._room):
                self._room = np.empty(len(united) + size + spare, np.int64)
            self._filled = len(united)
            self._room[: self._filled] = united
        np.concatenate(arrays, out=self._room[self._filled : self._filled + size])
        self._is_united = not self._filled and len(arrays) == 1
        self._filled += size

    def numbers(self) -> Numbers:
        """The distinct ones, sorted. Until the next call of add()."""
        numbers = self._room[: self._filled]
        if self._is_united:
            return numbers
        # A sort takes a twentieth of the time of np.unique(), and less than a hash table in Polars.
        numbers.sort()
        return numbers[_is_new(numbers)]


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
