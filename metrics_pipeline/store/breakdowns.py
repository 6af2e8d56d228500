"""agent_dimension_metrics: compares a day's values with its agents' rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date

import polars as pl
from sqlalchemy import Connection

from metrics_pipeline.metrics.catalog import AGENT_DIMENSION_DAY
from metrics_pipeline.metrics.dimensions import names_of
from metrics_pipeline.metrics.validation import not_adding_up
from metrics_pipeline.store.ledger import ledger_rows
from metrics_pipeline.store.reads import metrics_of_day, rows_of_day


@dataclass(frozen=True)
class BreakdownAudit:
    """The rows of a day by value against its agents' rows.

    rows: how many there are. not_adding_up: agent, dimension and metric. most_values: by dimension, the most values
    that an agent has, with those in (other).
    """

    rows: int
    not_adding_up: Sequence[tuple[str, str, str]]
    most_values: Mapping[str, int]


def audit_breakdown(connection: Connection, metric_date: date) -> BreakdownAudit:
    """Adds up what is stored of the day; nothing of a day that has no dimensions."""
    ledger = ledger_rows(connection, metric_date, metric_date).get(metric_date)
    if ledger is None or not ledger.dimensions or ledger.metrics_expired_at is not None:
        return BreakdownAudit(0, (), {})
    rows = rows_of_day(connection, metric_date, AGENT_DIMENSION_DAY)
    numbers = rows.group_by("agent_id", "dimension").agg(pl.col("merged_values").sum())
    most = dict(numbers.group_by("dimension").agg(pl.col("merged_values").max()).sort("dimension").iter_rows())
    return BreakdownAudit(
        rows.height,
        not_adding_up(metrics_of_day(connection, metric_date), rows, names_of(ledger.dimensions)),
        most,
    )
