"""What metrics read from a log, as SQL: the columns, the partial aggregates, and the fingerprints by version."""

import re
from collections.abc import Sequence

from metrics_pipeline.logs.contract import UpstreamContract
from metrics_pipeline.metrics.catalog import (
    FAILED_STATUS,
    FURTHER_FINGERPRINT,
    NANO_USD_PER_USD,
    SUCCESS_STATUS,
    UNKNOWN_ERROR_TYPE,
)
from metrics_pipeline.metrics.costs import FINGERPRINT_MODULUS_NANO_USD, NOT_FINITE
from metrics_pipeline.metrics.dimensions import LIST, MARKS, MAX_VALUE_CHARACTERS, NONE, VALUE, Dimension
from metrics_pipeline.metrics.fingerprint import FingerprintKind
from metrics_pipeline.metrics.upstream import FLAGS, FLOATS, FRACTIONS

# A json column can hold \u0000 and lone surrogates, which text cannot: ->> of any key would fail, and with it the day.
# Each is read as U+FFFD, the replacement character. jsonb rejects them on input, so it is not searched. Meanwhile \x
# and \y, which JSON cannot contain, replace surrogate pairs and escaped backslashes. With lookbehinds instead, a
# megabyte of lone surrogates took minutes.
_READABLE = r"""replace(
        regexp_replace(regexp_replace(regexp_replace(replace(metadata::text, '\\', '\y'),
            '\\u([dD][89abAB]..)\\u([dD][c-fC-F]..)', '\\x\1\2', 'g'),
            '\\u(0000|[dD][89a-fA-F]..)', '\\ufffd', 'g'),
            '\\x(....)(....)', '\\u\1\\u\2', 'g'),
        '\y', '\\')"""
_VALUE_OF_JSON = rf"""CASE WHEN strpos(metadata::text, '\u') > 0 AND metadata::text ~ '\\u(0000|[dD][89a-fA-F])'
        THEN {_READABLE}::json->>'KEY'
        ELSE metadata->>'KEY' END"""
_VALUE_OF_JSONB = "metadata->>'KEY'"

# Texts compare byte by byte: a collation that takes 'a1' and 'A1' for equal would merge two agents.
_LOG_COLUMNS = f"""
    agent_id::text COLLATE "C" AS agent_id,
    {{latency_ms}} AS latency_ms,
    {{token_count}}::integer AS token_count,
    {{cost_usd}} AS cost_usd,
    {{status}} AS status,
    {{error_type}}::text COLLATE "C" AS error_type,
    {{status}} = '{SUCCESS_STATUS}' AS is_successful,
    METADATA(user_id) AS user_id,
    {", ".join(f"METADATA({key}) = 'true' AS is_{key}" for key in FLAGS)}"""


def log_columns(contract: UpstreamContract, dimensions: Sequence[Dimension] = ()) -> str:
    """A SELECT list over agent_execution_logs; with dimensions also metadata and each one's value as text.

    In a subquery that ends with OFFSET 0 each column is evaluated once per row; otherwise once per use.
    """
    value = _VALUE_OF_JSON if contract.metadata_is_json else _VALUE_OF_JSONB
    columns = _LOG_COLUMNS.format(
        latency_ms=_latency(contract),
        token_count=contract.column("token_count"),
        cost_usd=cost(contract),
        status=_status(contract),
        error_type=contract.column("error_type"),
    )
    has_metadata = "metadata" in contract.types
    columns = re.sub(
        r"METADATA\((\w+)\)",
        lambda key: f"({value.replace('KEY', key[1]) if has_metadata else f'{contract.column(key[1])}::text'})",
        columns,
    )
    if dimensions:
        columns += f",\n    {contract.column('metadata')} AS metadata"
    for number, dimension in enumerate(dimensions):
        text = f'"{dimension.column}"::text'
        if dimension.keys:
            text = value.replace("->>'KEY'", _text_at(dimension, contract))
        columns += f',\n    ({text}) COLLATE "C" AS dimension_{number}'
    return columns


def cost(contract: UpstreamContract) -> str:
    """SQL for the cost of a log as numeric."""
    if contract.types.get("cost_usd") not in FLOATS:
        # Unary plus detoasts cost_usd once; otherwise every function that reads it would detoast it again.
        return f"+{contract.column('cost_usd')}"
    # The cast of a double to numeric keeps 15 of its 17 digits, that of a real 6 of 9. PostgreSQL 13's numeric has no
    # infinity.
    return "CASE WHEN cost_usd IN ('Infinity', '-Infinity') THEN 'NaN' ELSE cost_usd::text::numeric END"


