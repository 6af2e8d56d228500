"""Windows of stored days: the metrics of their rows and distributions, in groups and by the values of a dimension."""

from collections.abc import Callable, Collection, Sequence
from datetime import date
from enum import StrEnum

import polars as pl
from sqlalchemy import Connection, text

from metrics_pipeline.metrics.catalog import AGENT_DAY, AGENT_DIMENSION_DAY, ERROR_COUNT, OTHER_VALUES
from metrics_pipeline.metrics.dimensions import SPELLED, VALUE, names_of
from metrics_pipeline.metrics.window_metrics import OF_DISTRIBUTIONS, period_of, window_metrics
from metrics_pipeline.store.stored_rows import StoredRows, figures_of
from metrics_pipeline.store.unlogged import days_without

# The days of a window that are stored without a dimension, of those on which anything was aggregated.
_LEDGER_DIMENSIONS = text("""
SELECT metric_date, coalesce(dimensions, '') AS dimensions FROM metric_day_ledger
WHERE metric_date BETWEEN :first AND :last AND metrics_expired_at IS NULL ORDER BY 1""")


class Grouping(StrEnum):
    """How the rows of a window are grouped: by agent, or by the day, week (from Monday) or month of metric_date."""

    AGENT = "agent"
    DAY = "day"
    WEEK = "week"
    MONTH = "month"


#: The columns that name the groups in the result.
GROUP_COLUMNS = {
    Grouping.AGENT: "agent_id",
    Grouping.DAY: "metric_date",
    Grouping.WEEK: "week",
    Grouping.MONTH: "month",
}


class Part(StrEnum):
    """What of a window takes long to read, and is read only for callers that show it."""

    ERRORS = "errors"
    DISTRIBUTIONS = "distributions"


#: Everything.
ALL_PARTS = frozenset(Part)

#: Calls a function, or gives what it returned before under the same name for the same state of the same days.
Keep = Callable[[str, Callable[[], pl.DataFrame]], pl.DataFrame]


def parts_of(columns: Collection[str]) -> frozenset[Part]:
    """What must be read for these columns of window_metrics()."""
    parts = {Part.ERRORS: "error_distribution" in columns, Part.DISTRIBUTIONS: not OF_DISTRIBUTIONS.isdisjoint(columns)}
    return frozenset(part for part, is_needed in parts.items() if is_needed)


def read_window(
    connection: Connection,
    first: date,
    last: date,
    *,
    by: Sequence[Grouping] = (),
    agent_id: str | None = None,
    parts: Collection[Part] = ALL_PARTS,
    keep: Keep = lambda _, read: read(),
) -> pl.DataFrame:
    """The metrics of the stored days from `first` to `last`, of one agent or of all, one row for each group.

    The columns are those of window_metrics(): first GROUP_COLUMNS of `by`, in this order and sorted by them. A day of
    which no row is stored adds nothing; a window without any stored row gives no row, also without `by`. Logs are not
    read. The connection's transaction must see one state of the database (Database.snapshot()).
    parts: without one of them, the columns that need it say nothing. keep: for callers that ask for several groupings.
    """
    rows = StoredRows(connection, AGENT_DAY, {"first": first, "last": last, "agent_id": agent_id})
    return _grouped(rows, keep("sums", rows.sums), [GROUP_COLUMNS[each] for each in by], parts, keep)


def read_values(
    connection: Connection,
    first: date,
    last: date,
    dimension: str,
    *,
    by: Sequence[Grouping] = (),
    agent_id: str | None = None,
    value: str | None = None,
    parts: Collection[Part] = ALL_PARTS,
) -> pl.DataFrame:
    """As read_window(), a row for each group and value of a dimension: value_kind and value come before the metrics.

    value: only this value as text, or "(none)", "(list)" or "(other)" for the row of that kind. Also has VALUE_COLUMNS.
    Days that are stored without the dimension add nothing; if no day has it, there is no row.
    """
    rows = _values(connection, first, last, dimension, agent_id, value)
    keys, sums = [GROUP_COLUMNS[each] for each in by], rows.sums()
    others = _with_periods(sums, keys).filter(pl.col("value_kind") == OTHER_VALUES).with_columns(has_others=True)
    others = others.select(*keys, "has_others").unique()
    if value is not None:
        sums = _of_value(sums, value)
    found = _grouped(rows, sums, [*keys, "value_kind", "value"], parts)
    missing = _with_periods(
        pl.DataFrame(
            {"metric_date": days_without_dimension(connection, first, last, dimension)}, schema={"metric_date": pl.Date}
        ),
        keys,
    )
    periods = [key for key in keys if key != "agent_id"]
    lacking = (
        missing.with_columns(window=0)
        .group_by("window", *periods)
        .agg(
            days_without_dimension=pl.col("metric_date")
            if "metric_date" not in periods
            else pl.lit([], pl.List(pl.Date))
        )
    )
    return (
        found.with_columns(window=pl.lit(0, pl.Int32))
        .join(lacking, on=["window", *periods], how="left")
        .join(others.with_columns(window=pl.lit(0, pl.Int32)), on=["window", *keys], how="left")
        .with_columns(
            pl.col("days_without_dimension").fill_null(pl.lit([], pl.List(pl.Date))),
            is_complete=(pl.col("value_kind") == OTHER_VALUES) | pl.col("has_others").is_null(),
        )
        .sort(*keys, "value_kind", "value")
        .select(*found.columns, *VALUE_COLUMNS)
    )


