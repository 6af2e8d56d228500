"""What metrics read from a log in a lake, as Polars expressions: the contract with its columns, and their values."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from metrics_pipeline.errors import ContractError
from metrics_pipeline.logs.lake_json import LIST_MARK, json_texts, replaced
from metrics_pipeline.metrics.catalog import FAILED_STATUS, SUCCESS_STATUS
from metrics_pipeline.metrics.dimensions import LIST, MARKS, MAX_VALUE_CHARACTERS, NONE, VALUE, Dimension
from metrics_pipeline.metrics.upstream import FLAGS, LOG_COLUMNS, METADATA_KEYS

#: The columns that a lake may have, by our names.
LAKE_COLUMNS = (*(column.name for column in LOG_COLUMNS), *METADATA_KEYS)

_TEXT = (pl.String, pl.Categorical, pl.Enum)
_INTEGER = (pl.Int8, pl.Int16, pl.Int32, pl.Int64, pl.UInt8, pl.UInt16, pl.UInt32)
# Not floats: no float is exact on money. Text is the only form that holds costs of any length, and NaN.
_ACCEPTED: dict[str, tuple[type[pl.DataType], ...]] = {
    "agent_id": _TEXT,
    "timestamp": (pl.Datetime,),
    "status": _TEXT,
    "latency_ms": _INTEGER,
    "token_count": _INTEGER,
    "cost_usd": (pl.Decimal, *_INTEGER, pl.String),
    "error_type": _TEXT,
    "metadata": (pl.String, pl.Struct),
    "user_id": (*_TEXT, *_INTEGER),
    **dict.fromkeys(FLAGS, (pl.Boolean, *_TEXT)),
}

#: The types of columns that a file has without a type, because all of its values are NULL.
TYPES_OF_NULLS: dict[str, pl.DataType] = {
    **dict.fromkeys(LAKE_COLUMNS, pl.String()),
    **dict.fromkeys(("latency_ms", "token_count"), pl.Int64()),
    "cost_usd": pl.Decimal(38, 9),
}

# The types of a column that is a dimension.
_VALUES = (*_TEXT, *_INTEGER, pl.Boolean, pl.Decimal)

#: Costs as text that are not finite, also for Java.
NOT_FINITE = r"(?i)^\s*[+-]?(nan|inf(inity)?)\s*$"
_NINE_PLACES = pl.Decimal(38, 9)
# In nano-dollars: 64 bits hold any regular cost.
_LIMIT_NANO_USD = 9 * 10**18


def checked_names(
    schema: pl.Schema,
    columns: Mapping[str, str],
    where: str,
    dimensions: Sequence[Dimension] = (),
    *,
    setting: str = "METRICS_LOGS_URL",
) -> dict[str, str]:
    """The name that each column of LAKE_COLUMNS has in the lake, of those that exist.

    columns, dimensions: METRICS_LOGS_COLUMNS and METRICS_DIMENSIONS. setting: the variable that names the logs. Raises
    one ContractError that names every missing column and every wrong type.
    """
    names = {column: columns.get(column, column) for column in LAKE_COLUMNS}
    present = {column: name for column, name in names.items() if name in schema}
    required = {*_ACCEPTED} - ({"metadata"} if present.keys() >= {*METADATA_KEYS} else {*METADATA_KEYS})
    required |= {"metadata" for dimension in dimensions if dimension.keys}
    problems = [
        f"column {names[column]}{f' (as {column})' if names[column] != column else ''} is missing"
        for column in LAKE_COLUMNS
        if column not in present and (column in required or column in columns)
    ]
    problems += [
        _wrong_type(name, schema[name], _ACCEPTED[column])
        for column, name in present.items()
        if column in _ACCEPTED and schema[name].base_type() not in _ACCEPTED[column]
    ]
    for dimension in dimensions:
        if not dimension.keys and dimension.column not in schema:
            problems.append(f"column {dimension.column} (of the dimension {dimension.name}) is missing")
        elif not dimension.keys and schema[dimension.column].base_type() not in _VALUES:
            problems.append(_wrong_type(dimension.column, schema[dimension.column], _VALUES))
    if problems:
        raise ContractError(
            f"{where} does not hold what the pipeline reads: {'; '.join(problems)}. It has the columns "
            f"{', '.join(schema)}. Name columns that are called otherwise in METRICS_LOGS_COLUMNS, or logs that have "
            f"them in {setting}."
        )
    return present


def _wrong_type(name: str, dtype: pl.DataType, accepted: Sequence[type[pl.DataType]]) -> str:
    return f"column {name} has type {dtype}, accepted: {', '.join(kind.__name__ for kind in accepted)}"


def log_frame(
    logs: pl.LazyFrame,
    schema: pl.Schema,
    names: Mapping[str, str],
    statuses: Mapping[str, str],
    dimensions: Sequence[Dimension] = (),
) -> pl.LazyFrame:
    """Logs of a lake under our names and in our types.

    statuses: what further statuses count as, Settings.statuses.
    Columns: timestamp; log_id, agent_id, status, error_type, user_id, cost_usd (String); is_ with each of FLAGS
    (Boolean); latency_ms (Int32); token_count (Int64); cost_nano_usd (Int64; 0 without a cost, NULL for an irregular
    one); value_0 and so on (String): of each dimension, as log_schema() has them. Collecting the frame fails for a
    latency of more than 32 bits and for metadata that is not JSON.
    """
    metadata = schema[names["metadata"]] if "metadata" in names else pl.String()
    key_texts = {
        key: pl.col(key).cast(pl.String)
        if key in names
        else _text_at(metadata, [key], word="true" if key in FLAGS else "")
        for key in METADATA_KEYS
    }
    values = {
        f"value_{number}": _text_at(metadata, dimension.keys, marks_lists=True)
        if dimension.keys
        else _plain(pl.col(f"value_{number}"))
        for number, dimension in enumerate(dimensions)
    }
    own_columns = {number: dimension.column for number, dimension in enumerate(dimensions) if not dimension.keys}
    return (
        logs.select(
            *(pl.col(name).alias(column) for column, name in names.items()),
            *(pl.col(column).cast(pl.String).alias(f"value_{number}") for number, column in own_columns.items()),
        )
        .select(
            pl.col("agent_id").cast(pl.String),
            _status(statuses),
            _plain(pl.col("error_type").cast(pl.String)),
            (pl.col("id").cast(pl.String) if "id" in names else pl.lit("")).alias("log_id"),
            "timestamp",
            key_texts["user_id"].alias("user_id"),
            *(key_texts[key].alias(f"is_{key}") == "true" for key in FLAGS),
            pl.col("latency_ms").cast(pl.Int32),
            pl.col("token_count").cast(pl.Int64),
            pl.col("cost_usd").cast(pl.String),
            _cost_nano_usd(schema[names["cost_usd"]]).alias("cost_nano_usd"),
            **values,
        )
        # Of columns, because an expression that occurs several times would be computed as often.
        .with_columns(marked(pl.col(name)).alias(name) for name in values)
    )


IS_SUCCESSFUL = pl.col("status") == SUCCESS_STATUS
HAS_FAILED = pl.col("status") == FAILED_STATUS


def stored_user_id(user_ids: pl.Expr) -> pl.Expr:
    """As PARTIALS_SCHEMA has them: ids of 64 bytes or more become their SHA-256."""
    return replaced(
        user_ids, lambda texts: texts.str.len_bytes() >= 64, lambda text: hashlib.sha256(text.encode()).hexdigest()
    )


def stored_error_type(error_types: pl.Expr) -> pl.Expr:
    """As PARTIALS_SCHEMA has them: what is longer than 256 characters is cut, and told apart by its SHA-256."""
    return replaced(
        error_types,
        lambda texts: texts.str.len_chars() > 256,
        lambda text: f"{text[:200]}…{hashlib.sha256(text.encode()).hexdigest()[:16]}",
    )


def _status(statuses: Mapping[str, str]) -> pl.Expr:
    """Not by Expr.replace(), which does not stream: all logs of the day would be in memory at once."""
    own = pl.col("status").cast(pl.String)
    status = own
    for word, meaning in statuses.items():
        status = pl.when(own == word).then(pl.lit(meaning)).otherwise(status)
    return status.alias("status")


def _cost_nano_usd(dtype: pl.DataType) -> pl.Expr:
    cost = pl.col("cost_usd")
    nano_usd = cost.cast(_NINE_PLACES, strict=False)
    if dtype == pl.String:
        # Casting a text rounds it. Exponents and more than nine places are left to the exact sum.
        nano_usd = pl.when(cost.str.contains(r"^[+-]?\d+(\.\d{0,9}0*)?$")).then(nano_usd)
    elif isinstance(dtype, pl.Decimal) and dtype.scale > 9:
        nano_usd = pl.when(nano_usd.cast(dtype, strict=False) == cost).then(nano_usd)
    number = nano_usd.to_physical()
    return pl.when(cost.is_null()).then(0).when(number.abs() < _LIMIT_NANO_USD).then(number).cast(pl.Int64)


def _text_at(metadata: pl.DataType, path: Sequence[str], *, word: str = "", marks_lists: bool = False) -> pl.Expr:
    """The text at the path of `metadata`, which is JSON or a struct. See json_texts()."""
    if not isinstance(metadata, pl.Struct):
        return json_texts(pl.col("metadata"), path, word=word, marks_lists=marks_lists)
    field: pl.Expr = pl.col("metadata")
    dtype: Any = metadata
    for key in path:
        types = {each.name: each.dtype for each in dtype.fields} if isinstance(dtype, pl.Struct) else {}
        if key not in types:
            return pl.lit(None, pl.String)
        field, dtype = field.struct.field(key), types[key]
    if marks_lists and dtype.is_nested():
        return pl.when(field.is_not_null()).then(pl.lit(LIST_MARK))
    return _plain(field.cast(pl.String))


def _plain(texts: pl.Expr) -> pl.Expr:
    return texts.str.replace_all("\0", "\ufffd", literal=True)


def marked(texts: pl.Expr) -> pl.Expr:
    """Texts with LIST_MARK, as MARKS has them. PostgreSQL's is dimension_value() in log_columns.py."""
    short = MAX_VALUE_CHARACTERS - 17
    marks = "".join([*MARKS.values(), "[{"])
    return (
        pl.when(texts.is_null())
        .then(pl.lit(MARKS[NONE]))
        .when(texts == LIST_MARK)
        .then(pl.lit(MARKS[LIST]))
        .when((texts.str.len_chars() > MAX_VALUE_CHARACTERS) | (texts == "") | texts.str.slice(0, 1).is_in([*marks]))
        .then(
            pl.lit(MARKS[VALUE])
            + replaced(
                texts,
                lambda texts: texts.str.len_chars() > MAX_VALUE_CHARACTERS,
                lambda text: f"{text[:short]}…{hashlib.sha256(text.encode()).hexdigest()[:16]}",
            )
        )
        .otherwise(texts)
    )
