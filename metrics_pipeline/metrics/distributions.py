"""The distribution of an agent's day: its distinct latencies with their counts, and its users as keyed hashes.

Unlike percentiles and numbers of users, distributions of any days can be merged.
"""

import hashlib
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from metrics_pipeline.metrics.calculator import LogAggregates
from metrics_pipeline.metrics.catalog import AGENT_DAY, Grain
from metrics_pipeline.metrics.expressions import LATENCY_COUNT, sorted_numbers

#: An agent's day with more distinct latencies keeps them rounded to SIGNIFICANT_BITS, and one with more users keeps
#: only the MAX_USERS smallest hashes.
MAX_LATENCIES = 16_384
MAX_USERS = 65_536
SIGNIFICANT_BITS = 10

#: By how much a percentile of rounded latencies can be wrong, relative to it, and the standard error of a number of
#: users that is estimated, relative to it.
LATENCY_ERROR = 2.0**-SIGNIFICANT_BITS
USERS_STANDARD_ERROR = (MAX_USERS - 2) ** -0.5

#: The user_key_id of merged distributions whose users were hashed with several keys, so that they cannot be counted.
SEVERAL_KEYS = "several"

#: What is known of the latencies and users of a set of logs. latency_counts: sorted by latency. total_latency_ms: the
#: exact sum. user_hashes: distinct; if not users_exact the smallest ones only, and the largest of these is the
#: threshold. user_key_id: the id of the key of user_hashes; NULL without users.
DISTRIBUTION_SCHEMA = pl.Schema(
    {
        "latency_counts": pl.List(LATENCY_COUNT),
        "total_latency_ms": pl.Int64(),
        "latencies_exact": pl.Boolean(),
        "user_hashes": pl.List(pl.Int64()),
        "users_exact": pl.Boolean(),
        "user_key_id": pl.String(),
    }
)

# A user of a row takes about 30 bytes until its hash is found. NumPy sorts with one processor.
_USERS_AT_ONCE = 2_000_000
_PARTS_AT_ONCE = 2
_LONG_ID_BYTES = 64
_HASH_BYTES = 8
# The hash -2^63 is the smallest.
_HASHES = 2.0**64
_SMALLEST_HASH = -(2.0**63)


@dataclass(frozen=True)
class UserKey:
    """The secret with which user ids are hashed. Who does not know it cannot find out whose hash is stored."""

    secret: bytes = field(repr=False)

    @property
    def key_id(self) -> str:
        """Sixteen hexadecimal digits that name the key and do not tell it."""
        return hashlib.sha256(b"id of " + self.secret).hexdigest()[:16]

    def hashes(self, user_ids: Iterable[str]) -> list[int]:
        """The first 8 bytes of the SHA-256 of the secret followed by the id, each as a signed big-endian number.

        An id of 64 bytes or more must be replaced as in PARTIALS_SCHEMA.
        """
        secret, sha256 = self.secret, hashlib.sha256
        return [
            int.from_bytes(sha256(secret + user_id.encode()).digest()[:_HASH_BYTES], "big", signed=True)
            for user_id in user_ids
        ]

    def hash_of(self, user_id: str) -> int:
        """The hash of any id, as a user's metadata has it."""
        text = user_id.encode()
        short = user_id if len(text) < _LONG_ID_BYTES else hashlib.sha256(text).hexdigest()
        return self.hashes([short])[0]


def hashed_users(aggregates: LogAggregates, agents: pl.Series, key: UserKey) -> pl.DataFrame:
    """The hash of each user of `agents` (String, distinct): user_id and user_hash. A user of several agents has one."""
    in_scope = aggregates.by_agent.lazy().filter(pl.col("agent_id").is_in(agents.implode()))
    users = in_scope.select(pl.col("user_ids").explode(empty_as_null=False, keep_nulls=False).cast(pl.Categorical))
    texts = users.collect(engine="in-memory").to_series()
    # By a mark for the number of each text: Polars' unique() takes five times as long.
    numbers: Any = texts.to_physical()
    occurs = pl.repeat(False, (numbers.max() or 0) + 1, eager=True).scatter(numbers, True)
    distinct = occurs.arg_true().cat.to(texts.dtype)
    return pl.DataFrame({"user_id": distinct, "user_hash": pl.Series(key.hashes(distinct), dtype=pl.Int64)})


