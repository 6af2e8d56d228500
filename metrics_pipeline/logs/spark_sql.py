"""The statements of Spark's SQL that count and add logs: exact in every column, and never a percentile or a mean."""

from collections.abc import Mapping, Sequence
from datetime import datetime

import polars as pl

from metrics_pipeline.logs.lake_columns import NOT_FINITE
from metrics_pipeline.logs.lake_json import WRITTEN_OTHERWISE
from metrics_pipeline.logs.source import KNOWN_STATUSES
from metrics_pipeline.metrics.catalog import FAILED_STATUS, SUCCESS_STATUS
from metrics_pipeline.metrics.upstream import FLAGS, METADATA_KEYS
from metrics_pipeline.metrics.windows import DayWindow

# Metadata that Spark may read in another way than PostgreSQL is `doubtful`: it is delivered as it is, and read here.
_LOGS = """
SELECT day, agent_id, log_id, at, status, error_type, latency_ms, token_count, cost_usd,
       IF(abs(exact_usd) < 10000000000000000000BD, exact_usd, NULL) AS regular_usd,
       coalesce(status IN ({successful}), false) AS is_successful, coalesce(status IN ({failed}), false) AS has_failed,
       IF(is_doubtful, metadata, NULL) AS doubtful, user_id,
       {flags}
FROM (
    SELECT *, coalesce({is_doubtful}, false) AS is_doubtful
    FROM (
        SELECT CASE {days} END AS day, CAST({agent_id} AS STRING) AS agent_id, {log_id} AS log_id,
               CAST({timestamp} AS TIMESTAMP) AS at, CAST({status} AS STRING) AS status,
               CAST({error_type} AS STRING) AS error_type, CAST({latency_ms} AS INT) AS latency_ms,
               CAST({token_count} AS BIGINT) AS token_count, CAST({cost_usd} AS STRING) AS cost_usd,
               {exact_usd} AS exact_usd, {metadata} AS metadata, {of_metadata}
        FROM (SELECT *, {parsed} AS parsed_ FROM {table} WHERE {timestamp} >= {start} AND {timestamp} < {end})
    ) WHERE day IS NOT NULL
)"""

# A hash of NULL is the one of nothing, so a word before each value tells (NULL, x) from (x, NULL). Halves of hashes are
# added, because sums of BIGINT are exact as long as they fit, and several times faster than those of DECIMAL.
SUMS = """
SELECT day, agent_id, count(*) AS total_executions, count_if(is_successful) AS successful_executions,
       count_if(has_failed) AS failed_executions, coalesce(sum(token_count), 0) AS total_tokens,
       coalesce(sum(latency_ms), 0) AS latency_ms, coalesce(sum(regular_usd), 0) AS regular_usd,
       count_if(cost_usd IS NOT NULL AND regular_usd IS NULL) AS irregular_costs,
       sum(shiftright(hash, 32)) AS hash_high, sum(hash & 4294967295) AS hash_low
FROM (
    SELECT *, xxhash64('agent', agent_id, 'success', is_successful, 'failed', has_failed, 'latency', latency_ms,
                       'tokens', token_count, 'cost', coalesce(CAST(regular_usd AS STRING), cost_usd),
                       'error', IF(has_failed, error_type, NULL), 'user', user_id, 'human', is_human_intervention,
                       'metadata', doubtful) AS hash
    FROM ({logs})
)
GROUP BY day, agent_id"""
LATENCIES = """
SELECT agent_id, latency_ms, count(*) AS executions
FROM ({logs}) WHERE latency_ms IS NOT NULL GROUP BY agent_id, latency_ms"""
ERRORS = """
SELECT agent_id, error_type, count(*) AS executions
FROM ({logs}) WHERE has_failed GROUP BY agent_id, error_type"""
USERS = f"""
SELECT agent_id, user_id, doubtful, count(*) AS executions,
       {", ".join(f"count_if(is_{key}) AS {name}" for key, name in FLAGS.items())}
FROM ({{logs}}) WHERE user_id IS NOT NULL OR doubtful IS NOT NULL OR {" OR ".join(f"is_{key}" for key in FLAGS)}
GROUP BY agent_id, user_id, doubtful"""
COSTS = """
SELECT day, agent_id, cost_usd, count(*) AS executions
FROM ({logs}) WHERE agent_id IS NULL OR agent_id IN ({agents}) GROUP BY day, agent_id, cost_usd"""
COUNTS = "SELECT day, count(*) AS executions FROM ({logs}) GROUP BY day"
NEWEST = """
SELECT log_id, agent_id, CAST(at AS STRING) AS at, CAST({value} AS STRING) AS value
FROM ({logs}) WHERE {condition} ORDER BY at DESC LIMIT {examples}"""

_IS_FINITE = f"NOT cost_usd RLIKE r'{NOT_FINITE}'"
_COST = f"IF({_IS_FINITE}, try_cast(cost_usd AS DOUBLE), NULL)"
_WHEN = "WHEN {timestamp} >= {start} AND {timestamp} < {end} THEN {number}"