def _latency(contract: UpstreamContract) -> str:
    if contract.types.get("latency_ms") not in FRACTIONS:
        return f"{contract.column('latency_ms')}::integer"
    return f"CASE WHEN latency_ms::text NOT IN {NOT_FINITE} THEN round(latency_ms::text::numeric)::integer END"


def _status(contract: UpstreamContract) -> str:
    words = "".join(f" WHEN '{word}' THEN '{meaning}'" for word, meaning in contract.statuses.items())
    return (
        f'(CASE status::text COLLATE "C"{words} ELSE status::text END COLLATE "C")'
        if words
        else 'status::text COLLATE "C"'
    )


def _text_at(dimension: Dimension, contract: UpstreamContract) -> str:
    """What follows metadata in SQL for the text under the dimension's keys."""
    # Of a million logs -> saves 0.1 s for each dimension, but it finds no item of a list. Of a json whose outer key
    # repeats it takes the last, and #>> the last that has the inner key.
    may_be_item = any(key.removeprefix("-").isdecimal() for key in dimension.keys)
    if may_be_item or contract.metadata_is_json:
        return f"#>>{_path(dimension)}"
    *outer, last = dimension.keys
    return "".join(f"->'{key}'" for key in outer) + f"->>'{last}'"


def _path(dimension: Dimension) -> str:
    return "ARRAY[" + ", ".join(f"'{key}'" for key in dimension.keys) + "]"


#: Whether a log of log_columns() failed. The first condition saves most logs the comparison of texts.
HAS_FAILED = f"(is_successful IS NOT TRUE AND status = '{FAILED_STATUS}')"

# Two integers in one bigint. The factor is the largest that cannot overflow. With it, 2147483647 tokens equal
# -2147483648 tokens and one millisecond more; the fingerprint's sums distinguish these.
_COUNTS = """coalesce(latency_ms * 4294967295 + token_count,
        coalesce(latency_ms, 0) * 4294967295 + coalesce(token_count, 0))"""
# Few logs have a label: the error type of a failed one, or a status that is neither success nor failure.
_LABEL = f"CASE WHEN status = '{FAILED_STATUS}' THEN error_type ELSE status END"
_WITH_LABEL = f"""CASE WHEN is_successful THEN {_COUNTS}
        ELSE coalesce(hashtextextended({_LABEL} COLLATE "C", {_COUNTS}), {_COUNTS}) END"""
_WITH_USER = f'coalesce(hashtextextended(user_id COLLATE "C", {_WITH_LABEL}), {_WITH_LABEL})'
_WITH_AGENT = f"""hashtextextended(coalesce(agent_id, '') COLLATE "C", {_WITH_USER})"""
_WITH_COST = f"hash_numeric_extended(coalesce(cost_usd, 0), {_WITH_AGENT})"

# Flags for values whose hashes collide by construction: the kinds of status; an error type and a user id with the same
# text when the other is NULL; NULL and 0 or ''; a cost and its negative.
_MARKS = f"""CASE WHEN is_successful THEN 1
          WHEN status = '{FAILED_STATUS}' THEN CASE WHEN error_type IS NULL THEN 3 ELSE 2 END
          WHEN status IS NULL THEN 4 ELSE 0 END
        + CASE WHEN is_human_intervention THEN 8 ELSE 0 END
        + CASE WHEN cost_usd < 0 THEN 16 ELSE 0 END
        + CASE WHEN num_nulls(agent_id, latency_ms, token_count, cost_usd) = 0 THEN 0
          ELSE 32 * (agent_id IS NULL)::integer + 64 * (latency_ms IS NULL)::integer
              + 128 * (token_count IS NULL)::integer + 256 * (cost_usd IS NULL)::integer END"""

#: A 64-bit hash of all of log_columns(): each call's seed is the hash of the values before. A numeric hashes by its
#: digits, without sign and trailing zeros. The hash of 0, NaN and infinity is almost the seed itself, so the result is
#: hashed once more.
CONTENT_HASH = f"hashint4extended({_MARKS}, {_WITH_COST})"