def distributions(
    aggregates: LogAggregates,
    agents: pl.Series,
    key: UserKey,
    grain: Grain = AGENT_DAY,
    users: pl.DataFrame | None = None,
) -> pl.DataFrame:
    """The distribution of each row of `agents` (String, distinct) that has logs: its keys and DISTRIBUTION_SCHEMA.

    aggregates: merged by the grain. users: hashed_users() of these agents, if the caller has them. Sorted by the keys,
    without metric_date; user_hashes are sorted.
    """
    users = hashed_users(aggregates, agents, key) if users is None else users
    keys = list(grain.day_keys)
    by_hash = users.sort("user_hash").with_columns(pl.col("user_id").cast(pl.Categorical))
    # The place of each user in by_hash, by the number of the text: with a join, the whole takes half as long again.
    numbers = by_hash["user_id"].to_physical()
    places = pl.zeros(1 + (by_hash.select(pl.col("user_id").to_physical().max()).item() or 0), pl.Int64, eager=True)
    places = places.scatter(numbers, pl.int_range(len(numbers), eager=True))
    in_scope = pl.col("agent_id").is_in(agents.implode())
    order = (
        aggregates.by_agent.lazy()
        .select(*keys, users=pl.col("user_ids").list.len())
        .with_row_index("row")
        .filter(in_scope)
        .sort(keys)
        .select("row", part=pl.col("users").cum_sum() // _USERS_AT_ONCE)
        .collect(engine="in-memory")
    )

    def of(rows: pl.LazyFrame) -> pl.DataFrame:
        return _distributions(rows, keys, key, by_hash["user_hash"], places)

    if order["part"].n_unique() <= 1:
        # A single part is not copied.
        return of(aggregates.by_agent.lazy().filter(in_scope))
    parts = order.partition_by("part", maintain_order=True)
    with ThreadPoolExecutor(_PARTS_AT_ONCE) as threads:
        return pl.concat(threads.map(lambda part: of(aggregates.by_agent[part["row"]].lazy()), parts))


def _distributions(
    rows: pl.LazyFrame, keys: Sequence[str], key: UserKey, user_hashes: pl.Series, places: pl.Series
) -> pl.DataFrame:
    """See distributions(). user_hashes: sorted. places: of each user in user_hashes, by the number of its text."""
    rows = rows.with_row_index("row")
    # Sorting one number takes less than sorting the hashes of each row.
    place = pl.lit(places).gather(pl.col("user_id").cast(pl.Categorical).to_physical())
    hashes = (
        rows.select("row", user_id="user_ids")
        .explode("user_id")
        .drop_nulls("user_id")
        .select(number=sorted_numbers(pl.col("row").cast(pl.Int64) * 2**32 + place))
        .select(
            row=(pl.col("number") // 2**32).cast(pl.UInt32).set_sorted(),
            user_hash=pl.lit(user_hashes).gather(pl.col("number") % 2**32),
        )
        .group_by("row", maintain_order=True)
        .agg(user_hashes=pl.col("user_hash").head(MAX_USERS), users_exact=pl.len() <= MAX_USERS)
    )
    has_users = pl.col("user_hashes").list.len() > 0
    return (
        rows.select("row", *keys, "latency_counts", total_latency_ms="latency_ms")
        .join(hashes, on="row", how="left")
        .with_columns(
            pl.col("user_hashes").fill_null(pl.lit([], pl.List(pl.Int64))),
            pl.col("users_exact").fill_null(True),
            latencies_exact=pl.col("latency_counts").list.len() <= MAX_LATENCIES,
        )
        .with_columns(user_key_id=pl.when(has_users).then(pl.lit(key.key_id)))
        .pipe(_round_latencies)
        .select(*keys, *DISTRIBUTION_SCHEMA)
        .sort(keys)
        .collect(engine="in-memory")
    )


def unique_users() -> pl.Expr:
    """The number of users of a distribution, as Int64: exact, or estimated; NULL if they have several keys."""
    hashes = pl.col("user_hashes").list
    # Of hashes that are spread evenly, all but the threshold are below it.
    below = (hashes.len() - 1) / ((hashes.max() - _SMALLEST_HASH) / _HASHES)
    number = pl.when("users_exact").then(hashes.len().cast(pl.Int64)).otherwise(below.round().cast(pl.Int64))
    return pl.when(pl.col("user_key_id").ne_missing(SEVERAL_KEYS)).then(number)


def _summed(frame: pl.LazyFrame) -> pl.LazyFrame:
    """The column group, and latency_counts sorted by latency, with the executions of equal latencies added up."""
    # One sort of one number and running sums: a group for each latency takes 20 times as long.
    place = pl.col("group").cast(pl.Int64) * 2**32 + (pl.col("latency_ms").cast(pl.Int64) + 2**31)
    is_last = (pl.col("place") != pl.col("place").shift(-1)).fill_null(True)
    return (
        frame.select("group", "latency_counts")
        .explode("latency_counts", empty_as_null=False, keep_nulls=False)
        .unnest("latency_counts")
        .select("executions", place=place)
        .sort("place")
        .select("place", up_to=pl.col("executions").cum_sum())
        .filter(is_last)
        .select(
            group=(pl.col("place") // 2**32).cast(pl.UInt32),
            latency_ms=(pl.col("place") % 2**32 - 2**31).cast(pl.Int32),
            executions=pl.col("up_to") - pl.col("up_to").shift(1, fill_value=0),
        )
        .group_by("group", maintain_order=True)
        .agg(latency_counts=pl.struct("latency_ms", "executions"))
    )


def _round_latencies(frame: pl.LazyFrame) -> pl.LazyFrame:
    """Rounds the latencies where there are too many, half away from zero."""
    latency = pl.element().struct.field("latency_ms").cast(pl.Int64)
    unit = pl.lit(2, pl.Int64).pow(
        (64 - SIGNIFICANT_BITS - latency.abs().bitwise_leading_zeros().cast(pl.Int64)).clip(0)
    )
    magnitude = (latency.abs() + unit // 2) // unit * unit
    rounded = pl.when(latency < 0).then(-magnitude).otherwise(magnitude).clip(-(2**31), 2**31 - 1).cast(pl.Int32)
    pairs = pl.struct(rounded.alias("latency_ms"), pl.element().struct.field("executions"))
    numbered = frame.with_row_index("group")
    too_many = numbered.filter(~pl.col("latencies_exact")).with_columns(pl.col("latency_counts").list.eval(pairs))
    return numbered.join(_summed(too_many).rename({"latency_counts": "rounded"}), on="group", how="left").with_columns(
        latency_counts=pl.coalesce("rounded", "latency_counts")
    )
