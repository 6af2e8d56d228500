"""The tables of distributions, one for each grain: the key of users, and writing a day's distributions."""

import hashlib
import sys
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from itertools import pairwise
from struct import Struct
from typing import Any

import polars as pl
from sqlalchemy import Connection, text

from metrics_pipeline.errors import PermanentError
from metrics_pipeline.metrics.catalog import AGENT_DAY, Grain
from metrics_pipeline.metrics.distributions import UserKey

_USER_KEY = text("SELECT secret FROM metric_user_key WHERE id = 1")

_OTHER_KEYS = text("""
SELECT min(metric_date) AS first, max(metric_date) AS last, count(DISTINCT metric_date) AS days
FROM agent_day_distributions WHERE user_key_id <> :key_id HAVING count(*) > 0""")

_COLUMNS = (
    "latencies_ms, latency_executions, user_hashes, total_latency_ms, latencies_exact, users_exact, user_key_id, digest"
)
#: SQL for the digest of a row: what the package computes before it sends the row.
DIGEST = """sha256(array_send(latencies_ms) || array_send(latency_executions) || array_send(user_hashes)
    || int8send(total_latency_ms) || boolsend(latencies_exact) || boolsend(users_exact))"""

# PostgreSQL's binary formats (array_send, date_send, and COPY's signature, number of fields and end).
_INT4, _INT8 = 23, 20
ARRAY_HEADER, _EMPTY_ARRAY, _LENGTH = Struct(">iiiii"), Struct(">iii"), Struct(">i")
_EXACTNESS = Struct(">q??")
_COPY_HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_COPY_FIELDS = Struct(">h")
_COPY_END = Struct(">h").pack(-1)
_NULL = _LENGTH.pack(-1)
_DIGEST_LENGTH = _LENGTH.pack(hashlib.sha256().digest_size)
_EPOCH = date(2000, 1, 1)


@dataclass(frozen=True)
class EncodedDay:
    """The distributions of a day in the form of a binary COPY: the row and the digest for each of the grain's keys."""

    metric_date: date
    grain: Grain
    rows: Mapping[tuple[str, ...], bytes]
    digests: Mapping[tuple[str, ...], bytes]


def user_key(connection: Connection, configured: UserKey | None) -> UserKey:
    """The key with which users are hashed: METRICS_USER_KEY, or the one that the migration made."""
    return configured or UserKey(bytes(connection.execute(_USER_KEY).scalar_one()))


def hashed_otherwise(connection: Connection, key: UserKey) -> str | None:
    """A sentence on the days whose users are hashed with another key than `key`; None if there are none."""
    found = connection.execute(_OTHER_KEYS, {"key_id": key.key_id}).one_or_none()
    if found is None:
        return None
    return (
        f"The users of {found.days} stored days from {found.first} to {found.last} are hashed with another key than "
        "the one in use, so a window that also has other days cannot count its users: unique_users is null. Set "
        "METRICS_USER_KEY to the former key again, or aggregate the days whose logs exist again: metrics-pipeline "
        f"backfill --from {found.first} --to {found.last}"
    )


def encode_day(metric_date: date, distributions: pl.DataFrame, grain: Grain = AGENT_DAY) -> EncodedDay:
    """Encodes the grain's keys and DISTRIBUTION_SCHEMA. Lists become bytes as a whole, not value by value."""
    pairs = distributions["latency_counts"].explode(empty_as_null=False, keep_nulls=False).struct
    pair_counts = distributions["latency_counts"].list.len()
    latencies = _int4_arrays(pairs.field("latency_ms"), pair_counts)
    executions = _int4_arrays(pairs.field("executions").cast(pl.Int32), pair_counts)
    users = _int8_arrays(distributions["user_hashes"])
    day = _field(_LENGTH.pack((metric_date - _EPOCH).days))
    numbers = distributions.select(*grain.day_keys, "user_key_id", "total_latency_ms", "latencies_exact", "users_exact")
    begin = _COPY_FIELDS.pack(len(grain.keys) + _COLUMNS.count(",") + 1)
    # Most texts are in many rows: agents, dimensions, values, the key.
    texts: dict[str | None, bytes] = {None: _NULL}
    rows, digests = {}, {}
    # A day by dimension has tens of thousands of rows, so nothing is called that can be inlined: a third of the time.
    for (*keys, key_id, total, are_latencies_exact, are_users_exact), *arrays in zip(
        numbers.iter_rows(), latencies, executions, users, strict=True
    ):
        flags = _EXACTNESS.pack(total, are_latencies_exact, are_users_exact)
        digest = hashlib.sha256(b"".join([*arrays, flags])).digest()
        parts = [begin]
        for name in (*keys, key_id):
            if name not in texts:
                texts[name] = _field(name.encode())
            parts.append(texts[name])
        named = parts.pop()
        parts.append(day)
        for value in (*arrays, flags[:8], flags[8:9], flags[9:]):
            parts += (_LENGTH.pack(len(value)), value)
        rows[tuple(keys)] = b"".join([*parts, named, _DIGEST_LENGTH, digest])
        digests[tuple(keys)] = digest
    return EncodedDay(metric_date, grain, rows, digests)