#: A finite cost of whole nano-dollars: the scale of NaN and of the infinities is NULL.
IS_REGULAR_COST = "scale(trim_scale(cost_usd)) <= 9"


def total_regular_cost_nano_usd(cost_usd: str) -> str:
    """SQL for the fingerprint_cost() of `cost_usd`, an SQL expression: a sum of regular costs in USD, or NULL."""
    modulus = FINGERPRINT_MODULUS_NANO_USD
    half = modulus // 2
    # Reduced before it is scaled: a cost of 131,072 digits would overflow and fail all fingerprints of the query.
    nano_usd = f"mod(coalesce({cost_usd}, 0), {modulus // NANO_USD_PER_USD}) * {NANO_USD_PER_USD}"
    return f"(mod({nano_usd} + {modulus + half}, {modulus}) - {half})"


#: The same as an aggregate over the costs of logs.
REGULAR_COST_NANO_USD = total_regular_cost_nano_usd(f"sum(cost_usd) FILTER (WHERE {IS_REGULAR_COST})")

# One bytea value holds all ids of a group, and is limited to 1 GB. So an id of 64 bytes or more is replaced by its
# SHA-256 in 64 digits, which no shorter id can equal.
_USER = "CASE WHEN octet_length(user_id) < 64 THEN user_id ELSE encode(sha256(textsend(user_id)), 'hex') END"
# A jsonb object is limited to 256 MB: 14,000 distinct error types of 20 kB, such as whole tracebacks, failed their day.
# 256 bytes are at most 256 characters, and counting the characters of a long text reads all of it.
_ERROR_TYPE = f"""CASE
        WHEN error_type IS NULL THEN '{UNKNOWN_ERROR_TYPE}'
        WHEN octet_length(error_type) <= 256 OR char_length(error_type) <= 256 THEN error_type
        ELSE left(error_type, 200) || '…' || left(encode(sha256(textsend(error_type)), 'hex'), 16) END"""
# A cost of more than nine places makes its sum irregular, unless the excess digits are 0. Others need no trim_scale().
_COST = "CASE WHEN scale(cost_usd) > 9 THEN trim_scale(cost_usd) ELSE cost_usd END"

#: The columns of PARTIALS_SCHEMA as aggregates over rows of log_columns(), in the form that partials.py reads. The
#: lists are bytes: arrays take 15 % more time on server and client. Numbers have four bytes each; texts are separated
#: by a zero byte, which PostgreSQL's texts cannot contain.
PARTIALS = {
    "total_executions": "count(*)",
    "successful_executions": "count(*) FILTER (WHERE is_successful)",
    "failed_executions": f"count(*) FILTER (WHERE {HAS_FAILED})",
    **{name: f"count(*) FILTER (WHERE is_{key})" for key, name in FLAGS.items()},
    "total_tokens": "coalesce(sum(token_count), 0)",
    "cost_nano_usd": f"coalesce(sum({_COST}), 0)::text",
    "content_hash": f"sum({CONTENT_HASH})::text",
    "latencies_ms": "string_agg(int4send(latency_ms), '')",
    "user_ids": rf"string_agg(textsend({_USER}), '\x00')",
    "error_types": rf"string_agg(textsend({_ERROR_TYPE}), '\x00') FILTER (WHERE {HAS_FAILED})",
}

#: With dimensions, what each log says: an element for each, in the same order in all of them; user_ids and error_types
#: of PARTIALS follow, of the logs that have one. numbers: eight bytes, the latency in the upper half, the tokens + 2^31
#: in the lower half. costs: eight bytes, nano-dollars or IRREGULAR_COST, and in the lowest bits LOG_FLAGS.
LOG_FLAGS = {
    "is_successful": "is_successful",
    "has_failed": HAS_FAILED,
    **{f"is_{key}": f"is_{key}" for key in FLAGS},
    "has_latency": "latency_ms IS NOT NULL",
    "has_user": "user_id IS NOT NULL",
}
#: Of a cost that is finer than a nano-dollar or not finite, or too large for the bits that LOG_FLAGS leave.
IRREGULAR_COST = -(2 ** (63 - len(LOG_FLAGS)))
_LIMIT_USD = -IRREGULAR_COST // NANO_USD_PER_USD
# NaN is larger than any number. Digits of a text take more time on server and client.
_COST_NANO_USD = f"""CASE WHEN cost_usd IS NULL THEN 0
        WHEN cost_usd BETWEEN -{_LIMIT_USD} AND {_LIMIT_USD} AND scale({_COST}) <= 9
        THEN (cost_usd * {NANO_USD_PER_USD})::bigint ELSE {IRREGULAR_COST} END"""
