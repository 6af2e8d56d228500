"""Columns of reproducible random values. Each is a pure function of its key and does not depend on other columns.

FIPS 202 defines SHAKE-128. The generators of Polars, NumPy and Python's random may change between versions. A million
values take about 50 ms.
"""

import hashlib
import math

import polars as pl
import pyarrow as pa


def uniform(rows: int, *key: object) -> pl.Series:
    """`rows` values in [0, 1) as Float64; the 2^53 multiples of 2^-53 are equally likely."""
    words = pa.Array.from_buffers(pa.uint64(), rows, [None, pa.py_buffer(_random_bytes(8 * rows, key))])
    return (pl.Series(words) // 2**11).cast(pl.Float64) / 2.0**53


def normal(rows: int, *key: object) -> pl.Series:
    """`rows` values of the standard normal distribution as Float64, by the Box-Muller transform."""
    radius = (-2.0 * (1.0 - uniform(rows, *key, "radius")).log()).sqrt()
    return radius * (2.0 * math.pi * uniform(rows, *key, "angle")).cos()


def uuids(rows: int, *key: object) -> pl.Series:
    """`rows` UUIDs of version 8 (RFC 9562: the application chooses the bits) as text."""
    numbers = pa.Array.from_buffers(pa.binary(16), rows, [None, pa.py_buffer(_random_bytes(16 * rows, key))])
    digits = pl.Series("id", numbers).bin.encode("hex").str
    return (
        digits.slice(0, 8)
        + "-"
        + digits.slice(8, 4)
        + "-8"
        + digits.slice(13, 3)
        + "-a"
        + digits.slice(17, 3)
        + "-"
        + digits.slice(20)
    )


def _random_bytes(count: int, key: tuple[object, ...]) -> bytes:
    return hashlib.shake_128(repr(key).encode()).digest(count)
