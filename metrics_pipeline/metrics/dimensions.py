"""The dimensions that METRICS_DIMENSIONS declares, and the values of each that a day keeps."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from metrics_pipeline.metrics.catalog import AGENT_DIMENSION_DAY, OTHER_VALUES, PARTIALS_SCHEMA
from metrics_pipeline.metrics.expressions import sorted_numbers
from metrics_pipeline.metrics.upstream import FLAGS

MAX_DIMENSIONS = 5

#: How many values an agent's day keeps for each dimension, besides the row that merges the others.
MAX_VALUES = 50

#: The kinds of a stored value. Only VALUE has a text of its own: a log that says "(other)" is not the row OTHER.
VALUE, NONE, LIST, OTHER = "value", "none", "list", OTHER_VALUES

#: How the kinds without a text of their own are spelled.
SPELLED = {NONE: "(none)", LIST: "(list)", OTHER: "(other)"}

#: A longer value is replaced by its first characters and sixteen hexadecimal digits of its SHA-256.
MAX_VALUE_CHARACTERS = 128

#: Names that mean something else in a table or in a question to the API.
RESERVED = frozenset(
    {column.name for column in AGENT_DIMENSION_DAY.columns}
    | {"agent", "day", "week", "month", "window", "error_type", "days_stored", "created_at", "updated_at"}
    | {"start_date", "end_date", "group_by", "sort", "min_executions", "compare", "limit", "offset", "cursor", "format"}
    | {"decimals", "excel", "updated_since", "fields", "list_version"}
)

#: The columns that tell the rows of one day apart.
VALUE_KEYS = ("agent_id", "dimension", "value_kind", "value")

#: A log's value as one text: the text itself if it does not begin with one of these, and otherwise a mark, behind which
#: a VALUE has its text. A NULL is NONE.
MARKS = {NONE: "\x01", LIST: "\x02", VALUE: "\x03"}

#: PARTIALS_SCHEMA, but for the texts of user_ids: 16 bytes for each text of a list would double the memory.
AGENT_PARTIALS_SCHEMA = pl.Schema({**PARTIALS_SCHEMA, "user_ids": pl.List(pl.Categorical())})

#: The same for each agent and value of a dimension, each once, with pairs, which are sorted. content_hash is 0.
VALUE_PARTIALS_SCHEMA = pl.Schema(
    {
        **dict.fromkeys(VALUE_KEYS, pl.String()),
        **AGENT_PARTIALS_SCHEMA,
    }
)

LOGS = pl.len().cast(pl.Int64).alias("total_executions")
COST_NANO_USD = (
    pl.when(pl.col("cost_nano_usd").null_count() == 0)
    .then(pl.col("cost_nano_usd").cast(pl.Int128).sum())
    .alias("cost_nano_usd")
)

#: The partial aggregates of PARTIALS_SCHEMA that are numbers, over log_schema().
SUMS_OF_LOGS = (
    LOGS,
    pl.col("is_successful").sum().cast(pl.Int64).alias("successful_executions"),
    pl.col("has_failed").sum().cast(pl.Int64).alias("failed_executions"),
    *(pl.col(f"is_{key}").sum().cast(pl.Int64).alias(name) for key, name in FLAGS.items()),
    pl.col("token_count").cast(pl.Int64).sum().alias("total_tokens"),
    COST_NANO_USD,
)

#: The exact costs of the values whose costs are irregular: see EXACT_COSTS_SCHEMA.
VALUE_COSTS_SCHEMA = pl.Schema(
    {
        **dict.fromkeys(VALUE_KEYS, pl.String()),
        "total_cost_nano_usd": pl.Int128(),
        "avg_cost_nano_usd": pl.Int128(),
    }
)

# About how many logs are grouped at once.
_LOGS_AT_ONCE = 250_000
# The number of the agent. Categories have smaller numbers than that of logs without an agent.
_AGENT = pl.col("agent_id").to_physical().fill_null(2**31 - 1)

_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}", re.ASCII)
# Parts of SQL statements: no quote, no percent sign, no colon.
_COLUMN = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}", re.ASCII)
_KEY = re.compile(r"[A-Za-z0-9_-]{1,63}", re.ASCII)
_METADATA = "metadata"


@dataclass(frozen=True)
class Dimension:
    """A dimension and where a log says its value: under `keys` in metadata, or, without keys, in `column`."""

    name: str
    column: str
    keys: tuple[str, ...] = ()

    @property
    def definition(self) -> str:
        """The dimension as METRICS_DIMENSIONS may write it, always in the same form."""
        return f"{self.name}={'.'.join([self.column, *self.keys])}"


@dataclass(frozen=True)
class ExtractedValues:
    """A day's logs by agent and value of each declared dimension, as a source delivers them.

    partials, keys: as broken_down() gives them. costs: VALUE_COSTS_SCHEMA of the values of the agents with irregular
    costs; they add up to the agents' exact costs. content: the numbers that the fingerprint holds, by
    fingerprint_names(); each changes when a log's value of the dimension is corrected.
    """

    dimensions: tuple[Dimension, ...]
    partials: pl.DataFrame
    keys: pl.DataFrame
    costs: pl.DataFrame
    content: dict[str, int]


def parse_dimensions(text: str) -> tuple[Dimension, ...]:
    """The dimensions of a text such as "model,version=metadata.release". Raises ValueError, which names the entry."""
    entries = [entry.strip() for entry in text.split(",")]
    dimensions = []
    for entry in entries:
        name, has_source, source = entry.partition("=")
        if not _NAME.fullmatch(name):
            raise ValueError(f"in which {entry!r} does not begin with a name of small letters, digits and _")
        if name in RESERVED:
            raise ValueError(f"in which {entry!r} has a name that the metrics or the API use already")
        column, *keys = source.split(".") if has_source else (_METADATA, name)
        is_metadata = column == _METADATA
        if not _COLUMN.fullmatch(column) or is_metadata != bool(keys) or not all(map(_KEY.fullmatch, keys)):
            raise ValueError(f"in which {entry!r} names neither a column nor keys of metadata")
        dimensions.append(Dimension(name, column, tuple(keys)))
    if len(dimensions) > MAX_DIMENSIONS:
        raise ValueError(f"which has {len(dimensions)} dimensions, of which {MAX_DIMENSIONS} are possible")
    if len({dimension.name for dimension in dimensions}) < len(dimensions):
        raise ValueError("which has a name twice")
    return tuple(dimensions)


def log_schema(dimensions: Sequence[Dimension]) -> pl.Schema:
    """What the metrics of values need of each log. A distinct text is kept once.

    token_count: NULL as 0. cost_nano_usd: NULL as 0; NULL if it is irregular, see EXACT_COSTS_SCHEMA, or larger than
    the source sends as one number. user_id: as in PARTIALS_SCHEMA. error_type: of failed logs. value_0 and so on: of
    each dimension, see MARKS; never NULL.
    """
    return pl.Schema(
        {
            "agent_id": pl.Categorical(),
            "is_successful": pl.Boolean(),
            "has_failed": pl.Boolean(),
            **{f"is_{key}": pl.Boolean() for key in FLAGS},
            "latency_ms": pl.Int32(),
            "token_count": pl.Int32(),
            "cost_nano_usd": pl.Int64(),
            "user_id": pl.Categorical(),
            "error_type": pl.Categorical(),
            **{f"value_{number}": pl.Categorical() for number in range(len(dimensions))},
        }
    )


def definitions(dimensions: Iterable[Dimension]) -> str:
    """What a day's ledger row says of the dimensions that it was stored with."""
    return ",".join(dimension.definition for dimension in dimensions)