def logs_of(
    table: str, schema: pl.Schema, names: Mapping[str, str], statuses: Mapping[str, str], windows: Sequence[DayWindow]
) -> str:
    """A query of the logs of the windows, which are in order. `day` is the position of the log's window.

    names: checked_names(). statuses: Settings.statuses.
    """
    column = {ours: f"`{name.replace('`', '``')}`" for ours, name in names.items()}
    zone = getattr(schema[names["timestamp"]], "time_zone", None)
    bounds = [(instant(window.start, zone), instant(window.end, zone)) for window in windows]
    return _LOGS.format(
        table=table,
        start=bounds[0][0],
        end=bounds[-1][1],
        days=" ".join(
            _WHEN.format(timestamp=column["timestamp"], start=start, end=end, number=number)
            for number, (start, end) in enumerate(bounds)
        ),
        log_id=f"CAST({column['id']} AS STRING)" if "id" in column else "''",
        exact_usd=_exact_usd(column["cost_usd"], schema[names["cost_usd"]]),
        successful=texts([SUCCESS_STATUS, *(word for word, means in statuses.items() if means == SUCCESS_STATUS)]),
        failed=texts([FAILED_STATUS, *(word for word, means in statuses.items() if means == FAILED_STATUS)]),
        flags=", ".join(f"coalesce({key} = 'true', false) AS is_{key}" for key in FLAGS),
        **_of_metadata(column, schema, names),
        **{
            name: column[name]
            for name in ("agent_id", "timestamp", "status", "error_type", "latency_ms", "token_count", "cost_usd")
        },
    )


def suspicions(statuses: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """What makes a value suspicious: {kind: (condition, column)}, as quality.suspicions()."""
    return {
        "negative_latency": ("latency_ms < 0", "latency_ms"),
        "negative_tokens": ("token_count < 0", "token_count"),
        "negative_cost": (f"{_COST} < 0", "cost_usd"),
        "cost_not_a_number": (f"NOT ({_IS_FINITE})", "cost_usd"),
        "cost_of_12_digits_or_more": (f"abs({_COST}) >= 1e11", "cost_usd"),
        "unknown_status": (
            f"coalesce(status NOT IN ({texts([*KNOWN_STATUSES, *statuses])}), true)",
            "status",
        ),
    }


def instant(moment: datetime, zone: str | None) -> str:
    """A literal of a moment, for a column with a time zone, or for one without, which is UTC."""
    written = moment.replace(tzinfo=None).isoformat(" ", "microseconds")
    return f"TIMESTAMP'{written}+00:00'" if zone else f"TIMESTAMP_NTZ'{written}'"


def texts(words: Sequence[str]) -> str:
    """Literals of texts, separated by commas."""
    return ", ".join("'" + word.replace("\\", r"\\").replace("'", r"\'") + "'" for word in words)


def _exact_usd(cost: str, dtype: pl.DataType) -> str:
    """The cost as a decimal of up to nine places; NULL if it has more, or cannot be one."""
    nine_places = f"try_cast({cost} AS DECIMAL(38, 9))"
    if dtype == pl.String:
        # Casting a text rounds it. Exponents and more than nine places are left to the exact sum.
        return rf"IF({cost} RLIKE r'^[+-]?\d+(\.\d{{0,9}}0*)?$', {nine_places}, NULL)"
    if isinstance(dtype, pl.Decimal) and dtype.scale > 9:
        return f"IF(try_cast({nine_places} AS DECIMAL({dtype.precision}, {dtype.scale})) = {cost}, {nine_places}, NULL)"
    # Sums of a decimal in its own scale are exact, and faster.
    return cost if isinstance(dtype, pl.Decimal) else nine_places


def _of_metadata(column: Mapping[str, str], schema: pl.Schema, names: Mapping[str, str]) -> dict[str, str]:
    """The parts of the query that read METADATA_KEYS: columns, fields of a struct, or keys of JSON."""
    found = {key: f"CAST({column[key]} AS STRING)" for key in METADATA_KEYS if key in column}
    parts = {"metadata": "CAST(NULL AS STRING)", "parsed": "NULL", "is_doubtful": "false"}
    dtype = schema[names["metadata"]] if "metadata" in names else None
    if isinstance(dtype, pl.Struct):
        fields = [field.name for field in dtype.fields]
        for key in {*METADATA_KEYS} - found.keys():
            has_key = key in fields
            found[key] = f"CAST({column['metadata']}.{key} AS STRING)" if has_key else "CAST(NULL AS STRING)"
    elif len(found) < len(METADATA_KEYS):
        keys = [key for key in METADATA_KEYS if key not in found]
        parts["metadata"] = column["metadata"]
        fields_of = ", ".join(f"{key} STRING" for key in keys)
        parts["parsed"] = f"from_json({column['metadata']}, '{fields_of}', map('allowSingleQuotes', 'false'))"
        parts["is_doubtful"] = "metadata IS NOT NULL AND (" + " OR ".join(map(_is_doubtful, keys)) + ")"
        found |= {key: f"parsed_.{key}" for key in keys}
    return parts | {"of_metadata": ", ".join(f"{found[key]} AS {key}" for key in METADATA_KEYS)}


def _is_doubtful(key: str) -> str:
    # Halves of surrogate pairs and zero bytes, which Java reads otherwise; a value that PostgreSQL writes otherwise;
    # and no value in spite of the key, which is invalid JSON or a key of something else.
    may_have = f"contains(metadata, '\"{key}')" + (" AND contains(metadata, 'true')" if key in FLAGS else "")
    return (
        r"metadata RLIKE r'\\u([dD][89a-fA-F]|0000)' OR "
        f"{key} RLIKE r'{WRITTEN_OTHERWISE}' OR "
        rf"({key} IS NULL AND {may_have} AND NOT metadata RLIKE r'\"{key}\"\s*:\s*null')"
    )
