"""The statements of Spark's SQL that count and add logs: exact in every column, and never a percentile or a mean."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import polars as pl

from metrics_pipeline.logs.lake_columns import NOT_FINITE
from metrics_pipeline.logs.lake_json import WRITTEN_OTHERWISE
from metrics_pipeline.logs.source import KNOWN_STATUSES
from metrics_pipeline.metrics.catalog import FAILED_STATUS, SUCCESS_STATUS
from metrics_pipeline.metrics.dimensions import Dimension
from metrics_pipeline.metrics.upstream import FLAGS, METADATA_KEYS
from metrics_pipeline.metrics.windows import DayWindow

# Metadata that Spark may read in another way than PostgreSQL is `doubtful`: it is delivered as it is, and read here.
# doubtful_0 and so on: the same for the value of a dimension.
_LOGS = """
SELECT day, agent_id, log_id, at, status, error_type, latency_ms, token_count, cost_usd, as_read,
       IF(abs(exact_usd) < 10000000000000000000BD, exact_usd, NULL) AS regular_usd,
       coalesce(status IN ({successful}), false) AS is_successful, coalesce(status IN ({failed}), false) AS has_failed,
       {certain}
FROM (
    SELECT *, {flags}
    FROM (
        SELECT CASE {days} END AS day, CAST({agent_id} AS STRING) AS agent_id, {log_id} AS log_id,
               CAST({timestamp} AS TIMESTAMP) AS at, CAST({status} AS STRING) AS status,
               CAST({error_type} AS STRING) AS error_type, CAST({latency_ms} AS INT) AS latency_ms,
               CAST({token_count} AS BIGINT) AS token_count, CAST({cost_usd} AS STRING) AS cost_usd,
               {exact_usd} AS exact_usd, {metadata} AS metadata, xxhash64({as_read}) AS as_read, {values}
        FROM (SELECT *, {parsed} AS parsed_ FROM {table} WHERE {timestamp} >= {start} AND {timestamp} < {end})
    ) WHERE day IS NOT NULL
)"""

# The fields that a VARIANT has in Arrow.
_OF_VARIANT = {"value", "metadata"}

# The columns that every log has, and that metrics read.
_PLAIN = ("agent_id", "status", "error_type", "latency_ms", "token_count", "cost_usd")

#: The keys of the groups of a statement.
BY_AGENT, BY_VALUE = "agent_id", "agent_id, dimension, found, unread"

# A hash of NULL is the one of nothing, so a word before each value tells (NULL, x) from (x, NULL). Halves of hashes are
# added, because sums of BIGINT are exact as long as they fit, and several times faster than those of DECIMAL.
_HASH = """
xxhash64('agent', agent_id, 'success', is_successful, 'failed', has_failed, 'latency', latency_ms,
         'tokens', token_count, 'cost', coalesce(CAST(regular_usd AS STRING), cost_usd),
         'error', IF(has_failed, error_type, NULL), 'user', user_id, 'human', is_human_intervention,
         'metadata', doubtful) AS hash"""
_SUM_OF_HASHES = "sum(shiftright(hash, 32)) AS hash_high, sum(hash & 4294967295) AS hash_low"
_SUM_AS_READ = "sum(shiftright(as_read, 32)) AS read_high, sum(as_read & 4294967295) AS read_low"
_SUMS = f"""
count(*) AS total_executions, count_if(is_successful) AS successful_executions,
count_if(has_failed) AS failed_executions, {", ".join(f"count_if(is_{key}) AS {name}" for key, name in FLAGS.items())},
coalesce(sum(token_count), 0) AS total_tokens, coalesce(sum(regular_usd), 0) AS regular_usd,
count_if(cost_usd IS NOT NULL AND regular_usd IS NULL) AS irregular_costs, count(doubtful) AS doubtful"""
SUMS = f"""
SELECT day, agent_id, xxhash64(agent_id) AS agent_hash, {_SUMS}, coalesce(sum(latency_ms), 0) AS latency_ms,
       {_SUM_OF_HASHES}, {_SUM_AS_READ}
FROM (SELECT *, {_HASH} FROM ({{logs}}))
GROUP BY day, agent_id"""
#: What SUMS has of `as_read`, the logs' values before JSON is parsed, which takes most of the time.
AS_READ = f"SELECT agent_id, {_SUM_AS_READ} FROM ({{logs}}) GROUP BY agent_id"
#: Of the logs by value.
VALUE_SUMS = f"SELECT {BY_VALUE}, {_SUMS} FROM ({{logs}}) GROUP BY {BY_VALUE}"
CONTENTS = f"""
SELECT day, dimension, {_SUM_OF_HASHES}
FROM (SELECT day, dimension, xxhash64(hash, 'found', found, 'unread', unread) AS hash
      FROM (SELECT *, {_HASH} FROM ({{logs}})))
