"""How storing a computed day would change the stored day."""

from dataclasses import dataclass
from datetime import date
from decimal import Decimal

import polars as pl

from metrics_pipeline.metrics.catalog import AGENT_DAY, Grain


@dataclass(frozen=True)
class DayChange:
    """How many rows would be inserted, changed and left unchanged, and by how much the day's totals would change.

    changed_agents: the agents of the changed rows, sorted.
    """

    metric_date: date
    inserted: int
    changed: int
    unchanged: int
    changed_agents: tuple[str, ...]
    executions: int
    tokens: int
    cost_usd: Decimal


def compare_days(
    metric_date: date, stored: pl.DataFrame, computed: pl.DataFrame, grain: Grain = AGENT_DAY
) -> DayChange:
    """Compares two frames in the schema of the grain; every stored row must also be computed.

    Error distributions are lists sorted by error_type in both.
    """
    both = computed.join(stored, on=grain.day_keys, how="inner", suffix="_stored")
    differs = pl.any_horizontal(
        pl.col(name).ne_missing(pl.col(f"{name}_stored")) for name in (column.name for column in grain.values)
    )
    changed_agents = both.filter(differs)["agent_id"].sort().to_list()
    return DayChange(
        metric_date,
        inserted=computed.height - both.height,
        changed=len(changed_agents),
        unchanged=both.height - len(changed_agents),
        changed_agents=tuple(changed_agents),
        executions=int(computed["total_executions"].sum()) - int(stored["total_executions"].sum()),
        tokens=int(computed["total_tokens"].sum()) - int(stored["total_tokens"].sum()),
        cost_usd=_total_cost(computed) - _total_cost(stored),
    )


def _total_cost(day: pl.DataFrame) -> Decimal:
    return Decimal(day.select(pl.col("total_cost_usd").cast(pl.Decimal(38, 9)).sum()).item() or 0)
