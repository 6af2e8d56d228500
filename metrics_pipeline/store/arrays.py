"""Distributions as bytes: PostgreSQL's binary form of their arrays, and the packed form that windows read.

PostgreSQL sends an array number by number, which takes 80 ns each, and a month of a fleet has 54 million. So a row also
has the numbers as one value, little-endian without anything between them: how many latencies, the latencies, the
executions of each (all of 32 bits), and the hashes of the users (64 bits).
"""

import sys
from array import array
from collections.abc import Iterator, Sequence
from itertools import pairwise
from struct import Struct
from typing import Any

import polars as pl
import psycopg
import pyarrow as pa
from psycopg.pq import Format

# PostgreSQL's binary formats: array_send begins with dimensions, a flag, the type, the length and the lower bound, and
# each element with its length.
_INT4, _INT8 = 23, 20
_ARRAY_HEADER, _EMPTY_ARRAY = Struct(">iiiii"), Struct(">iii")
_INT4_BYTES, _INT8_BYTES = 8, 12
_COUNT = Struct("<i")


def int4_arrays(values: pl.Series, lengths: pl.Series) -> Iterator[bytes]:
    """The arrays that `values` (Int32) holds one after the other, as array_send gives them."""
    return _arrays(_elements(4, _buffer("i", values)), lengths, _INT4, _INT4_BYTES)


def int8_arrays(lists: pl.Series) -> Iterator[bytes]:
    """Each list of Int64 as array_send gives it."""
    halves = _buffer("i", lists.explode(empty_as_null=False, keep_nulls=False))
    high, low = (1, 0) if sys.byteorder == "little" else (0, 1)
    return _arrays(_elements(8, halves[high::2], halves[low::2]), lists.list.len(), _INT8, _INT8_BYTES)


def packed(latencies: pl.Series, executions: pl.Series, lengths: pl.Series, users: pl.Series) -> Iterator[bytes]:
    """The packed form of each distribution. Latencies and executions are Int32, one after the other, users lists."""
    of_latencies, of_executions = _bytes("i", latencies, "little"), _bytes("i", executions, "little")
    hashes = _bytes("q", users.explode(empty_as_null=False, keep_nulls=False), "little")
    pairs, of_users = (pairwise([0, *each.cum_sum().to_list()]) for each in (lengths, users.list.len()))
    for (start, end), (first, last) in zip(pairs, of_users, strict=True):
        count = _COUNT.pack(end - start)
        yield b"".join(
            (count, of_latencies[4 * start : 4 * end], of_executions[4 * start : 4 * end], hashes[8 * first : 8 * last])
        )


def unpacked(rows: Sequence[memoryview]) -> tuple[pl.Series, pl.Series]:
    """latency_counts and user_hashes, as DISTRIBUTION_SCHEMA has them, of distributions in the packed form."""
    counts = [_COUNT.unpack_from(row)[0] for row in rows]
    ends = [(4 + 4 * count, 4 + 8 * count) for count in counts]
    latencies = b"".join(row[4:middle] for row, (middle, _) in zip(rows, ends, strict=True))
    executions = b"".join(row[middle:end] for row, (middle, end) in zip(rows, ends, strict=True))
    hashes = b"".join(row[end:] for row, (_, end) in zip(rows, ends, strict=True))
    return (
        _latency_counts(_numbers("i", latencies, "little"), _numbers("i", executions, "little"), counts),
        _lists(
            _numbers("q", hashes, "little"), [(len(row) - end) // 8 for row, (_, end) in zip(rows, ends, strict=True)]
        ),
    )


def from_arrays(
    latencies: Sequence[bytes], executions: Sequence[bytes], users: Sequence[bytes]
) -> tuple[pl.Series, pl.Series]:
    """latency_counts and user_hashes, as DISTRIBUTION_SCHEMA has them, of the elements of their arrays."""
    return (
        _latency_counts(int4(latencies), int4(executions), lengths_of_int4(latencies)),
        _lists(int8(users), [len(each) // _INT8_BYTES for each in users]),
    )


class ElementsLoader(psycopg.adapt.Loader):
    """Loads an array in PostgreSQL's binary form as the bytes of its elements: Python lists take 20 times as long."""

    format = Format.BINARY

    def load(self, data: Any) -> bytes:
        """The elements, each with its length."""
        return bytes(data[_ARRAY_HEADER.size :])


def lengths_of_int4(arrays: Sequence[bytes]) -> list[int]:
    """How many numbers each of these arrays of int4 has."""
    return [len(each) // _INT4_BYTES for each in arrays]


def int4(arrays: Sequence[bytes]) -> pl.Series:
    """The numbers of arrays of int4, one array after the other, as Int32."""
    return (_numbers("q", b"".join(arrays), "big") & 0xFFFFFFFF).cast(pl.UInt32).reinterpret(signed=True)


def int8(arrays: Sequence[bytes]) -> pl.Series:
    """The numbers of arrays of int8, one array after the other, as Int64."""
    thirds = _numbers("i", b"".join(arrays), "big")
    high, low = thirds.gather_every(3, 1), thirds.gather_every(3, 2)
    return high.cast(pl.Int64) * 2**32 + low.reinterpret(signed=False).cast(pl.Int64)


def _arrays(elements: bytes, lengths: pl.Series, oid: int, size: int) -> Iterator[bytes]:
    for start, end in pairwise([0, *lengths.cum_sum().to_list()]):
        if start == end:
            yield _EMPTY_ARRAY.pack(0, 0, oid)
        else:
            yield _ARRAY_HEADER.pack(1, 0, oid, end - start, 1) + elements[start * size : end * size]


def _elements(size: int, *words: "array[int]") -> bytes:
    """Numbers of `size` bytes, each behind its length. words: their first 32 bits, and so on."""
    width = 1 + len(words)
    elements = array("i", [size]) * (len(words[0]) * width)
    for place, word in enumerate(words, 1):
        elements[place::width] = word
    if sys.byteorder == "little":
        elements.byteswap()
    return elements.tobytes()


def _buffer(code: str, numbers: pl.Series) -> "array[int]":
    buffer = array(code)
    if len(numbers):
        buffer.frombytes(numbers.rechunk().to_arrow().buffers()[1])
    return buffer


def _bytes(code: str, numbers: pl.Series, byte_order: str) -> bytes:
    buffer = _buffer(code, numbers)
    if sys.byteorder != byte_order:
        buffer.byteswap()
    return buffer.tobytes()


def _numbers(code: str, elements: bytes, byte_order: str) -> pl.Series:
    buffer: Any = elements
    if sys.byteorder != byte_order:
        buffer = array(code, elements)
        buffer.byteswap()
    dtype, size = (pa.int64(), 8) if code == "q" else (pa.int32(), 4)
    return _series(pa.Array.from_buffers(dtype, len(elements) // size, [None, pa.py_buffer(buffer)]))


def _latency_counts(latencies: pl.Series, executions: pl.Series, lengths: Sequence[int]) -> pl.Series:
    pairs = pl.DataFrame({"latency_ms": latencies, "executions": executions.cast(pl.Int64)})
    return _lists(pairs.to_struct(), lengths)


def _lists(values: pl.Series, lengths: Sequence[int]) -> pl.Series:
    offsets = pl.Series([0, *lengths], dtype=pl.Int64).cum_sum().to_arrow()
    return _series(pa.LargeListArray.from_arrays(offsets, values.to_arrow()))


def _series(column: pa.Array) -> pl.Series:
    return pl.DataFrame(pl.from_arrow(pa.RecordBatch.from_arrays([column], ["column"]))).to_series()