GROUP BY day, dimension"""
LATENCIES = """
SELECT {keys}, latency_ms, count(*) AS executions
FROM ({logs}) WHERE latency_ms IS NOT NULL GROUP BY {keys}, latency_ms"""
ERRORS = """
SELECT {keys}, error_type, count(*) AS executions
FROM ({logs}) WHERE has_failed GROUP BY {keys}, error_type"""
USERS = """
SELECT {keys}, user_id FROM ({logs}) WHERE user_id IS NOT NULL GROUP BY {keys}, user_id"""
DOUBTFUL = """
SELECT {keys}, doubtful, count(*) AS executions
FROM ({logs}) WHERE doubtful IS NOT NULL GROUP BY {keys}, doubtful"""
COSTS = """
SELECT {keys}, cost_usd, count(*) AS executions
FROM ({logs}) WHERE agent_id IS NULL OR agent_id IN ({agents}) GROUP BY {keys}, cost_usd"""
COUNTS = "SELECT day, count(*) AS executions FROM ({logs}) GROUP BY day"
NEWEST = """
SELECT log_id, agent_id, CAST(at AS STRING) AS at, CAST({value} AS STRING) AS value
FROM ({logs}) WHERE {condition} ORDER BY at DESC LIMIT {examples}"""


def literal(text: str) -> str:
    """A text as it is. In quotation marks, its meaning would depend on settings: of backslashes, marks and ${…}."""
    return f"CAST(X'{text.encode().hex()}' AS STRING)"


_IS_FINITE = f"NOT cost_usd RLIKE {literal(NOT_FINITE)}"
_COST = f"IF({_IS_FINITE}, try_cast(cost_usd AS DOUBLE), NULL)"
_WHEN = "WHEN {timestamp} >= {start} AND {timestamp} < {end} THEN {number}"
_NINE_PLACES = literal(r"^[+-]?\d+(\.\d{0,9}0*)?$")
_ZERO_BYTE = literal("\0")
_ESCAPE, _ZERO_ESCAPE = literal(r"\u"), literal(r"\u00")
# Halves of surrogate pairs and zero bytes, which Java reads otherwise.
_READ_OTHERWISE = literal(r"\\u([dD][89a-fA-F]|0000)")
_FROM_JSON = "from_json({text}, '{fields}', map('allowSingleQuotes', 'false'))"


def logs_of(
    table: str,
    schema: pl.Schema,
    names: Mapping[str, str],
    statuses: Mapping[str, str],
    windows: Sequence[DayWindow],
    dimensions: Sequence[Dimension] = (),
) -> str:
    """A query of the logs of the windows, which are in order. `day` is the position of the log's window.

    names: checked_names(). statuses: Settings.statuses.
    """
    column = {ours: _binary(name, schema[name]) for ours, name in names.items()}
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
        **_of_metadata(column, schema, names, dimensions),
        timestamp=column["timestamp"],
        **{name: column[name] for name in _PLAIN},
    )


def by_value(logs: str, dimensions: int) -> str:
    """The logs_of() so many dimensions, each once for every one: `dimension` is its position."""
    values = ", ".join(
        f"named_struct('dimension', {number}, 'found', value_{number}, 'unread', doubtful_{number})"
        for number in range(dimensions)
    )
    return f"SELECT *, inline(array({values})) FROM ({logs})"


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
    return ", ".join(map(literal, words))


def those_of(agents: Sequence[str | None]) -> str:
    """What COSTS takes for these agents. Logs without an agent are counted in any case."""
    return texts([agent for agent in agents if agent is not None]) or "NULL"


def quoted(name: str) -> str:
    """The name of a column."""
    return f"`{name.replace('`', '``')}`"


def _binary(name: str, dtype: pl.DataType) -> str:
    """The column; a text without its collation, under which texts that differ may be equal and have the same hash."""
    return f"CAST({quoted(name)} AS STRING)" if dtype == pl.String else quoted(name)


def _exact_usd(cost: str, dtype: pl.DataType) -> str:
    """The cost as a decimal of up to nine places; NULL if it has more, or cannot be one."""
    nine_places = f"try_cast({cost} AS DECIMAL(38, 9))"
    if dtype == pl.String:
        # Casting a text rounds it. Exponents and more than nine places are left to the exact sum.
        return f"IF({cost} RLIKE {_NINE_PLACES}, {nine_places}, NULL)"
    if isinstance(dtype, pl.Decimal) and dtype.scale > 9:
        return f"IF(try_cast({nine_places} AS DECIMAL({dtype.precision}, {dtype.scale})) = {cost}, {nine_places}, NULL)"
    # Sums of a decimal in its own scale are exact, and faster.
    return cost if isinstance(dtype, pl.Decimal) else nine_places


def _of_metadata(
    column: Mapping[str, str], schema: pl.Schema, names: Mapping[str, str], dimensions: Sequence[Dimension]
) -> dict[str, str]:
    """The parts of the query that read metadata: columns, fields of a struct, or keys of JSON; and the dimensions."""
    metadata = schema[names["metadata"]] if "metadata" in names else None
    if isinstance(metadata, pl.Struct) and {each.name for each in metadata.fields} == _OF_VARIANT:
        metadata, column = pl.String(), {**column, "metadata": f"to_json({column['metadata']})"}
    values = {key: f"CAST({column[key]} AS STRING)" for key in METADATA_KEYS if key in column}
    values |= {
        f"value_{number}": _plain(quoted(each.column)) for number, each in enumerate(dimensions) if not each.keys
    }
    paths: dict[str, tuple[str, ...]] = {key: (key,) for key in METADATA_KEYS if key not in column}
    paths |= {f"value_{number}": each.keys for number, each in enumerate(dimensions) if each.keys}
    if isinstance(metadata, pl.Struct):
        values |= {name: _field(column["metadata"], metadata, path) for name, path in paths.items()}
        paths = {}
    doubts = {name: _is_doubtful(name, path) for name, path in paths.items()}
    of_log = " OR ".join(doubts[key] for key in METADATA_KEYS if key in doubts) or "false"
    flags = {"is_doubtful": of_log} | {
        f"is_doubtful_{number}": doubts.get(f"value_{number}", "false") for number in range(len(dimensions))
    }
    text_of = {key: f"IF(is_doubtful, NULL, {key})" if key in doubts else key for key in METADATA_KEYS}
    certain = [
        "IF(is_doubtful, metadata, NULL) AS doubtful",
        f"{text_of['user_id']} AS user_id",
        *(f"coalesce({text_of[key]} = 'true', false) AS is_{key}" for key in FLAGS),
    ]
    for number in range(len(dimensions)):
        certain.append(f"IF(is_doubtful_{number}, NULL, value_{number}) AS value_{number}")
        certain.append(f"IF(is_doubtful_{number}, metadata, NULL) AS doubtful_{number}")
    fields = ", ".join(f"`{key}` STRING" for key in dict.fromkeys(path[0] for path in paths.values()))
    as_read = {name: column[name] for name in _PLAIN} | values | ({"metadata": column["metadata"]} if paths else {})
    return {
        "as_read": ", ".join(f"'{name}', {value}" for name, value in as_read.items()),
        "metadata": column["metadata"] if paths else "CAST(NULL AS STRING)",
        "parsed": _FROM_JSON.format(text=column["metadata"], fields=fields) if paths else "NULL",
        "values": ", ".join(
            f"{value} AS {name}" for name, value in (values | {k: _in_json(p) for k, p in paths.items()}).items()
        ),
        "flags": ", ".join(f"coalesce({condition}, false) AS {name}" for name, condition in flags.items()),
        "certain": ", ".join(certain),
    }


def _field(column: str, dtype: Any, path: Sequence[str]) -> str:
    """The text of a field within a struct; of a list or an object LIST_MARK, which is a zero byte."""
    for key in path:
        types = {each.name: each.dtype for each in dtype.fields} if isinstance(dtype, pl.Struct) else {}
        if key not in types:
            return "CAST(NULL AS STRING)"
        column, dtype = f"{column}.{quoted(key)}", types[key]
    return f"IF({column} IS NULL, NULL, {_ZERO_BYTE})" if dtype.is_nested() else _plain(column)


def _plain(column: str) -> str:
    return f"replace(CAST({column} AS STRING), {_ZERO_BYTE}, '{chr(0xFFFD)}')"


def _in_json(path: Sequence[str]) -> str:
    value = f"parsed_.`{path[0]}`"
    for key in path[1:]:
        value = f"{_FROM_JSON.format(text=value, fields=f'`{key}` STRING')}.`{key}`"
    return value


def _is_doubtful(name: str, path: Sequence[str]) -> str:
    """Whether Spark may have read the value at the path of the JSON text in another way than PostgreSQL."""
    key, word = path[-1], " AND contains(metadata, 'true')" if name in FLAGS else ""
    after_key = f"""substr(metadata, instr(metadata, '"{key}"') + 1)"""
    # The only such key has a text, not a number that looks like it.
    as_text = " OR ".join(f"""contains(metadata, concat('"{key}":{space}"', {name}, '"'))""" for space in ("", " "))
    is_text = f"""(({as_text}) AND instr({after_key}, '"{key}"') = 0 AND NOT contains(metadata, {_ZERO_ESCAPE}))"""
    null = literal(rf'"{key}"\s*:\s*null')
    doubts = [
        f"(contains(metadata, {_ESCAPE}) AND metadata RLIKE {_READ_OTHERWISE})",
        # A value that PostgreSQL writes otherwise.
        f"({name} RLIKE {literal(WRITTEN_OTHERWISE)} AND NOT {is_text})",
        # No value in spite of the key, which is invalid JSON or a key of something else.
        f"""({name} IS NULL AND contains(metadata, '"{key}'){word} AND NOT metadata RLIKE {null})""",
    ]
    # A text that holds JSON is no object, and has no keys.
    doubts += [
        f"({name} IS NOT NULL AND (metadata RLIKE {text} OR contains(metadata, {_ZERO_ESCAPE})))"
        for text in (literal(rf'"{outer}"\s*:\s*"') for outer in path[:-1])
    ]
    # The place of an item in a list.
    doubts += ["contains(metadata, '[')" for key in path if key.removeprefix("-").isdigit()]
    return " OR ".join(doubts)
