"""Values of JSON text in the logs of a lake, as PostgreSQL's ->> and #>> give them."""

import re
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any

import numpy as np
import polars as pl
import simplejson

#: What json_texts() gives for a list or an object, if it marks them. No text of PostgreSQL holds a zero byte.
LIST_MARK = "\0"

#: Results of json_path_match that PostgreSQL writes in another way: long or fractional numbers, objects and lists, and
#: a zero byte, which text cannot hold.
WRITTEN_OTHERWISE = r"^-?(\d{16}|\d+[.eE])|^[{\[]|\x00"

# Of a numeric, before its decimal point. Written without its exponent, 1e999999999 would take 1 GB.
_MAX_DIGITS = 131_072


def json_texts(texts: pl.Expr, path: Sequence[str], *, word: str = "", marks_lists: bool = False) -> pl.Expr:
    """The text at the path of each JSON text.

    word: only texts with this word are asked; others have no value. marks_lists: LIST_MARK in place of the text of
    lists and objects. Collecting the frame fails for a text that may have the value, has to be parsed, and is not JSON.
    """

    def compute(texts: pl.Series) -> pl.Series:
        return _json_texts(texts, path, word, marks_lists)

    return texts.map_batches(compute, return_dtype=pl.String, is_elementwise=True)


def json_value(text: str, *path: str, marks_lists: bool = False) -> str | None:
    """PostgreSQL's #>> of a jsonb; what text cannot hold becomes U+FFFD. Raises ValueError.

    marks_lists: see json_texts().
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


def replaced(
    texts: pl.Expr, is_chosen: Callable[[pl.Series], pl.Series], value: Callable[[str], str | None]
) -> pl.Expr:
    """The texts, with `value` of the chosen ones. They are few, so Python computes them."""

    def compute(texts: pl.Series) -> pl.Series:
        places = is_chosen(texts).arg_true()
        return _with_values(texts, places, pl.Series(map(value, texts.gather(places)), dtype=pl.String))

    return texts.map_batches(compute, return_dtype=pl.String, is_elementwise=True)


def _json_texts(texts: pl.Series, path: Sequence[str], word: str, marks_lists: bool) -> pl.Series:
    """See json_texts(). Each step computes what the one before it has left, and takes longer for each text."""
    key, last = path[0], path[-1]
    found = texts.clear(len(texts))
    may_have_value = texts.str.contains(rf"{word}|\\u") if word else texts.is_not_null()
    if len(path) == 1 and not word:
        found = _plain_values(texts, key)
        may_have_value &= found.is_null()
    places = may_have_value.arg_true()
    if places.is_empty():
        # Each further step takes a tenth of a millisecond, also for the few logs of a small file.
        return found
    if not _is_place(key):
        # A text without the key has no value. Only lists have values without one: by their place.
        places = places.filter(texts.gather(places).str.contains(rf'"{key}|\\u'))
    some = texts.gather(places)
    parsed = some.str.json_path_match("$" + "".join(f"['{each}']" for each in path))
    # What is missing is a JSON null, invalid JSON, or something that the fast parser does not read.
    is_missing = parsed.is_null() & ~some.str.contains(rf'"{last}"\s*:\s*null')
    is_doubtful = is_missing | parsed.str.contains(WRITTEN_OTHERWISE).fill_null(False)
    read = [json_value(text, *path, marks_lists=marks_lists) for text in some.filter(is_doubtful)]
    values = _with_values(parsed, is_doubtful.arg_true(), pl.Series(read, dtype=pl.String))
    return _with_values(found, places, values)


def _plain_values(texts: pl.Series, key: str) -> pl.Series:
    r"""The text of the key where it is certain without a parser, which takes twice as long; otherwise NULL.

    Certain is the only occurrence of "KEY":"…" or "KEY": "…", before any list or inner object, of a text without a
    backslash. As no string has a quotation mark then, it is a key, and what follows up to the next mark is its value.
    So are true, false and short integers up to a comma or the end.
    """
    text, head = pl.col("text"), pl.col("head")
    value = r'(?:"[^"\\\x00-\x1f]*"|true|false|-?[1-9][0-9]{0,14})'
    # Three searches, because each of these patterns has a text that is found much faster than an alternative of them.
    is_certain = (
        text.str.ends_with("}") & ~text.str.contains("\\", literal=True) & ~text.str.contains(rf'(?s)"{key}".*"{key}"')
    )
    return (
        texts.to_frame("text")
        .with_columns(head=text.str.extract(rf'^\{{[^{{}}\[\]\\]*?"{key}": ?{value}[,}}]', 0))
        .select(
            pl.when(is_certain).then(
                # The value is the end of the head, with a comma or brace.
                head.str.extract(r'(?:"[^"]*"|[a-z0-9-]+).$', 0).str.head(-1).str.strip_chars('"')
            )
        )
        .to_series()
    )


def _with_values(texts: pl.Series, places: pl.Series, values: pl.Series) -> pl.Series:
    """The texts, with the values at these places. Series.scatter() builds every text anew: ten times as long."""
    if places.is_empty():
        return texts
    numbers = np.arange(len(texts))
    numbers[places.to_numpy()] = np.arange(len(texts), len(texts) + len(values))
    return pl.concat([texts, values]).gather(numbers)


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
