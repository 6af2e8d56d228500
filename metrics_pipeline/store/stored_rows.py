"""The stored rows of a window: their metrics, errors and distributions, and the distributions merged by group."""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import polars as pl
from sqlalchemy import Connection

from metrics_pipeline.metrics.catalog import GRAINS, OTHER_VALUES, Grain
from metrics_pipeline.metrics.merging import Distributions, merge_distributions
from metrics_pipeline.metrics.window_metrics import FIGURES_SCHEMA, SUMS, distribution_figures
from metrics_pipeline.store.arrays import int4, int8, lengths_of_int4
from metrics_pipeline.store.distributions import fetch, read_distributions

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

# How many executions are read at once, and how many such chunks before they are merged: while many are merged at once,
# the server goes on.
_CHUNK = 500_000
_AHEAD = 24


@dataclass(frozen=True)
class StoredRows:
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

    def merged(self, rows: pl.DataFrame, keys: Sequence[str]) -> Iterator[Distributions]:
        """The merged distributions of the groups of `rows`, which are those of with_distribution(), some at once.

        Their rows have `keys`. Distributions are read in chunks, so that memory holds a few chunks and what
        merge_distributions() holds of a group, however many days it has.
        """
        # Within a group by day, as they were stored.
        columns = list(dict.fromkeys([*keys, "metric_date", *self.grain.key_names]))
        wanted = rows.filter("has_distribution").sort(columns)
        # Small groups are merged together, as many as begin within a chunk's executions. These are read at once, and
        # those of a large group in several chunks.
        executions, before = pl.col("total_executions"), pl.col("before")
        of_batch = executions.sum().over("batch").clip(1)
        numbered = (
            wanted.with_columns(before=executions.cum_sum() - executions)
            .with_columns(batch=before.first().over(keys) // _CHUNK)
            .with_columns(before=before - before.first().over("batch"))
            .select(*columns, "batch", chunk=before * (of_batch // _CHUNK).clip(1) // of_batch)
        )
        chunks = numbered.partition_by("batch", "chunk", maintain_order=True)
        coming = zip(chunks, self._read_ahead(chunks), strict=True)
        for _, batch in groupby(coming, lambda each: each[0]["batch"][0]):
            yield merge_distributions((parts for _, parts in batch), keys)

    def _read_ahead(self, chunks: Sequence[pl.DataFrame]) -> Iterator[Distributions]:
        """The distributions of each chunk. The next are read while the caller works; only this uses the connection."""
        coming: deque[Future[Distributions]] = deque()
        with ThreadPoolExecutor(1, thread_name_prefix="ahead") as ahead:
            for chunk in chunks:
                coming.append(ahead.submit(read_distributions, self.connection, chunk, self.grain))
                if len(coming) > _AHEAD:
                    yield coming.popleft().result()
            while coming:
                yield coming.popleft().result()


def figures_of(stored: StoredRows, rows: pl.DataFrame, keys: Sequence[str]) -> pl.DataFrame:
    """FIGURES_SCHEMA for each combination of `keys` of `rows`, which are those of StoredRows.with_distribution()."""
    none = pl.DataFrame(schema={**{key: rows.schema[key] for key in keys}, **FIGURES_SCHEMA})
    return pl.concat([none, *(distribution_figures(merged.frame(), keys) for merged in stored.merged(rows, keys))])
