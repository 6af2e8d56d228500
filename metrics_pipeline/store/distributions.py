"""The tables of distributions, one for each grain: the key of users, and writing and reading distributions."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from itertools import repeat
from struct import Struct
from typing import Any

import polars as pl
import psycopg
from sqlalchemy import Connection, text

from metrics_pipeline.errors import PermanentError
from metrics_pipeline.metrics.catalog import AGENT_DAY, GRAINS, Grain
from metrics_pipeline.metrics.distributions import DISTRIBUTION_SCHEMA, UserKey
from metrics_pipeline.metrics.merging import Distributions
from metrics_pipeline.store.arrays import ElementsLoader, from_arrays, int4_arrays, int8_arrays, packed, unpacked

_USER_KEY = text("SELECT secret FROM metric_user_key WHERE id = 1")

_OTHER_KEYS = text("""
SELECT min(metric_date) AS first, max(metric_date) AS last, count(DISTINCT metric_date) AS days
FROM agent_day_distributions WHERE user_key_id <> :key_id HAVING count(*) > 0""")

_SCALARS = ("total_latency_ms", "latencies_exact", "users_exact", "user_key_id")
_ARRAYS = ("latencies_ms", "latency_executions", "user_hashes")
#: SQL for the digest of a row: what the package computes before it sends the row.
DIGEST = """sha256(array_send(latencies_ms) || array_send(latency_executions) || array_send(user_hashes)
    || int8send(total_latency_ms) || boolsend(latencies_exact) || boolsend(users_exact))"""

#: The grain whose rows also have the packed form. Breakdowns have many times as many rows, and few are read at once.
PACKED_GRAIN = AGENT_DAY

# PostgreSQL's binary formats: COPY's signature, lengths of fields, number of fields and end; date_send.
_LENGTH = Struct(">i")
_EXACTNESS = Struct(">q??")
_COPY_HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_COPY_FIELDS = Struct(">h")
_COPY_END = Struct(">h").pack(-1)
_NULL = _LENGTH.pack(-1)
_DIGEST_BYTES = hashlib.sha256().digest_size
_EPOCH = date(2000, 1, 1)
# Each write waits until the bytes are on their way.
_ROWS_AT_ONCE = 100


def _columns(grain: Grain) -> list[str]:
    return [*_ARRAYS, *_SCALARS, "digest", *(["packed"] if grain is PACKED_GRAIN else [])]


def _select(grain: Grain, columns: Sequence[str]) -> str:
    types = ", ".join(f"%s::{key.sql_type}[]" for key in grain.keys)
    keys = ", ".join(grain.key_names)
    return f"""
SELECT wanted.place, {", ".join((*_SCALARS, *columns))}
FROM unnest({types}) WITH ORDINALITY AS wanted({keys}, place)
JOIN {grain.distributions} USING ({keys})"""


_SELECT_PACKED = _select(PACKED_GRAIN, ("digest", "packed"))
_SELECT_ARRAYS = {grain: _select(grain, _ARRAYS) for grain in GRAINS}


@dataclass(frozen=True)
class EncodedDay:
    """The distributions of a day: for each of the grain's keys the values of _columns() in binary, and the digest."""

    metric_date: date
    grain: Grain
    rows: Mapping[tuple[str, ...], Sequence[bytes | None]]
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
    counts, users = distributions["latency_counts"].list.len(), distributions["user_hashes"]
    latencies, executions = pairs.field("latency_ms"), pairs.field("executions").cast(pl.Int32)
    scalars = distributions.select(*grain.day_keys, "user_key_id", "total_latency_ms", "latencies_exact", "users_exact")
    arrays = zip(int4_arrays(latencies, counts), int4_arrays(executions, counts), int8_arrays(users), strict=True)
    is_packed = grain is PACKED_GRAIN
    packs = packed(latencies, executions, counts, users) if is_packed else repeat(b"", distributions.height)
    rows, digests = {}, {}
    for (*keys, key_id, total, are_latencies_exact, are_users_exact), of_row, pack in zip(
        scalars.iter_rows(), arrays, packs, strict=True
    ):
        flags = _EXACTNESS.pack(total, are_latencies_exact, are_users_exact)
        digest = hashlib.sha256(b"".join([*of_row, flags])).digest()
        values = (*of_row, flags[:8], flags[8:9], flags[9:], None if key_id is None else key_id.encode(), digest)
        rows[tuple(keys)] = (*values, digest + pack) if is_packed else values
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
    new = [each for each, digest in day.digests.items() if stored.get(each) != digest]
    if new:
        driver: Any = connection.connection.driver_connection
        statement = f"COPY {table} ({names}, metric_date, {', '.join(_columns(day.grain))}) FROM STDIN (FORMAT BINARY)"
        with driver.cursor() as cursor, cursor.copy(statement) as copy:
            copy.write(_COPY_HEADER)
            for start in range(0, len(new), _ROWS_AT_ONCE):
                # Here, because the server stores the rows before them meanwhile.
                copy.write(b"".join(_copied(day, new[start : start + _ROWS_AT_ONCE])))
            copy.write(_COPY_END)
    if (outdated or new) and _stored_digests(connection, day) != day.digests:
        raise PermanentError(
            f"{day.metric_date}: {table} does not store what it is given, so nothing was written. Find the trigger, "
            f"rule or policy of the table that does this (\\d {table} in psql) and remove it."
        )