def read_latencies(
    connection: Connection, first: date, last: date, dimension: str, agent_id: str, value: str
) -> list[tuple[int, int]]:
    """The latencies of an agent's executions of one value, as in read_values(), sorted, each with its executions."""
    rows = _values(connection, first, last, dimension, agent_id, value)
    wanted = rows.with_distribution(_of_value(rows.sums(), value), rows.lacking())
    # All in one group, so there is one merged distribution, or none.
    return [
        pair
        for merged in rows.merged(wanted, ["agent_id"])
        for latencies, executions in zip(merged.latencies, merged.executions, strict=True)
        for pair in zip(latencies.tolist(), executions.tolist(), strict=True)
    ]


def _values(
    connection: Connection, first: date, last: date, dimension: str, agent_id: str | None, value: str | None
) -> StoredRows:
    parameters = {"first": first, "last": last, "agent_id": agent_id, "dimension": dimension, "value": value}
    return StoredRows(connection, AGENT_DIMENSION_DAY, parameters)


def _of_value(rows: pl.DataFrame, value: str) -> pl.DataFrame:
    kind = next((kind for kind, spelled in SPELLED.items() if spelled == value), VALUE)
    return rows.filter((pl.col("value") == value) & (pl.col("value_kind") == kind))


#: The columns of read_values() besides those of window_metrics(), with their meaning.
VALUE_COLUMNS = {
    "days_without_dimension": "The stored days of the period that are not broken down by the dimension.",
    "is_complete": "false if executions of this value may be in the row (other), on a day with more than 50 values.",
}


def stored_dimensions(connection: Connection) -> list[str]:
    """The names of the dimensions that any stored day has, sorted."""
    declared = (row.dimensions for row in connection.execute(_LEDGER_DIMENSIONS, {"first": date.min, "last": date.max}))
    return sorted({name for each in set(declared) if each for name in names_of(each)})


def days_without_dimension(connection: Connection, first: date, last: date, dimension: str) -> list[date]:
    """The stored days from `first` to `last` that are not broken down by the dimension."""
    rows = connection.execute(_LEDGER_DIMENSIONS, {"first": first, "last": last})
    return [row.metric_date for row in rows if dimension not in names_of(row.dimensions)]


def _with_periods(frame: pl.DataFrame, keys: Collection[str]) -> pl.DataFrame:
    return frame.with_columns(period_of(key).alias(key) for key in keys if key in ("week", "month"))


def _grouped(
    rows: StoredRows,
    sums: pl.DataFrame,
    keys: Sequence[str],
    parts: Collection[Part],
    keep: Keep = lambda _, read: read(),
) -> pl.DataFrame:
    days = {name: rows.grain.schema[name] for name in rows.grain.key_names}
    errors, lacking = pl.DataFrame(schema={**days, **ERROR_COUNT.to_schema()}), pl.DataFrame(schema=days)
    if Part.ERRORS in parts:
        errors = keep("errors", rows.errors)
    if Part.DISTRIBUTIONS in parts:
        lacking = keep("lacking", rows.lacking)
    grouped, errors = (_with_periods(each, keys) for each in (rows.with_distribution(sums, lacking), errors))
    if not keys:
        keys, grouped, errors = ["window"], grouped.with_columns(window=0), errors.with_columns(window=0)
    figures = figures_of(rows, grouped if Part.DISTRIBUTIONS in parts else grouped.clear(), keys)
    without = days_without(rows.connection, rows.parameters["first"], rows.parameters["last"])
    return window_metrics(grouped, errors, figures, keys, without).select(pl.exclude("window"))
