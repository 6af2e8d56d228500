"""Distributions as bytes: PostgreSQL's binary form of their arrays, and the packed form that windows read.

PostgreSQL sends an array number by number, which takes 80 ns each, and a month of a fleet has 54 million. So a row also
has the numbers as one value, little-endian without anything between them: how many latencies there are (16 bits), the
types of the latencies and of the executions (8 bits each), the latencies, the executions of each, and the hashes of
the users (64 bits).
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
_PACKED_HEADER = Struct("<HBB")
# By number. Most latencies are below 65,536 ms and have few executions, which saves a quarter of the bytes.
_PACKED_TYPES = [np.dtype(each) for each in ("<i4", "u1", "<u2")]


def int4_arrays(values: pl.Series, lengths: pl.Series) -> Iterator[bytes]:
    """The arrays that `values` (Int32) holds one after the other, as array_send gives them."""
    return _arrays(values.to_numpy(), lengths, _INT4, _INT4_ELEMENT)


def int8_arrays(lists: pl.Series) -> Iterator[bytes]:
    """Each list of Int64 as array_send gives it."""
    values = lists.explode(empty_as_null=False, keep_nulls=False).to_numpy()
    return _arrays(values, lists.list.len(), _INT8, _INT8_ELEMENT)


def packed(latencies: pl.Series, executions: pl.Series, lengths: pl.Series, users: pl.Series) -> Iterator[bytes]:
    """The packed form of each distribution. Latencies and executions are Int32, one after the other, users lists."""
    of_latencies, of_executions = latencies.to_numpy(), executions.to_numpy()
    hashes = users.explode(empty_as_null=False, keep_nulls=False).to_numpy().astype("<i8", copy=False)
    pairs, of_users = (pairwise([0, *each.cum_sum().to_list()]) for each in (lengths, users.list.len()))
    for (start, end), (first, last) in zip(pairs, of_users, strict=True):
        numbers = [of_latencies[start:end], of_executions[start:end]]
        types = [_smallest_type(each) for each in numbers]
        header = _PACKED_HEADER.pack(end - start, *types)
        arrays = (each.astype(_PACKED_TYPES[number]) for each, number in zip(numbers, types, strict=True))
        yield b"".join((header, *(each.data for each in arrays), hashes[first:last].data))


def unpacked(rows: Sequence[bytes], start: int) -> tuple[list[Numbers], list[Numbers], list[Numbers]]:
    """Views of the latencies, executions and users of packed forms, each of which begins at this byte of its row."""
    latencies, executions, users = [], [], []
    for row in rows:
        count, *types = _PACKED_HEADER.unpack_from(row, start)
        of_latencies, of_executions = (_PACKED_TYPES[number] for number in types)
        first = start + _PACKED_HEADER.size
        second = first + count * of_latencies.itemsize
        latencies.append(np.frombuffer(row, of_latencies, count, first))
        executions.append(np.frombuffer(row, of_executions, count, second))
        users.append(np.frombuffer(row, "<i8", offset=second + count * of_executions.itemsize))
    return latencies, executions, users


def _smallest_type(numbers: Numbers) -> int:
    """The number of the smallest type that holds these numbers."""
    smallest, largest = (numbers.min(), numbers.max()) if len(numbers) else (0, 0)
    fits = [number for number in (1, 2) if smallest >= 0 and largest <= np.iinfo(_PACKED_TYPES[number]).max]
    return min(fits, default=0)


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
    sent, size = elements.view(np.uint8).data, element.itemsize
    for start, end in pairwise([0, *lengths.cum_sum().to_list()]):
        if start == end:
            yield _EMPTY_ARRAY.pack(0, 0, oid)
        else:
            yield _ARRAY_HEADER.pack(1, 0, oid, end - start, 1) + sent[start * size : end * size]