_FLAGS = " + ".join(f"CASE WHEN {flag} THEN {1 << bit} ELSE 0 END" for bit, flag in enumerate(LOG_FLAGS.values()))
PER_LOG = {
    "numbers": """string_agg(
        int8send(coalesce(latency_ms, 0) * 4294967296 + (coalesce(token_count, 0) + 2147483648)), '')""",
    "costs": f"string_agg(int8send(({_COST_NANO_USD}) * {1 << len(LOG_FLAGS)} + ({_FLAGS})), '')",
    **{name: PARTIALS[name] for name in ("total_executions", "user_ids", "error_types")},
}


def dimension_value(dimension: Dimension, number: int, contract: UpstreamContract) -> str:
    """The value that a log counts under, over rows of log_columns(); see MARKS."""
    found, most = f"dimension_{number}", MAX_VALUE_CHARACTERS
    type_, value = ("json", _VALUE_OF_JSON) if contract.metadata_is_json else ("jsonb", _VALUE_OF_JSONB)
    json = value.replace("->>'KEY'", f"#>{_path(dimension)}")
    # A text may be spelled like a list.
    is_list = f"left({found}, 1) IN ('{{', '[') AND {type_}_typeof({json}) <> 'string'"
    marks = ", ".join(str(ord(mark)) for mark in [*MARKS.values(), "[", "{"])
    # Most values meet the second condition, which is cheap. The first character of an empty text is 0.
    return f"""CASE
        WHEN {found} IS NULL THEN '{MARKS[NONE]}'
        WHEN octet_length({found}) <= {most} AND ascii({found}) NOT IN (0, {marks}) THEN {found}
        {f"WHEN {is_list} THEN '{MARKS[LIST]}'" if dimension.keys else ""}
        WHEN octet_length({found}) <= {most} OR char_length({found}) <= {most} THEN '{MARKS[VALUE]}' || {found}
        ELSE '{MARKS[VALUE]}' || left({found}, {most - 17}) || '…'
            || left(encode(sha256(textsend({found})), 'hex'), 16) END"""


def dimension_content(number: int) -> str:
    """A number for the fingerprint that changes with the dimension's value of a log.

    An aggregate over rows of log_columns() that also have CONTENT_HASH as content_hash.
    """
    text = f"coalesce('v' || dimension_{number}, 'n')"
    return f'coalesce(sum(hashtextextended({text} COLLATE "C", content_hash)), 0)'


#: The engine in the kind of this source's fingerprints.
ENGINE = "postgresql"
#: Per version, the numbers of a SourceFingerprint as aggregates over rows of log_columns(). A day is compared in the
#: version that it was stored with, so an old version may be deleted only when no ledger row names it. A new number of
#: FURTHER_FINGERPRINT needs no new version.
FINGERPRINTS = {
    1: f"""
    count(*) AS logs,
    count(*) FILTER (WHERE is_successful) AS successful,
    count(*) FILTER (WHERE {HAS_FAILED}) AS failed,
    coalesce(sum(latency_ms), 0) AS latency_ms,
    coalesce(sum(token_count), 0) AS tokens,
    {REGULAR_COST_NANO_USD} AS cost_nano_usd,
    coalesce(sum({CONTENT_HASH}), 0) AS content_hash"""
}
#: The kinds of fingerprint that can be computed, the present one first.
FINGERPRINT_KINDS: tuple[FingerprintKind, ...] = tuple((ENGINE, version) for version in sorted(FINGERPRINTS)[::-1])


def fingerprint_columns(kind: FingerprintKind) -> str:
    """The SELECT list of a fingerprint of one of FINGERPRINT_KINDS, over rows of log_columns()."""
    further = "".join(f",\n    coalesce({PARTIALS[name]}::numeric, 0) AS {name}" for name in FURTHER_FINGERPRINT)
    return FINGERPRINTS[kind[1]] + further


def with_content_hash(rows: str) -> str:
    """The rows of log_columns(), an SQL query, with CONTENT_HASH as content_hash, evaluated once for each."""
    return f"SELECT log.*, {CONTENT_HASH} AS content_hash FROM ({rows} OFFSET 0) AS log OFFSET 0"
