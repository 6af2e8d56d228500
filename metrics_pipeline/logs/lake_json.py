"""Values of JSON text in the logs of a lake, as PostgreSQL's ->> and #>> give them."""

import re
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any

import polars as pl
import simplejson

#: What with_json_text() gives for a list or an object, if it marks them. No text of PostgreSQL holds a zero byte.
LIST_MARK = "\0"

#: Results of json_path_match that PostgreSQL writes in another way: long or fractional numbers, objects and lists, and
#: a zero byte, which text cannot hold.
WRITTEN_OTHERWISE = r"^-?(\d{16}|\d+[.eE])|^[{\[]|\x00"

# Of a numeric, before its decimal point. Written without its exponent, 1e999999999 would take 1 GB.
_MAX_DIGITS = 131_072


def with_json_text(
    logs: pl.LazyFrame, column: str, path: Sequence[str], name: str, *, word: str = "", marks_lists: bool = False
) -> pl.LazyFrame:
    """Adds the column `name`: the text at the path of the JSON text in `column`.

    word: only texts with this word are asked; others have no value. marks_lists: LIST_MARK in place of the text of
    lists and objects. Collecting the frame fails for a text that may have the value and is not JSON.
    """
    text, key = pl.col(column), path[0]
    asked, found, missed = map(pl.col, ("asked", "found", "missed"))
    # Column by column, because an expression that two others use is computed twice.
    logs = logs.with_columns(escaped=pl.when(text.str.contains("\\", literal=True)).then(text))
    has_escaped_letter = pl.col("escaped").str.contains("\\u", literal=True).fill_null(False)
    if len(path) == 1 and not word:
        logs = _with_quoted(logs, column, key).with_columns(asked=pl.when(pl.col("quoted").is_null()).then(text))
    else:
        has_word = text.str.contains(word, literal=True) if word else text.is_not_null()
        logs = logs.with_columns(
            quoted=pl.lit(None, pl.String), asked=pl.when(has_word | has_escaped_letter).then(text)
        )
    if not _is_place(key):
        # A text without the key is not parsed. Only lists have values without one: by their place.
        logs = logs.with_columns(
            asked=pl.when(asked.str.contains(f'"{key}', literal=True) | has_escaped_letter).then(asked)
        )
    # What is missed is a JSON null, invalid JSON, or something that the fast parser does not read.
    is_doubtful = missed.str.contains(rf'"{path[-1]}"\s*:\s*null').not_() | found.str.contains(WRITTEN_OTHERWISE)
    steps = "".join(f"['{each}']" for each in path)

    def read(text: str) -> str | None:
        return json_value(text, *path, marks_lists=marks_lists)

    return (
        logs.with_columns(found=asked.str.json_path_match(f"${steps}"))
        .with_columns(missed=pl.when(found.is_null()).then(asked))
        .with_columns(doubtful=pl.when(is_doubtful).then(asked))
        .with_columns(
            pl.when(pl.col("doubtful").is_null())
            .then(pl.coalesce("quoted", "found"))
            .otherwise(replaced(pl.col("doubtful"), pl.lit(True), read))
            .alias(name)
        )
    )


def json_value(text: str, *path: str, marks_lists: bool = False) -> str | None:
    """PostgreSQL's #>> of a jsonb; what text cannot hold becomes U+FFFD. Raises ValueError.

    marks_lists: see with_json_text().
    """
    try:
        value = simplejson.loads(text, parse_float=_as_numeric)
    except ValueError as error:
        raise ValueError(f"metadata is not JSON: {error}") from error
    for key in path:
        if isinstance(value, dict):
            value = value.get(key)
        elif isinstance(value, list) and _is_place(key) and -len(value) <= int(key) < len(value):
            value = value[int(key)]
        else:
            return None
    if value is None:
        return None
    if marks_lists and isinstance(value, dict | list):
        return LIST_MARK
    written = (
        value
        if isinstance(value, str)
        else simplejson.dumps(value, item_sort_key=lambda item: _key_order(item[0]), ensure_ascii=False)
    )
    return written.replace("\0", "\ufffd").encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def replaced(texts: pl.Expr, where: pl.Expr, value: Callable[[str], str | None]) -> pl.Expr:
    """The texts, with `value` of those for which `where` holds. They are few, so Python computes them."""

    def compute(chosen: pl.Series) -> pl.Series:
        if chosen.null_count() == len(chosen):
            return chosen
        return pl.Series(
            chosen.name, [None if text is None else value(text) for text in chosen.to_list()], dtype=pl.String
        )

    chosen = pl.when(where).then(texts)
    return (
        pl.when(where & texts.is_not_null())
        .then(chosen.map_batches(compute, return_dtype=pl.String, is_elementwise=True))
        .otherwise(texts)
    )


def _with_quoted(logs: pl.LazyFrame, column: str, key: str) -> pl.LazyFrame:
    r"""Adds `quoted`, the text of the key where it is certain without a parser, which takes three times as long.

    Certain is the only occurrence of "KEY":"…" or "KEY": "…", before any list or inner object, of a text without a
    backslash. As no string has a quotation mark then, it is a key, and what follows up to the next mark is its value.
    """
    text, before, after = map(pl.col, (column, "before", "after"))
    quoted_key = f'"{key}"'
    is_plain = pl.col("escaped").is_null() & text.str.ends_with("}")
    has_value_at = pl.when(after.str.starts_with(':"')).then(2).when(after.str.starts_with(': "')).then(3)
    is_certain = before.str.contains(r"^\{[^{}\[\]]*$") & ~after.str.contains(quoted_key, literal=True)
    # Slices of bytes share the memory of their texts.
    return (
        logs.with_columns(at=pl.when(is_plain).then(text.str.find(quoted_key, literal=True)))
        .with_columns(
            before=text.cast(pl.Binary).bin.slice(0, pl.col("at")).cast(pl.String),
            after=text.cast(pl.Binary).bin.slice(pl.col("at") + len(quoted_key)).cast(pl.String),
        )
        .with_columns(at=pl.when(is_certain).then(has_value_at))
        # A slice from NULL is the whole text.
        .with_columns(
            after=pl.when(pl.col("at").is_not_null()).then(
                after.cast(pl.Binary).bin.slice(pl.col("at")).cast(pl.String)
            )
        )
        .with_columns(quoted=after.cast(pl.Binary).bin.slice(0, after.str.find('"', literal=True)).cast(pl.String))
        .with_columns(quoted=pl.when(~pl.col("quoted").str.contains(r"[\x00-\x1f]")).then("quoted"))
    )


def _is_place(key: str) -> bool:
    """Whether the key is also the place of an item in a list."""
    return re.fullmatch(r"-?[0-9]+", key) is not None


def _as_numeric(text: str) -> Any:
    """A number as a numeric of PostgreSQL is written: without an exponent, without a negative zero."""
    number = Decimal(text)
    if abs(number.adjusted()) > _MAX_DIGITS:
        raise ValueError(f"the number {text[:40]} is out of range")
    return simplejson.RawJSON(format(number or abs(number), "f"))


def _key_order(key: str) -> tuple[int, bytes]:
    """The order of the keys of a jsonb: shorter keys first."""
    in_bytes = key.encode("utf-8", "surrogatepass")
    return len(in_bytes), in_bytes