def are_declared(stored: str | None, dimensions: Iterable[Dimension]) -> bool:
    """Whether a stored day has just these dimensions, by the same definitions. stored: LedgerRow.dimensions."""
    return {*(stored or "").split(",")} == {*definitions(dimensions).split(",")}


def names_of(stored: str) -> list[str]:
    """The names of the dimensions in what definitions() gave."""
    return [definition.partition("=")[0] for definition in stored.split(",") if definition]


def fingerprint_names(dimensions: Iterable[Dimension]) -> list[str]:
    """Under which name a fingerprint holds the number of each dimension. Another definition has another name."""
    return [f"dimension {dimension.definition}" for dimension in dimensions]


def by_some_agents(logs: pl.DataFrame) -> Iterator[pl.DataFrame]:
    """The logs (log_schema()) in parts, each with all logs of some agents: a million at once took 100 MB more."""
    parts = max(-(-logs.height // _LOGS_AT_ONCE), 1)
    part = logs["agent_id"].to_physical().fill_null(0) % parts
    for number in range(parts):
        yield logs if parts == 1 else logs.filter(part == number)


def by_agent(logs: pl.DataFrame, hashes: pl.DataFrame) -> pl.DataFrame:
    """AGENT_PARTIALS_SCHEMA, a row for each agent of the logs (log_schema()), with sorted pairs and no bare values.

    hashes: agent_id (Categorical) and content_hash, whose sum is the agent's.
    """
    agents = _few_groups(hashes.lazy().group_by("agent_id").agg(pl.col("content_hash").cast(pl.Int128).sum()))
    return (
        agents.with_columns(row=_AGENT)
        .join(merged_rows(logs.lazy().with_columns(row=_AGENT)), on="row")
        .with_columns(latencies_ms=pl.lit(None), error_types=pl.lit(None))
        .select(pl.col(name).cast(dtype) for name, dtype in AGENT_PARTIALS_SCHEMA.items())
        .collect(engine="in-memory")
    )


def broken_down(logs: pl.DataFrame, dimensions: Sequence[Dimension]) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The logs by agent and value of each dimension, of which each agent keeps the MAX_VALUES largest and a row OTHER.

    logs: log_schema(). Returns VALUE_PARTIALS_SCHEMA, and the keys of its rows: VALUE_KEYS, merged_values (how many
    values the row holds) and found (the value as a log has it; NULL for OTHER).
    """
    parts = [
        _by_value(some.rename({f"value_{number}": "found"}), dimension.name)
        for some in by_some_agents(logs)
        for number, dimension in enumerate(dimensions)
    ]
    partials, keys = zip(*parts, strict=True)
    return pl.concat(partials), pl.concat(keys)


def _by_value(logs: pl.DataFrame, name: str) -> tuple[pl.DataFrame, pl.DataFrame]:
    # One number for agent and value: grouping and joining by two texts takes four times as long.
    pair = (_AGENT.cast(pl.Int64) * 2**32 + pl.col("found").to_physical()).alias("pair")
    pairs = logs.select(pair, "agent_id", "found")
    keys, rows = kept_values(pairs.group_by("pair").agg(pl.first("agent_id", "found"), pl.len()).drop("pair"), name)
    row = pairs.select("pair").join(rows.select(pair, "row"), on="pair", how="left", maintain_order="left")["row"]
    numbered = logs.lazy().with_columns(row)
    partials = (
        keys.lazy()
        .join(merged_rows(numbered), on="row", how="left")
        .with_columns(pl.lit(0).alias("content_hash"), latencies_ms=pl.lit(None), error_types=pl.lit(None))
        .select(pl.col(name).cast(dtype) for name, dtype in VALUE_PARTIALS_SCHEMA.items())
    )
    texts = pl.col("agent_id", "found").cast(pl.String)
    return partials.collect(engine="in-memory"), keys.with_columns(texts).select(*VALUE_KEYS, "merged_values", "found")


def merged_rows(logs: pl.LazyFrame) -> pl.LazyFrame:
    """Partial aggregates of the logs that have the same `row`: row, the sums, user_ids, latency_counts, error_counts.

    logs: of log_schema(), besides row (UInt32, less than 2^31, never NULL). Pairs are sorted.
    """
    merged = _few_groups(logs.group_by("row").agg(*SUMS_OF_LOGS))
    for lists in (user_lists(logs), _latency_counts(logs), _error_counts(logs)):
        merged = merged.join(lists, on="row", how="left")
    names = ("user_ids", "latency_counts", "error_counts")
    return merged.with_columns(pl.col(name).fill_null(pl.lit([], VALUE_PARTIALS_SCHEMA[name])) for name in names)


def _few_groups(groups: pl.LazyFrame) -> pl.LazyFrame:
    """The sums of a few groups of many logs. The streaming engine takes half the time of the in-memory one for them."""
    return groups.collect(engine="streaming").lazy()


def kept_values(counts: pl.DataFrame, name: str) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The rows of an agent's day: the keys with their number `row`; and the `row` of each agent_id and found.

    counts: agent_id, found and len, each pair once.
    """
    text, mark = pl.col("found").cast(pl.String), pl.col("found").cast(pl.String).str.slice(0, 1)
    kind = mark.replace_strict({mark: kind for kind, mark in MARKS.items()}, default=VALUE)
    # Texts are compared once for each distinct one: a million pairs of an agent and a text took 3 s.
    values = (
        counts.select(pl.col("found").unique())
        .with_columns(
            value_kind=kind, value=pl.when(mark.is_in([*MARKS.values()])).then(text.str.slice(1)).otherwise(text)
        )
        .with_columns(value=pl.col("value_kind").replace_strict(SPELLED, default=pl.col("value")))
        .sort("value", "value_kind")
        .with_row_index("place")
    )
    ranked = (
        counts.join(values.select("found", "place"), on="found")
        # Of equal numbers of executions the smaller text comes first.
        .sort(pl.col("agent_id").to_physical(), "len", "place", descending=[False, True, False])
        .with_columns(is_kept=pl.int_range(pl.len()).over("agent_id") < MAX_VALUES)
    )
    own = ranked.filter("is_kept").join(values, on="found").with_columns(merged_values=1)
    others = (
        ranked.filter(~pl.col("is_kept"))
        .group_by("agent_id")
        .agg(merged_values=pl.len())
        .with_columns(value_kind=pl.lit(OTHER), value=pl.lit(SPELLED[OTHER]), found=pl.lit(None, pl.Categorical))
    )
    columns = ["agent_id", "value_kind", "value", pl.col("merged_values").cast(pl.Int64), "found"]
    keys = pl.concat([own.select(columns), others.select(columns)]).with_row_index("row")
    of_own = (
        ranked.filter("is_kept")
        .select("agent_id", "found")
        .join(keys.select("agent_id", "found", "row"), on=["agent_id", "found"], nulls_equal=True)
    )
    of_others = (
        ranked.filter(~pl.col("is_kept"))
        .select("agent_id", "found")
        .join(keys.filter(pl.col("found").is_null()).select("agent_id", "row"), on="agent_id", nulls_equal=True)
    )
    return keys.with_columns(dimension=pl.lit(name)), pl.concat([of_own, of_others])


def user_lists(logs: pl.LazyFrame) -> pl.LazyFrame:
    """Of each row its distinct users."""
    place = pl.col("row").cast(pl.Int64) * 2**32 + pl.col("user_id").to_physical()
    return (
        logs.drop_nulls("user_id")
        .select(place=sorted_numbers(place))
        .filter((pl.col("place") != pl.col("place").shift()).fill_null(True))
        .select(
            row=(pl.col("place") // 2**32).cast(pl.UInt32).set_sorted(),
            user_ids=(pl.col("place") % 2**32).cast(pl.UInt32).cat.to(pl.Categorical),
        )
        .group_by("row", maintain_order=True)
        .agg("user_ids")
    )


def _latency_counts(logs: pl.LazyFrame) -> pl.LazyFrame:
    """Of each row its latencies with their executions, sorted by the latency."""
    place = pl.col("row").cast(pl.Int64) * 2**32 + (pl.col("latency_ms").cast(pl.Int64) + 2**31)
    pair = pl.struct(
        latency_ms=(pl.col("value") % 2**32 - 2**31).cast(pl.Int32), executions=pl.col("len").cast(pl.Int64)
    )
    return (
        logs.drop_nulls("latency_ms")
        .select(sorted_numbers(place).rle().alias("runs"))
        .unnest("runs")
        .select((pl.col("value") // 2**32).cast(pl.UInt32).set_sorted().alias("row"), latency_counts=pair)
        .group_by("row", maintain_order=True)
        .agg("latency_counts")
    )


def _error_counts(logs: pl.LazyFrame) -> pl.LazyFrame:
    """Of each row its error types with their executions, sorted by the type."""
    counts: Any = VALUE_PARTIALS_SCHEMA["error_counts"]
    return (
        logs.select("row", "error_type")
        .drop_nulls("error_type")
        .group_by("row", "error_type")
        .agg(executions=pl.len())
        .sort("row", "error_type")
        .select("row", pl.struct("error_type", "executions").cast(counts.inner).alias("error_counts"))
        .group_by("row", maintain_order=True)
        .agg("error_counts")
    )
