"""Windows of stored days: reading rows and distributions, merging them, and comparing a day with its distributions."""

from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date
from enum import StrEnum
from typing import Any

import polars as pl
from sqlalchemy import Connection, text

from metrics_pipeline.metrics.catalog import (
    AGENT_DAY,
    AGENT_DIMENSION_DAY,
    ERROR_COUNT,
    GRAINS,
    OTHER_VALUES,
    Grain,
)
from metrics_pipeline.metrics.dimensions import SPELLED, VALUE, names_of
from metrics_pipeline.metrics.distributions import DISTRIBUTION_SCHEMA, merge_distributions
from metrics_pipeline.metrics.window_metrics import (
    FIGURES_SCHEMA,
    OF_DISTRIBUTIONS,
    SUMS,
    distribution_figures,
    period_of,
    window_metrics,
)
from metrics_pipeline.store.arrays import int4, int8, lengths_of_int4
from metrics_pipeline.store.distributions import DIGEST, fetch, read_distributions
from metrics_pipeline.store.reads import metrics_of_day

_WHOLE_SUMS = [name for name in SUMS if name != "total_cost_usd"]


class _Statements:
    """The statements that read windows of one grain, in the driver's form.

    One row for each agent, or value of an agent, and the days as arrays: with a Python object for each number, the year
    of 500 agents took 5 s, with arrays it takes 0.4 s. value: for grains with dimensions, it and what may hide it.
    """

    def __init__(self, grain: Grain) -> None:
        of_days = ", ".join(grain.day_keys)
        window = """metric_date BETWEEN %(first)s AND %(last)s
  AND (%(agent_id)s::text IS NULL OR agent_id = %(agent_id)s::text)"""
        if "dimension" in grain.key_names:
            window += f""" AND dimension = %(dimension)s
  AND (%(value)s::text IS NULL OR value = %(value)s::text OR value_kind = '{OTHER_VALUES}')"""
        # As Polars counts days.
        days = "array_agg(metric_date - DATE '1970-01-01')"
        equal = " = ".join(f"({', '.join(f'{of}.{key}' for key in grain.key_names)})" for of in ("stored", "metrics"))
        self.sums = f"""
SELECT {of_days}, {days}, {", ".join(f"array_agg({name})" for name in _WHOLE_SUMS)},
       string_agg(total_cost_usd::text, ' ')
FROM {grain.table} WHERE {window} GROUP BY {of_days}"""
        self.errors = f"""
SELECT {of_days}, error_type, {days}, array_agg(executions::bigint)
FROM {grain.table} CROSS JOIN LATERAL jsonb_each_text(error_distribution) AS counts(error_type, executions)
WHERE failed_executions > 0 AND {window} GROUP BY {of_days}, error_type"""
        self.lacking = f"""
SELECT {of_days}, {days} FROM {grain.table} AS metrics
WHERE {window} AND NOT EXISTS (SELECT FROM {grain.distributions} AS stored WHERE {equal}) GROUP BY {of_days}"""


_STATEMENTS = {grain: _Statements(grain) for grain in GRAINS}

# The days of a window that are stored without a dimension, of those on which anything was aggregated.
_LEDGER_DIMENSIONS = text("""
SELECT metric_date, coalesce(dimensions, '') AS dimensions FROM metric_day_ledger
WHERE metric_date BETWEEN :first AND :last AND metrics_expired_at IS NULL ORDER BY 1""")

_DAMAGED = text(f"""
SELECT agent_id FROM agent_day_distributions WHERE metric_date = :metric_date AND digest <> {DIGEST}""")

# How many executions are read at once. Two chunks are in memory: one is read while the other is merged.
_CHUNK = 1_000_000

# How many hashes of the users of one group are held, the same ones several times, before they are united: 256 MB.
_HELD_USERS = 32_000_000


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
    rows = _StoredRows(connection, AGENT_DAY, {"first": first, "last": last, "agent_id": agent_id})
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
    return [pair for merged in rows.merged(wanted, ["agent_id"]) for pair in _pairs(merged)]


def _pairs(merged: pl.DataFrame) -> Iterator[tuple[int, int]]:
    return merged["latency_counts"].explode(empty_as_null=False, keep_nulls=False).struct.unnest().iter_rows()


