"""From the logs of a day in a lake to partial aggregates: by agent, by value of a dimension, and their fingerprints."""

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import polars as pl

from metrics_pipeline.logs.lake_buckets import log_buckets
from metrics_pipeline.logs.lake_costs import GroupCosts, exact_costs, exact_costs_frame, group_costs, value_costs
from metrics_pipeline.logs.lake_digest import digest, log_hashes, value_hashes
from metrics_pipeline.metrics.calculator import agents_with_irregular_costs
from metrics_pipeline.metrics.dimensions import (
    COST_NANO_USD,
    LOGS,
    VALUE_COSTS_SCHEMA,
    Dimension,
    ExtractedValues,
    broken_down,
    by_agent,
    fingerprint_names,
)

# NumPy and short steps of Polars use one processor only.
_BUCKETS_AT_ONCE = 2


@dataclass(frozen=True)
class DayPartials:
    """What ExtractedDay has of a day's logs. by_agent: a row for each agent, merged."""

    by_agent: pl.DataFrame
    exact_costs: pl.DataFrame
    values: ExtractedValues | None


class _Bucket(NamedTuple):
    """What by_agent(), broken_down() and value_hashes() give of a bucket."""

    agents: pl.DataFrame
    partials: pl.DataFrame
    keys: pl.DataFrame
    contents: list[int]


def day_partials(logs: pl.LazyFrame, parts: Iterable[pl.LazyFrame], dimensions: Sequence[Dimension]) -> DayPartials:
    """The partial aggregates of a log_frame(), which is read once, in parts, and again for irregular costs."""
    with log_buckets(logs, parts, dimensions) as buckets, ThreadPoolExecutor(_BUCKETS_AT_ONCE) as threads:
        grouped = list(threads.map(lambda bucket: _grouped(bucket, dimensions), buckets))
    agents = pl.concat(of_bucket.agents for of_bucket in grouped)
    irregular = agents_with_irregular_costs(agents)
    exact = exact_costs(_counted_costs(logs, irregular)) if irregular else {}
    agents = _with_costs(agents, exact)
    if not dimensions:
        return DayPartials(agents, exact_costs_frame(exact), None)
    keys = pl.concat(of_bucket.keys for of_bucket in grouped)
    contents = [sum(numbers) for numbers in zip(*(of_bucket.contents for of_bucket in grouped), strict=True)]
    costs = [pl.DataFrame(schema=VALUE_COSTS_SCHEMA)]
    for number, dimension in enumerate(dimensions if irregular else ()):
        groups = group_costs(_counted_costs(logs, irregular, f"value_{number}"))
        contents[number] += _content_of(groups)
        costs.append(value_costs(groups, keys, dimension.name))
    partials = pl.concat(of_bucket.partials for of_bucket in grouped)
    content = dict(zip(fingerprint_names(dimensions), contents, strict=True))
    values = ExtractedValues(tuple(dimensions), partials, keys, pl.concat(costs), content)
    return DayPartials(agents, exact_costs_frame(exact), values)


def _grouped(of_bucket: pl.LazyFrame, dimensions: Sequence[Dimension]) -> _Bucket:
    bucket = of_bucket.collect(engine="in-memory")
    hashes = log_hashes(bucket)
    agents = by_agent(bucket, bucket.select("agent_id", content_hash=hashes))
    partials, keys = broken_down(bucket, dimensions) if dimensions else (pl.DataFrame(), pl.DataFrame())
    contents = [int(value_hashes(bucket, hashes, number).cast(pl.Int128).sum()) for number in range(len(dimensions))]
    return _Bucket(agents, partials, keys, contents)


def agent_costs(logs: pl.LazyFrame) -> tuple[pl.DataFrame, dict[str | None, tuple[int, int, int, int]]]:
    """The agents of a log_frame() with total_executions and cost_nano_usd, and the exact_costs() where this is NULL."""
    sums = logs.group_by("agent_id").agg(LOGS, COST_NANO_USD).collect(engine="streaming")
    irregular = agents_with_irregular_costs(sums)
    return sums, exact_costs(_counted_costs(logs, irregular)) if irregular else {}


def _with_costs(agents: pl.DataFrame, exact: Mapping[str | None, tuple[int, ...]]) -> pl.DataFrame:
    """Irregular costs are not in the hashes of their logs, so content_hash gets a digest of the agent's exact costs."""
    digests = [
        digest(exact[agent]) if cost is None else 0
        for agent, cost in agents.select("agent_id", "cost_nano_usd").iter_rows()
    ]
    return agents.with_columns(pl.col("content_hash") + pl.Series(digests, dtype=pl.Int128))


def _content_of(groups: GroupCosts) -> int:
    """What the irregular costs add to the content of a dimension."""
    return sum(digest((*key, str(total))) for key, (total, _) in groups.items())


def _counted_costs(logs: pl.LazyFrame, agents: Sequence[str | None], *values: str) -> pl.DataFrame:
    """Of these agents, and of the logs without one: agent_id, values, cost_usd, and the number of logs."""
    chosen = logs.filter(pl.col("agent_id").is_in(agents, nulls_equal=True) | pl.col("agent_id").is_null())
    return chosen.group_by("agent_id", *values, "cost_usd").agg(pl.len()).collect(engine="streaming")
