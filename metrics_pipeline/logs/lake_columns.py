"""What metrics read from a log in a lake, as Polars expressions: the contract with its columns, and their values."""

import hashlib
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import polars as pl
import simplejson

from metrics_pipeline.errors import ContractError
from metrics_pipeline.logs.source import KNOWN_STATUSES
from metrics_pipeline.metrics.catalog import FAILED_STATUS, SUCCESS_STATUS
from metrics_pipeline.metrics.upstream import LOG_COLUMNS, METADATA_KEYS

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
    "human_intervention": (pl.Boolean, *_TEXT),
}

#: Results of json_path_match that PostgreSQL writes in another way: long or fractional numbers, objects and lists, and
#: a zero byte, which text cannot hold.
WRITTEN_OTHERWISE = r"^-?(\d{16}|\d+[.eE])|^[{\[]|\x00"

#: Costs as text that are not finite, also for Java.
NOT_FINITE = r"(?i)^\s*[+-]?(nan|inf(inity)?)\s*$"
_NINE_PLACES = pl.Decimal(38, 9)
# Of a numeric, before its decimal point. Written without its exponent, 1e999999999 would take 1 GB.
_MAX_DIGITS = 131_072
# 10^19 USD in nano-dollars. Int128 holds the total of ten thousand million of them.
_LIMIT_NANO_USD = 10**28


def checked_names(schema: pl.Schema, columns: Mapping[str, str], where: str) -> dict[str, str]:
    """The name that each column of LAKE_COLUMNS has in the lake, of those that exist.

    columns: METRICS_LOGS_COLUMNS. Raises one ContractError that names every missing column and every wrong type.
    """
    names = {column: columns.get(column, column) for column in LAKE_COLUMNS}
    present = {column: name for column, name in names.items() if name in schema}
    required = {*_ACCEPTED} - ({"metadata"} if present.keys() >= {*METADATA_KEYS} else {*METADATA_KEYS})
    problems = [
        f"column {names[column]}{f' (as {column})' if names[column] != column else ''} is missing"
        for column in LAKE_COLUMNS
        if column not in present and (column in required or column in columns)
    ]
    problems += [
        f"column {name} has type {schema[name]}, accepted: {', '.join(kind.__name__ for kind in _ACCEPTED[column])}"
        for column, name in present.items()
        if column in _ACCEPTED and schema[name].base_type() not in _ACCEPTED[column]
    ]
    if problems:
        raise ContractError(
            f"{where} does not hold what the pipeline reads: {'; '.join(problems)}. It has the columns "
            f"{', '.join(schema)}. Name columns that are called otherwise in METRICS_LOGS_COLUMNS, or point "
            "METRICS_LOGS_URL to files that have them."
        )
    return present


def log_frame(
    logs: pl.LazyFrame, schema: pl.Schema, names: Mapping[str, str], statuses: Mapping[str, str]
) -> pl.LazyFrame:
    """Logs of a lake under our names and in our types.

    statuses: what further statuses count as, Settings.statuses.
    Columns: timestamp; log_id, agent_id, status, error_type, user_id, cost_usd (String); is_human_intervention,
    has_irregular_cost (Boolean); latency_ms (Int32); token_count (Int64); cost_nano_usd (Int128; NULL without a cost
    and for an irregular one). Collecting the frame fails for a latency of more than 32 bits and for metadata that is
    not JSON.
    """
    cost = pl.col(names["cost_usd"])
    nano_usd = _nano_usd(cost, schema[names["cost_usd"]])
    return (
        logs.with_columns(cost_nano_usd=pl.when(nano_usd.abs() < _LIMIT_NANO_USD).then(nano_usd))
        .pipe(_with_metadata, schema, names)
        .select(
            pl.col(names["agent_id"]).cast(pl.String).alias("agent_id"),
            pl.col(names["status"]).cast(pl.String).replace(statuses).alias("status"),
            pl.col(names["error_type"])
            .cast(pl.String)
            .str.replace_all("\0", "\ufffd", literal=True)
            .alias("error_type"),
            (pl.col(names["id"]).cast(pl.String) if "id" in names else pl.lit("")).alias("log_id"),
            pl.col(names["timestamp"]).alias("timestamp"),
            pl.col("user_id_").alias("user_id"),
            (pl.col("human_intervention_") == "true").alias("is_human_intervention"),
            pl.col(names["latency_ms"]).cast(pl.Int32).alias("latency_ms"),
            pl.col(names["token_count"]).cast(pl.Int64).alias("token_count"),
            cost.cast(pl.String).alias("cost_usd"),
            "cost_nano_usd",
            has_irregular_cost=cost.is_not_null() & pl.col("cost_nano_usd").is_null(),
        )
    )


IS_SUCCESSFUL = pl.col("status") == SUCCESS_STATUS
HAS_FAILED = pl.col("status") == FAILED_STATUS


def suspicions() -> dict[str, tuple[pl.Expr, str]]:
    """What makes a value of log_frame() suspicious: {kind: (condition, column)}, as quality.suspicions()."""
    is_finite = ~pl.col("cost_usd").str.contains(NOT_FINITE)
    cost = pl.when(is_finite).then(pl.col("cost_usd")).cast(pl.Float64)
    return {
        "negative_latency": (pl.col("latency_ms") < 0, "latency_ms"),
        "negative_tokens": (pl.col("token_count") < 0, "token_count"),
        "negative_cost": (cost < 0, "cost_usd"),
        "cost_not_a_number": (~is_finite, "cost_usd"),
        "cost_of_12_digits_or_more": (cost.abs() >= 1e11, "cost_usd"),
        "unknown_status": (pl.col("status").is_null() | ~pl.col("status").is_in(KNOWN_STATUSES), "status"),
    }