def write_day(connection: Connection, day: EncodedDay) -> None:
    """Replaces the stored rows that differ, and no other. The caller holds the lock of the day.

    Raises PermanentError if the table does not store what it is given.
    """
    table, keys = day.grain.distributions, day.grain.day_keys
    names = ", ".join(keys)
    stored = _stored_digests(connection, day)
    outdated = [each for each, digest in stored.items() if day.digests.get(each) != digest]
    if outdated:
        columns = dict(zip(keys, map(list, zip(*outdated, strict=True)), strict=True))
        given = ", ".join(f"CAST(:{name} AS text[])" for name in keys)
        delete = (
            f"DELETE FROM {table} WHERE metric_date = :metric_date AND ({names}) IN (SELECT * FROM unnest({given}))"
        )
        connection.execute(text(delete), {"metric_date": day.metric_date, **columns})
    new = [row for each, row in day.rows.items() if stored.get(each) != day.digests[each]]
    if new:
        driver: Any = connection.connection.driver_connection
        statement = f"COPY {table} ({names}, metric_date, {_COLUMNS}) FROM STDIN (FORMAT BINARY)"
        with driver.cursor() as cursor, cursor.copy(statement) as copy:
            copy.write(_COPY_HEADER)
            for row in new:
                copy.write(row)
            copy.write(_COPY_END)
    if (outdated or new) and _stored_digests(connection, day) != day.digests:
        raise PermanentError(
            f"{day.metric_date}: {table} does not store what it is given, so nothing was written. Find the trigger, "
            f"rule or policy of the table that does this (\\d {table} in psql) and remove it."
        )


def _stored_digests(connection: Connection, day: EncodedDay) -> dict[tuple[str, ...], bytes]:
    names = ", ".join(day.grain.day_keys)
    statement = f"SELECT {names}, digest FROM {day.grain.distributions} WHERE metric_date = :metric_date"
    return {
        tuple(keys): bytes(digest)
        for *keys, digest in connection.execute(text(statement), {"metric_date": day.metric_date})
    }


def _field(value: bytes) -> bytes:
    return _LENGTH.pack(len(value)) + value


def _int4_arrays(values: pl.Series, lengths: pl.Series) -> Iterator[bytes]:
    # Length and value together are one 64-bit number: the length in the upper half.
    whole = values.cast(pl.Int64) & 0xFFFFFFFF | (4 << 32)
    return _arrays(_big_endian("q", whole), lengths, _INT4, 8)


def _int8_arrays(lists: pl.Series) -> Iterator[bytes]:
    values = pl.col("value")
    halves = (
        lists.explode(empty_as_null=False, keep_nulls=False)
        .to_frame("value")
        .select(
            pl.concat_arr(
                pl.lit(8, pl.Int32),
                (values // 2**32).cast(pl.Int32),
                (values & 0xFFFFFFFF).cast(pl.UInt32).reinterpret(signed=True),
            ).arr.explode()
        )
        .to_series()
    )
    return _arrays(_big_endian("i", halves), lists.list.len(), _INT8, 12)


def _arrays(elements: bytes, lengths: pl.Series, oid: int, size: int) -> Iterator[bytes]:
    ends = [0, *lengths.cum_sum().to_list()]
    for start, end in pairwise(ends):
        if start == end:
            yield _EMPTY_ARRAY.pack(0, 0, oid)
        else:
            yield ARRAY_HEADER.pack(1, 0, oid, end - start, 1) + elements[start * size : end * size]


def _big_endian(code: str, numbers: pl.Series) -> bytes:
    buffer = array(code)
    if len(numbers):
        buffer.frombytes(numbers.rechunk().to_arrow().buffers()[1])
    if sys.byteorder == "little":
        buffer.byteswap()
    return buffer.tobytes()
