"""The dimensions that METRICS_DIMENSIONS declares, and the values of each that a day keeps."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

import polars as pl

from metrics_pipeline.metrics.catalog import AGENT_DIMENSION_DAY, OTHER_VALUES, PARTIALS_SCHEMA

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

#: PARTIALS_SCHEMA for each agent and value of a dimension. content_hash is 0.
VALUE_PARTIALS_SCHEMA = pl.Schema({**dict.fromkeys(VALUE_KEYS, pl.String()), **PARTIALS_SCHEMA})

#: The exact costs of the values whose costs are irregular: see EXACT_COSTS_SCHEMA.
VALUE_COSTS_SCHEMA = pl.Schema(
    {
        **dict.fromkeys(VALUE_KEYS, pl.String()),
        "total_cost_nano_usd": pl.Int128(),
        "avg_cost_nano_usd": pl.Int128(),
    }
)

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

    partials: VALUE_PARTIALS_SCHEMA of the values that keep_largest() leaves. merged: agent_id, dimension and
    merged_values, the number of values in each row OTHER. costs: VALUE_COSTS_SCHEMA of the values of the agents with
    irregular costs; they add up to the agents' exact costs. content: the numbers that the fingerprint holds, by
    fingerprint_names(); each changes when a log's value of the dimension is corrected.
    """

    dimensions: tuple[Dimension, ...]
    partials: pl.DataFrame
    merged: pl.DataFrame
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


def largest_values(executions: pl.LazyFrame) -> pl.LazyFrame:
    """The values that keep their own row: VALUE_KEYS. `executions`: VALUE_KEYS and total_executions, in any parts."""
    return (
        executions.group_by(VALUE_KEYS)
        .agg(pl.col("total_executions").sum())
        # Of equal numbers of executions the smaller text comes first.
        .sort("total_executions", "value", "value_kind", descending=[True, False, False])
        .group_by("agent_id", "dimension", maintain_order=True)
        .agg(pl.col("value_kind", "value").head(MAX_VALUES))
        .explode("value_kind", "value")
        .select(VALUE_KEYS)
    )


def keep_largest(parts: Iterable[pl.DataFrame]) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Merges all but the MAX_VALUES largest values of each agent and dimension into one row OTHER.

    parts: VALUE_PARTIALS_SCHEMA. Returns the same partial aggregates under the keys of the rows that are kept, and
    ExtractedValues.merged.
    """
    left, keys = list(parts), list(VALUE_KEYS)
    executions = pl.concat(part.lazy().select(*keys, "total_executions") for part in left)
    kept = largest_values(executions).with_columns(is_kept=True).collect()
    merged = (
        executions.join(kept.lazy(), on=keys, how="anti", nulls_equal=True)
        .group_by("agent_id", "dimension")
        .agg(merged_values=pl.struct("value_kind", "value").n_unique().cast(pl.Int64))
        .collect()
    )
    # One part after the other, because a key with a value for each log has as many rows as logs: 200 MB for a million.
    mapped = []
    while left:
        mapped.append(_under_kept_keys(left.pop(), kept))
    return pl.concat(mapped), merged


def _under_kept_keys(part: pl.DataFrame, kept: pl.DataFrame) -> pl.DataFrame:
    keys = list(VALUE_KEYS)
    others = part.lazy().join(kept.lazy(), on=keys, how="anti", nulls_equal=True)
    cost = pl.col("cost_nano_usd")
    lists = [name for name, dtype in PARTIALS_SCHEMA.items() if isinstance(dtype, pl.List)]
    merged = (
        others.with_columns(value_kind=pl.lit(OTHER), value=pl.lit(SPELLED[OTHER]))
        .group_by(keys)
        .agg(
            pl.col(pl.Int64, pl.Int128).exclude("cost_nano_usd").sum(),
            pl.when(cost.null_count() == 0).then(cost.sum()),
            *(pl.col(name).explode(empty_as_null=False, keep_nulls=False) for name in lists),
        )
        .select(part.columns)
    )
    own = part.lazy().join(kept.lazy(), on=keys, how="semi", nulls_equal=True)
    return pl.concat([own, merged]).collect(engine="in-memory")