def decimal_cost(text: str) -> Decimal:
    """The cost that a text denotes. Raises ValueError."""
    try:
        return Decimal(text.strip())
    except ArithmeticError as error:
        raise ValueError(f"the cost {text[:40]!r} is not a number") from error


def stored_user_id(user_ids: pl.Expr) -> pl.Expr:
    """As PARTIALS_SCHEMA has them: ids of 64 bytes or more become their SHA-256."""
    return _replaced(user_ids, user_ids.str.len_bytes() >= 64, lambda text: hashlib.sha256(text.encode()).hexdigest())


def stored_error_type(error_types: pl.Expr) -> pl.Expr:
    """As PARTIALS_SCHEMA has them: what is longer than 256 characters is cut, and told apart by its SHA-256."""
    return _replaced(
        error_types,
        error_types.str.len_chars() > 256,
        lambda text: f"{text[:200]}…{hashlib.sha256(text.encode()).hexdigest()[:16]}",
    )


def _nano_usd(cost: pl.Expr, dtype: pl.DataType) -> pl.Expr:
    nano_usd = cost.cast(_NINE_PLACES, strict=False)
    if dtype == pl.String:
        # Casting a text rounds it. Exponents and more than nine places are left to the exact sum.
        return pl.when(cost.str.contains(r"^[+-]?\d+(\.\d{0,9}0*)?$")).then(nano_usd).to_physical()
    if isinstance(dtype, pl.Decimal) and dtype.scale > 9:
        return pl.when(nano_usd.cast(dtype, strict=False) == cost).then(nano_usd).to_physical()
    return nano_usd.to_physical()


def _with_metadata(logs: pl.LazyFrame, schema: pl.Schema, names: Mapping[str, str]) -> pl.LazyFrame:
    """Adds user_id_ and human_intervention_: columns of the lake, fields of a struct, or metadata->>'KEY' of JSON."""
    for key in METADATA_KEYS:
        if key in names:
            logs = logs.with_columns(pl.col(names[key]).cast(pl.String).alias(f"{key}_"))
            continue
        metadata, dtype = pl.col(names["metadata"]), schema[names["metadata"]]
        if isinstance(dtype, pl.Struct):
            has_key = key in [field.name for field in dtype.fields]
            value = metadata.struct.field(key).cast(pl.String) if has_key else pl.lit(None, pl.String)
            logs = logs.with_columns(value.alias(f"{key}_"))
            continue
        # A text without the key is not parsed, and neither is one that cannot say true.
        may_have = metadata.str.contains(f'"{key}', literal=True)
        if key == "human_intervention":
            may_have &= metadata.str.contains("true", literal=True)
        may_have |= metadata.str.contains("\\u", literal=True)
        found, missed = pl.col("found"), pl.col("missed")
        # What is missed is a JSON null, invalid JSON, or something that the fast parser does not read.
        is_doubtful = missed.str.contains(rf'"{key}"\s*:\s*null').not_() | found.str.contains(WRITTEN_OTHERWISE)
        # Column by column, because an expression that two others use is computed twice.
        logs = (
            logs.with_columns(asked=pl.when(may_have).then(metadata))
            .with_columns(found=pl.col("asked").str.json_path_match(f"$.{key}"))
            .with_columns(missed=pl.when(found.is_null()).then(pl.col("asked")))
            .with_columns(doubtful=pl.when(is_doubtful).then(metadata))
            .with_columns(
                pl.when(pl.col("doubtful").is_null())
                .then(found)
                .otherwise(_replaced(pl.col("doubtful"), pl.lit(True), lambda text, key=key: json_value(text, key)))
                .alias(f"{key}_")
            )
        )
    return logs


def json_value(text: str, key: str) -> str | None:
    """PostgreSQL's metadata->>'KEY' of a jsonb; what text cannot hold becomes U+FFFD. Raises ValueError."""
    try:
        found = simplejson.loads(text, parse_float=_as_numeric)
    except ValueError as error:
        raise ValueError(f"metadata is not JSON: {error}") from error
    value = found.get(key) if isinstance(found, dict) else None
    if value is None:
        return None
    written = (
        value
        if isinstance(value, str)
        else simplejson.dumps(value, item_sort_key=lambda item: _key_order(item[0]), ensure_ascii=False)
    )
    return written.replace("\0", "\ufffd").encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _as_numeric(text: str) -> simplejson.RawJSON:
    """A number as a numeric of PostgreSQL is written: without an exponent, without a negative zero."""
    number = Decimal(text)
    if abs(number.adjusted()) > _MAX_DIGITS:
        raise ValueError(f"the number {text[:40]} is out of range")
    return simplejson.RawJSON(format(number or abs(number), "f"))


def _key_order(key: str) -> tuple[int, bytes]:
    """The order of the keys of a jsonb: shorter keys first."""
    in_bytes = key.encode("utf-8", "surrogatepass")
    return len(in_bytes), in_bytes


def _replaced(texts: pl.Expr, where: pl.Expr, value: Any) -> pl.Expr:
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
