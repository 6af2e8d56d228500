"""The rules for the values of log files: text in, typed columns out, a problem for each value that breaks a rule."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

import polars as pl

from metrics_pipeline.log_files.log_file import LogFile
from metrics_pipeline.log_files.schema import COLUMNS, LOG_SCHEMA, REQUIRED_COLUMNS
from metrics_pipeline.metrics.upstream import Kind

#: Epoch time from 2001 to 2033 in seconds, milliseconds, microseconds or nanoseconds, which the number of digits tells
#: apart. 2025071119 is more probably an hour in 2025 than a second in 2034.
_EPOCH = r"^(1[0-9]{9}(?:[0-9]{3}){0,3}(?:\.[0-9]*)?)$"
#: The forms that psql, Python, JavaScript and Go write. Digits beyond microseconds are cut: rounding could move a log
#: into the next day.
_TIMESTAMP = (
    r"^(?P<date>[0-9]{4}-[0-9]{2}-[0-9]{2})[Tt ](?P<hour>[01][0-9]|2[0-3]):(?P<minute>[0-5][0-9])"
    r"(?::(?P<second>[0-5][0-9])(?:[.,](?P<fraction>[0-9]+))?)?"
    r"(?:[Zz]|(?P<sign>[+-])(?P<zone_hour>0[0-9]|1[0-5])(?::?(?P<zone_minute>[0-5][0-9]))?)?$"
)
_UUID = r"^[0-9a-fA-F]{8}-?(?:[0-9a-fA-F]{4}-?){3}[0-9a-fA-F]{12}$"
_DECIMAL = r"^(?:[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?|[nN][aA][nN])$"
#: With at most three digits of exponent this is within numeric's limits: 131072 digits before the point, 16383 after.
_DECIMAL_CHARACTERS = 1000
_INTEGER_RANGES = {
    "smallint": (-(2**15), 2**15 - 1),
    "integer": (-(2**31), 2**31 - 1),
    "bigint": (-(2**63), 2**63 - 1),
}


@dataclass(frozen=True)
class _Rule:
    """`typed` is the value to store. Where `is_right` is false or NULL, the value is refused with `reason`."""

    typed: pl.Expr
    is_right: pl.Expr
    reason: str


def check_batch(batch: pl.DataFrame, file: LogFile, column_types: Mapping[str, str]) -> pl.DataFrame:
    """The batch as `row` and the columns of LOG_SCHEMA; columns that the file lacks are NULL.

    `batch` has the form that LogFile.batches yields. `column_types` maps the columns of agent_execution_logs to their
    PostgreSQL types, which ids must fit. Adds a problem to the file for each value that breaks a rule.
    """
    given = [name for name in LOG_SCHEMA if name in batch.columns]
    rules = {
        name: _rule(name, kind, column_types[name])
        for name, kind in COLUMNS.items()
        if name in given and kind is not Kind.JSON
    }
    reasons = batch.select(
        "row",
        *(
            pl.when(pl.col(name).is_null())
            .then(pl.lit("is missing") if name in REQUIRED_COLUMNS else None)
            .when(~rule.is_right.fill_null(value=False))
            .then(pl.lit(rule.reason))
            .alias(name)
            for name, rule in rules.items()
        ),
    )
    for name in given:
        if COLUMNS[name] is Kind.JSON:
            checked = [(None, None) if text is None else _checked_json(text) for text in batch[name]]
            reasons = reasons.with_columns(pl.Series(name, [fault for _, fault in checked], dtype=pl.String))
            batch = batch.with_columns(pl.Series(name, [text for text, _ in checked], dtype=pl.String))
    _report(batch, reasons, file)
    return batch.select(
        "row",
        *(
            rules[name].typed.alias(name)
            if name in rules
            else pl.col(name)
            if name in given
            else pl.lit(None, dtype).alias(name)
            for name, dtype in LOG_SCHEMA.items()
        ),
    )


def _report(batch: pl.DataFrame, reasons: pl.DataFrame, file: LogFile) -> None:
    """Adds a problem for each reason, in the order of the rows."""
    wrong = reasons.unpivot(index="row", variable_name="column", value_name="reason").drop_nulls("reason")
    if wrong.is_empty():
        return
    shown = wrong.sort("row", maintain_order=True).head(file.problems.room)
    for row, column, reason in shown.iter_rows():
        value = batch.filter(pl.col("row") == row)[column].item()
        file.problem(row, reason, column=column, value=value)
    file.problems.count(wrong.height - shown.height)


def _rule(name: str, kind: Kind, column_type: str) -> _Rule:
    text = pl.col(name)
    if kind is Kind.INSTANT:
        typed = _timestamp(text)
        return _Rule(
            typed,
            typed.dt.year().is_between(1970, 9998),
            "is not an ISO 8601 timestamp from 1970 on, such as 2025-07-11T19:11:52.380072Z, nor an epoch time from "
            "2001 on, such as 1752261112",
        )
    if kind is Kind.DECIMAL:
        is_decimal = text.str.contains(_DECIMAL) & (text.str.len_bytes() <= _DECIMAL_CHARACTERS)
        return _Rule(text, is_decimal, f"is not a decimal number of at most {_DECIMAL_CHARACTERS} characters, nor NaN")
    if kind is Kind.INTEGER:
        return _integer(text, "integer", pl.Int32())
    if column_type == "uuid":
        return _Rule(text, text.str.contains(_UUID), "is not a UUID, which the table's column asks for")
    if kind is Kind.ID and column_type in _INTEGER_RANGES:
        rule = _integer(text, column_type, pl.Int64())
        return _Rule(rule.typed.cast(pl.String), rule.is_right, rule.reason)
    is_storable = ~text.str.contains("\0", literal=True)
    if kind is Kind.TEXT:
        return _Rule(text, is_storable, "holds a NUL character, which PostgreSQL cannot store")
    return _Rule(
        text,
        is_storable & (text.str.strip_chars() != ""),
        "is blank or holds a NUL character, which PostgreSQL cannot store",
    )


def _integer(text: pl.Expr, column_type: str, dtype: pl.DataType) -> _Rule:
    # A fraction of zeros is allowed: pandas writes integers with gaps as 123.0.
    lowest, highest = _INTEGER_RANGES[column_type]
    number = text.str.extract(r"^([+-]?[0-9]+)(?:\.0*)?$").cast(pl.Int64, strict=False)
    return _Rule(
        number.cast(dtype, strict=False),
        number.is_between(lowest, highest),
        f"is not a whole number from {lowest} to {highest}",
    )


def _timestamp(text: pl.Expr) -> pl.Expr:
    """The instant as Datetime("us", "UTC"), or NULL. A text without a zone is in UTC."""
    parts = text.str.extract_groups(_TIMESTAMP).struct

    def number(group: str) -> pl.Expr:
        return parts.field(group).cast(pl.Int64).fill_null(0)

    east_of_utc = pl.when(parts.field("sign") == "-").then(-1).otherwise(1)
    local = parts.field("date").str.to_date("%Y-%m-%d", strict=False).cast(pl.Datetime("us")) + pl.duration(
        hours=number("hour"),
        minutes=number("minute"),
        seconds=number("second"),
        microseconds=parts.field("fraction").str.slice(0, 6).str.pad_end(6, "0").cast(pl.Int64).fill_null(0),
    )
    offset = pl.duration(hours=east_of_utc * number("zone_hour"), minutes=east_of_utc * number("zone_minute"))
    epoch = text.str.extract(_EPOCH).str.replace(".", "", literal=True).str.slice(0, 16).str.pad_end(16, "0")
    return pl.coalesce(local - offset, epoch.cast(pl.Int64).cast(pl.Datetime("us"))).dt.replace_time_zone("UTC")


def _not_json(constant: str) -> None:
    raise ValueError(f"{constant} is not a JSON value")


# Numbers stay text, because only their syntax matters here and Python converts integers of at most 4,300 digits.
_DECODER = json.JSONDecoder(parse_int=str, parse_float=str, parse_constant=_not_json)
#: Pairs of backslashes before the escape are escaped backslashes and do not belong to it.
_ESCAPED_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")


def _checked_json(text: str) -> tuple[str, str | None]:
    """The JSON text to store, and the reason why PostgreSQL's jsonb cannot hold it, or None.

    Of a JSON string that holds the text of an object, the object is stored: a string has no keys to read.
    """
    fault = _json_fault(text)
    if fault is None and text.lstrip().startswith('"'):
        inner = json.loads(text)
        if inner.lstrip().startswith("{") and _json_fault(inner) is None:
            return inner, None
    return text, fault


def _json_fault(text: str) -> str | None:
    try:
        value = _DECODER.decode(text)
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return "holds half of a surrogate pair, which PostgreSQL cannot store"
    except (ValueError, RecursionError) as error:
        return f"is not JSON: {error}"
    if "\\u" in text and _ESCAPED_NUL.search(text):
        return "holds a NUL character, which PostgreSQL cannot store"
    return None
