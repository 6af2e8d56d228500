"""Hashes of a day's logs in a lake: the same in every version of Polars, whose own are not."""

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import polars as pl

from metrics_pipeline.logs.lake_columns import stored_user_id

# Odd numbers, from the fractional parts of the golden ratio and of square roots.
_WORD = (
    0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B, 0x3C6EF372FE94F82B, 0xA54FF53A5F1D36F1,
    0x510E527FADE682D1, 0x9B05688C2B3E6C1F, 0x1F83D9ABFB41BD6B, 0x5BE0CD19137E2179,
)  # fmt: skip
_FINAL = 0xBF58476D1CE4E5B9
_FLAGS = ("is_successful", "has_failed", "is_human_intervention")
# In place of an irregular cost.
_NO_COST = -(2**63)


def log_hashes(logs: pl.DataFrame) -> pl.Series:
    """64 bits of everything that a metric depends on for each log of log_schema(), as UInt64.

    An irregular cost, which the schema does not have, is not in it.
    """
    flags = [logs[name].cast(pl.Int64) * 2**bit for bit, name in enumerate(_FLAGS)]
    latencies = (logs["latency_ms"].cast(pl.Int64) + 2**32).fill_null(0) * 2 ** len(_FLAGS)
    hashes = _mixed(_hashes_of(logs["agent_id"]), _FINAL)
    for factor, values in zip(
        _WORD,
        (
            _hashes_of(logs["user_id"]),
            sum(flags, latencies),
            logs["token_count"].cast(pl.Int64),
            logs["cost_nano_usd"].fill_null(_NO_COST),
            _hashes_of(logs["error_type"]),
        ),
        strict=False,
    ):
        hashes = _mixed(hashes + values.cast(pl.UInt64, wrap_numerical=True), factor)
    return hashes


def value_hashes(logs: pl.DataFrame, hashes: pl.Series, number: int) -> pl.Series:
    """64 bits for each log and its value of a dimension, as UInt64. hashes: log_hashes()."""
    return _mixed(hashes + _hashes_of(logs[f"value_{number}"]), _FINAL)


def text_hash(texts: pl.Series) -> pl.Series:
    """64 bits for each text, as UInt64, from its first 64 bytes of UTF-8 and its length; NULL for NULL."""
    lengths: Any = texts.str.len_bytes()
    # Words that no text has are 0, and add nothing.
    words = min(-(-max(lengths.max() or 1, 1) // 8), len(_WORD))
    padded = texts.str.pad_end(8 * words, "\0").cast(pl.Binary)
    total = lengths.cast(pl.UInt64) + 1
    for number in range(words):
        word = padded.bin.slice(8 * number, 8).bin.reinterpret(dtype=pl.UInt64, endianness="little")
        total += _mixed(word, _WORD[number])
    return _mixed(total, _FINAL)


def digest(values: Sequence[Any]) -> int:
    """56 bits of values that JSON can hold."""
    return int.from_bytes(hashlib.blake2b(json.dumps(values).encode(), digest_size=7).digest(), "big")


def _hashes_of(texts: pl.Series) -> pl.Series:
    """The text_hash() of each category, which is computed once; 0 for NULL. Long texts count as their SHA-256."""
    distinct = texts.drop_nulls().unique()
    if distinct.is_empty():
        return pl.zeros(len(texts), dtype=pl.UInt64, eager=True)
    hashes = text_hash(distinct.cast(pl.String).to_frame("text").select(stored_user_id(pl.col("text"))).to_series())
    places: Any = distinct.to_physical()
    of_place = pl.zeros(places.max() + 1, dtype=pl.UInt64, eager=True).scatter(places, hashes)
    return of_place.gather(texts.to_physical()).fill_null(0)


def _mixed(numbers: pl.Series, factor: int) -> pl.Series:
    """Products modulo 2^64, as Polars multiplies UInt64, with the high bits brought down in between. 0 stays 0.

    Of a series, because as an expression that occurs twice in itself each step would be computed twice as often as the
    next: 2 s for a million texts instead of 0.2.
    """
    for each in (factor, _FINAL):
        products = numbers * pl.Series([each], dtype=pl.UInt64)
        numbers = products ^ (products // 2**32)
    return numbers
