"""Distributions as bytes: PostgreSQL's binary form of their arrays, and the packed form that windows read.

PostgreSQL sends an array number by number, which takes 80 ns each, and a month of a fleet has 54 million. So a row also
has the numbers as one value, little-endian without anything between them: how many latencies, the latencies, the
executions of each (all of 32 bits), and the hashes of the users (64 bits).
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from struct import Struct
from typing import Any

import numpy as np
import polars as pl
import psycopg
from psycopg.pq import Format

from metrics_pipeline.metrics.merging import Numbers

# PostgreSQL's binary formats: array_send begins with dimensions, a flag, the type, the length and the lower bound, and
# each element with its length.
_INT4, _INT8 = 23, 20
_ARRAY_HEADER, _EMPTY_ARRAY = Struct(">iiiii"), Struct(">iii")
_INT4_ELEMENT = np.dtype([("length", ">i4"), ("value", ">i4")])
_INT8_ELEMENT = np.dtype([("length", ">i4"), ("value", ">i8")])
_COUNT = Struct("<i")


def int4_arrays(values: pl.Series, lengths: pl.Series) -> Iterator[bytes]:
    """The arrays that `values` (Int32) holds one after the other, as array_send gives them."""
    return _arrays(values.to_numpy(), lengths, _INT4, _INT4_ELEMENT)


def int8_arrays(lists: pl.Series) -> Iterator[bytes]:
    """Each list of Int64 as array_send gives it."""
    values = lists.explode(empty_as_null=False, keep_nulls=False).to_numpy()
    return _arrays(values, lists.list.len(), _INT8, _INT8_ELEMENT)


def packed(latencies: pl.Series, executions: pl.Series, lengths: pl.Series, users: pl.Series) -> Iterator[bytes]:
    """The packed form of each distribution. Latencies and executions are Int32, one after the other, users lists."""
    of_latencies, of_executions = (each.to_numpy().astype("<i4", copy=False) for each in (latencies, executions))
    hashes = users.explode(empty_as_null=False, keep_nulls=False).to_numpy().astype("<i8", copy=False)
    pairs, of_users = (pairwise([0, *each.cum_sum().to_list()]) for each in (lengths, users.list.len()))
    for (start, end), (first, last) in zip(pairs, of_users, strict=True):
        numbers = (of_latencies[start:end], of_executions[start:end], hashes[first:last])
        yield b"".join((_COUNT.pack(end - start), *(each.data for each in numbers)))


def unpacked(rows: Sequence[bytes], start: int) -> tuple[list[Numbers], list[Numbers], list[Numbers]]:
    """Views of the latencies, executions and users of packed forms, each of which begins at this byte of its row."""
    latencies, executions, users = [], [], []
    for row in rows:
        (count,) = _COUNT.unpack_from(row, start)
        first = start + _COUNT.size
        latencies.append(np.frombuffer(row, "<i4", count, first))
        executions.append(np.frombuffer(row, "<i4", count, first + 4 * count))
        users.append(np.frombuffer(row, "<i8", offset=first + 8 * count))
    return latencies, executions, users


def from_arrays(
    latencies: Sequence[bytes], executions: Sequence[bytes], users: Sequence[bytes]
) -> tuple[list[Numbers], list[Numbers], list[Numbers]]:
    """As unpacked(), from the elements of arrays."""
    return (
        [np.frombuffer(row, _INT4_ELEMENT)["value"] for row in latencies],
        [np.frombuffer(row, _INT4_ELEMENT)["value"] for row in executions],
        [np.frombuffer(row, _INT8_ELEMENT)["value"] for row in users],
    )


class ElementsLoader(psycopg.adapt.Loader):
    """Loads an array in PostgreSQL's binary form as the bytes of its elements: Python lists take 20 times as long."""

    format = Format.BINARY

    def load(self, data: Any) -> bytes:
        """The elements, each with its length."""
        return bytes(data[_ARRAY_HEADER.size :])


def lengths_of_int4(arrays: Sequence[bytes]) -> list[int]:
    """How many numbers each of these arrays of int4 has."""
    return [len(each) // _INT4_ELEMENT.itemsize for each in arrays]


def int4(arrays: Sequence[bytes]) -> pl.Series:
    """The numbers of arrays of int4, one array after the other, as Int32."""
    return pl.Series(np.frombuffer(b"".join(arrays), _INT4_ELEMENT)["value"].astype(np.int32))


def int8(arrays: Sequence[bytes]) -> pl.Series:
    """The numbers of arrays of int8, one array after the other, as Int64."""
    return pl.Series(np.frombuffer(b"".join(arrays), _INT8_ELEMENT)["value"].astype(np.int64))


def _arrays(values: Numbers, lengths: pl.Series, oid: int, element: np.dtype[Any]) -> Iterator[bytes]:
    elements = np.empty(len(values), element)
    elements["length"], elements["value"] = element["value"].itemsize, values
    for start, end in pairwise([0, *lengths.cum_sum().to_list()]):
        if start == end:
            yield _EMPTY_ARRAY.pack(0, 0, oid)
        else:
            yield _ARRAY_HEADER.pack(1, 0, oid, end - start, 1) + elements[start:end].tobytes()
