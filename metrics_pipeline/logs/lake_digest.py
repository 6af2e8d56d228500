"""Hashes of a day's logs in a lake: the same in every version of Polars, whose own are not."""

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from metrics_pipeline.logs.lake_columns import stored_user_id

Hashes = npt.NDArray[np.uint64]

# Odd numbers, from the fractional parts of the golden ratio and of square roots.
_WORD = (
    0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B, 0x3C6EF372FE94F82B, 0xA54FF53A5F1D36F1,
    0x510E527FADE682D1, 0x9B05688C2B3E6C1F, 0x1F83D9ABFB41BD6B, 0x5BE0CD19137E2179,
)  # fmt: skip
_FINAL = 0xBF58476D1CE4E5B9
# Not all of upstream.FLAGS: with one more, every stored day of a lake would differ from its logs.
_FLAGS = ("is_successful", "has_failed", "is_human_intervention")
# So many logs at once stay in the processor's cache.
_BLOCK = 16_384
# In place of an irregular cost.
_NO_COST = -(2**63)


def log_hashes(logs: pl.DataFrame) -> pl.Series:
    """64 bits of everything that a metric depends on for each log of log_schema(), as UInt64.

    An irregular cost, which the schema does not have, is not in it.
    """
    latency = (pl.col("latency_ms").cast(pl.Int64) + 2**32).fill_null(0) * 2 ** len(_FLAGS)
    flags = (pl.col(name).cast(pl.Int64) * 2**bit for bit, name in enumerate(_FLAGS))
    numbers = logs.select(
        latency=pl.sum_horizontal(latency, *flags),
        tokens=pl.col("token_count").cast(pl.Int64),
        cost=pl.col("cost_nano_usd").fill_null(_NO_COST),
    )
    words = (
        _hashes_of(logs["user_id"]),
        *(number.to_numpy().view(np.uint64) for number in numbers),
        _hashes_of(logs["error_type"]),
    )
    hashes = _hashes_of(logs["agent_id"])
    for start in range(0, len(hashes), _BLOCK):
        block = slice(start, start + _BLOCK)
        mixed = _mixed(hashes[block], _FINAL)
        for factor, word in zip(_WORD, words, strict=False):
            mixed = _mixed(mixed + word[block], factor)
        hashes[block] = mixed
    return pl.Series(hashes)


def value_hashes(logs: pl.DataFrame, hashes: pl.Series, number: int) -> pl.Series:
    """64 bits for each log and its value of a dimension, as UInt64. hashes: log_hashes()."""
    return pl.Series(_mixed(hashes.to_numpy() + _hashes_of(logs[f"value_{number}"]), _FINAL))


def text_hash(texts: pl.Series) -> Hashes:
    """64 bits for each text, none of them NULL, from its first 64 bytes of UTF-8 and its length."""
    lengths: Any = texts.str.len_bytes()
    # Words that no text has are 0, and add nothing.
    words = min(-(-max(lengths.max() or 1, 1) // 8), len(_WORD))
    padded = texts.str.pad_end(8 * words, "\0").cast(pl.Binary)
    total = lengths.to_numpy().astype(np.uint64) + np.uint64(1)
    for number in range(words):
        word = padded.bin.slice(8 * number, 8).bin.reinterpret(dtype=pl.UInt64, endianness="little")
        total += _mixed(word.to_numpy(), _WORD[number])
    return _mixed(total, _FINAL)


def digest(values: Sequence[Any]) -> int:
    """56 bits of values that JSON can hold."""
    return int.from_bytes(hashlib.blake2b(json.dumps(values).encode(), digest_size=7).digest(), "big")


def _hashes_of(texts: pl.Series) -> Hashes:
    """The text_hash() of each category, which is computed once; 0 for NULL. Long texts count as their SHA-256."""
    numbers: Any = texts.to_physical()
    null = (numbers.max() or 0) + 1
    places: npt.NDArray[np.uint32] = numbers.fill_null(null).to_numpy()
    occurs = np.zeros(null + 1, dtype=bool)
    occurs[places] = True
    distinct = np.flatnonzero(occurs[:null])
    categories = pl.Series("text", distinct, dtype=pl.UInt32).cat.to(texts.dtype).cast(pl.String)
    hashes = np.zeros(null + 1, dtype=np.uint64)
    hashes[distinct] = text_hash(categories.to_frame().select(stored_user_id(pl.col("text"))).to_series())
    return hashes[places]


def _mixed(numbers: Hashes, factor: int) -> Hashes:
    """Products modulo 2^64, with the high bits brought down in between. 0 stays 0."""
    for each in (factor, _FINAL):
        numbers = numbers * np.uint64(each)
        numbers ^= numbers >> np.uint64(32)
    return numbers