def _values(
    connection: Connection, first: date, last: date, dimension: str, agent_id: str | None, value: str | None
) -> "_StoredRows":
    parameters = {"first": first, "last": last, "agent_id": agent_id, "dimension": dimension, "value": value}
    return _StoredRows(connection, AGENT_DIMENSION_DAY, parameters)


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


@dataclass(frozen=True)
class _StoredRows:
    """The stored rows of one grain that `parameters` name: metrics, errors and distributions."""

    connection: Connection
    grain: Grain
    parameters: Mapping[str, Any]

    def sums(self) -> pl.DataFrame:
        """The grain's keys and SUMS."""
        schema = self.grain.schema
        keys, numbers = self._read(_STATEMENTS[self.grain].sums, len(self.grain.day_keys))
        if not keys.height:
            return pl.DataFrame(schema={name: schema[name] for name in (*self.grain.key_names, *SUMS)})
        *whole, costs = numbers
        sums = {name: int8(values) for name, values in zip(_WHOLE_SUMS, whole, strict=True)}
        cost = pl.Series([" ".join(costs)]).str.split(" ").explode().cast(schema["total_cost_usd"])
        return keys.with_columns(**sums, total_cost_usd=cost)

    def errors(self) -> pl.DataFrame:
        """The grain's keys, error_type and executions."""
        keys, numbers = self._read(_STATEMENTS[self.grain].errors, len(self.grain.day_keys) + 1, "error_type")
        return keys.with_columns(executions=int8(numbers[0]))

    def lacking(self) -> pl.DataFrame:
        """The keys of the rows without a distribution."""
        return self._read(_STATEMENTS[self.grain].lacking, len(self.grain.day_keys))[0]

    def with_distribution(self, sums: pl.DataFrame, lacking: pl.DataFrame) -> pl.DataFrame:
        """The sums and has_distribution."""
        marked = lacking.with_columns(has_distribution=False)
        return sums.join(marked, on=self.grain.key_names, how="left").with_columns(
            pl.col("has_distribution").fill_null(True)
        )

    def _read(self, statement: str, texts: int, *further: str) -> tuple[pl.DataFrame, list[tuple[Any, ...]]]:
        """The keys, a row for each day, and the columns after the days, each with the elements of all days."""
        rows = fetch(self.connection, statement, self.parameters)
        columns = list(zip(*rows, strict=True)) or [()] * (len(_WHOLE_SUMS) + texts + 2)
        days = columns[texts]
        named = dict(zip((*self.grain.day_keys, *further), columns[:texts], strict=True))
        keys = pl.DataFrame(named, schema=dict.fromkeys(named, pl.String))
        lengths = pl.Series(lengths_of_int4(days), dtype=pl.Int64)
        repeated = keys.select(pl.all().repeat_by(lengths)).explode(*named, empty_as_null=False)
        return repeated.with_columns(metric_date=int4(days).cast(pl.Date)), columns[texts + 1 :]

    def merged(self, rows: pl.DataFrame, keys: Sequence[str]) -> Iterator[pl.DataFrame]:
        """The merged distributions of the groups of `rows`, which are those of with_distribution(), group by group.

        Each frame has `keys` and DISTRIBUTION_SCHEMA. Distributions are read in chunks, so that memory holds the groups
        of a chunk and what is merged of the group that is not complete.
        """
        columns = list(dict.fromkeys([*keys, *self.grain.key_names]))
        wanted = rows.filter("has_distribution").sort(columns)
        numbered = wanted.select(*columns, chunk=pl.col("total_executions").cum_sum() // _CHUNK)
        chunks = numbered.partition_by("chunk", maintain_order=True, include_key=False)
        incomplete: list[pl.DataFrame] = []
        for chunk, parts in self._read_ahead(chunks):
            of_chunk, last = parts.select(*keys, *DISTRIBUTION_SCHEMA), chunk.tail(1).select(keys)
            if incomplete and incomplete[0].select(keys).equals(last):
                # The whole chunk belongs to the group. Users are united when there are many, and then only if there are
                # twice as many as are united already: uniting each chunk's with the group's would take a time that
                # grows with the square.
                incomplete.append(merge_distributions(of_chunk, keys, unites_users=False))
                if sum(map(_users, incomplete)) > max(_HELD_USERS, 2 * _users(incomplete[0])):
                    incomplete = [merge_distributions(pl.concat(incomplete), keys)]
            else:
                so_far = merge_distributions(pl.concat([*incomplete, of_chunk]), keys)
                yield so_far.join(last, on=keys, how="anti")
                incomplete = [so_far.join(last, on=keys, how="semi")]
        if incomplete:
            yield merge_distributions(pl.concat(incomplete), keys)

    def _read_ahead(self, chunks: Sequence[pl.DataFrame]) -> Iterator[tuple[pl.DataFrame, pl.DataFrame]]:
        """Each chunk with its distributions. The next is read while the caller works; only this uses the connection."""
        coming: deque[tuple[pl.DataFrame, Future[pl.DataFrame]]] = deque()
        with ThreadPoolExecutor(1, thread_name_prefix="ahead") as ahead:
            for chunk in chunks:
                coming.append((chunk, ahead.submit(read_distributions, self.connection, chunk, self.grain)))
                if len(coming) > 1:
                    read, parts = coming.popleft()
                    yield read, parts.result()
            for read, parts in coming:
                yield read, parts.result()


def _users(distributions: pl.DataFrame) -> int:
    return int(distributions["user_hashes"].list.len().sum())


def _with_periods(frame: pl.DataFrame, keys: Collection[str]) -> pl.DataFrame:
    return frame.with_columns(period_of(key).alias(key) for key in keys if key in ("week", "month"))


def _figures(stored: _StoredRows, rows: pl.DataFrame, keys: Sequence[str]) -> pl.DataFrame:
    none = pl.DataFrame(schema={**{key: rows.schema[key] for key in keys}, **FIGURES_SCHEMA})
    return pl.concat([none, *(distribution_figures(merged, keys) for merged in stored.merged(rows, keys))])


def _grouped(
    rows: _StoredRows,
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
    figures = _figures(rows, grouped if Part.DISTRIBUTIONS in parts else grouped.clear(), keys)
    return window_metrics(grouped, errors, figures, keys).select(pl.exclude("window"))


@dataclass(frozen=True)
class DistributionAudit:
    """The distributions of a day against its rows of metrics.

    distributions: how many there are; not_exact: how many of them are rounded or estimated; without: rows with
    executions and no distribution. contradictory_agents: sorted.
    """

    distributions: int
    not_exact: int
    without: int
    contradictory_agents: tuple[str, ...]


def audit_day(connection: Connection, metric_date: date) -> DistributionAudit:
    """Computes from each distribution of the day what agent_performance_metrics says, and its digest."""
    stored = _StoredRows(connection, AGENT_DAY, {"first": metric_date, "last": metric_date, "agent_id": None})
    rows = stored.with_distribution(stored.sums(), stored.lacking())
    figures = _figures(stored, rows, ["agent_id"])
    again = window_metrics(
        rows, pl.DataFrame(schema={"agent_id": pl.String, **ERROR_COUNT.to_schema()}), figures, ["agent_id"]
    )
    both = (
        metrics_of_day(connection, metric_date)
        .join(again, on="agent_id", suffix="_again")
        .join(figures.select("agent_id", "latencies", "latencies_exact", "users_exact"), on="agent_id")
    )
    of_latencies = ("avg_latency_ms", "p50_latency_ms", "p95_latency_ms", "p99_latency_ms")
    differs = [
        # The mean is exact in any case. Without latencies it is 0 for a day, and null for a window.
        (pl.col("latencies_exact") | (name == "avg_latency_ms"))
        & (pl.col(name) != pl.col(f"{name}_again").fill_null(0))
        for name in of_latencies
    ]
    differs += [
        pl.col("users_exact") & (pl.col("unique_users") != pl.col("unique_users_again")),
        pl.col("latencies") > pl.col("total_executions"),
    ]
    contradictory = both.filter(pl.any_horizontal(differs))["agent_id"].to_list()
    damaged = connection.execute(_DAMAGED, {"metric_date": metric_date}).scalars()
    return DistributionAudit(
        distributions=both.height,
        not_exact=both.filter(~(pl.col("latencies_exact") & pl.col("users_exact"))).height,
        without=rows.filter(~pl.col("has_distribution") & (pl.col("total_executions") > 0)).height,
        contradictory_agents=tuple(sorted({*contradictory, *damaged})),
    )