def _copied(day: EncodedDay, keys: Sequence[tuple[str, ...]]) -> Iterator[bytes]:
    """The rows of these keys in the form of a binary COPY, in parts."""
    begin = _COPY_FIELDS.pack(len(day.grain.keys) + len(_columns(day.grain)))
    date_sent = _LENGTH.pack((day.metric_date - _EPOCH).days)
    for key in keys:
        yield begin
        for value in (*map(str.encode, key), date_sent, *day.rows[key]):
            if value is None:
                yield _NULL
            else:
                yield _LENGTH.pack(len(value))
                yield value


def _stored_digests(connection: Connection, day: EncodedDay) -> dict[tuple[str, ...], bytes]:
    names = ", ".join(day.grain.day_keys)
    statement = f"SELECT {names}, digest FROM {day.grain.distributions} WHERE metric_date = %s"
    return {tuple(keys): digest for *keys, digest in fetch(connection, statement, [day.metric_date])}


def read_distributions(connection: Connection, wanted: pl.DataFrame, grain: Grain) -> Distributions:
    """The stored distributions of the rows of `wanted` (keys of the grain), which has its columns besides.

    They come in any order, and without the rows that have none.
    """
    found, rest = [], wanted
    if grain is PACKED_GRAIN:
        rows = fetch(connection, _SELECT_PACKED, [wanted[key].to_list() for key in grain.key_names])
        # What is packed begins with the digest. It is left out if it is of a former state of the arrays.
        current = [row for row in rows if row[-1] is not None and row[-1].startswith(row[-2])]
        found.append(Distributions(_rows(wanted, current), *unpacked([row[-1] for row in current], _DIGEST_BYTES)))
        if len(current) < wanted.height:
            rest = wanted.join(found[0].rows, on=grain.key_names, how="anti")
        else:
            rest = wanted.clear()
    if rest.height:
        rows = fetch(connection, _SELECT_ARRAYS[grain], [rest[key].to_list() for key in grain.key_names])
        arrays = list(zip(*rows, strict=True))[-len(_ARRAYS) :] or [()] * len(_ARRAYS)
        found.append(Distributions(_rows(rest, rows), *from_arrays(*arrays)))
    return Distributions.concat(found)


def fetch(connection: Connection, statement: str, parameters: Any) -> list[tuple[Any, ...]]:
    """The rows of a statement in the driver's form, with arrays of int4 and int8 as store.arrays reads them."""
    # The driver's own cursor, because arrays as Python lists take 20 times as long as their bytes.
    driver: Any = connection.connection.driver_connection
    with driver.cursor(binary=True) as cursor:
        for name in ("int4", "int8"):
            cursor.adapters.register_loader(psycopg.adapters.types[name].array_oid, ElementsLoader)
        rows: list[tuple[Any, ...]] = cursor.execute(statement, parameters).fetchall()
    return rows


def _rows(wanted: pl.DataFrame, rows: Sequence[tuple[Any, ...]]) -> pl.DataFrame:
    place, *scalars = list(zip(*rows, strict=True))[: 1 + len(_SCALARS)] or [()] * (1 + len(_SCALARS))
    schema = {name: DISTRIBUTION_SCHEMA[name] for name in _SCALARS}
    return wanted[pl.Series(place, dtype=pl.Int64) - 1].hstack(pl.DataFrame(scalars, schema=schema, orient="col"))
