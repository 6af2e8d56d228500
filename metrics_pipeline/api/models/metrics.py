"""Stored rows: an agent's day, how its latencies are distributed, and rows that were replaced or changed."""

from datetime import date, datetime
from decimal import Decimal
from typing import Annotated, Any

from pydantic import BaseModel, Field, WithJsonSchema, create_model

from metrics_pipeline.metrics.catalog import AGENT_DAY, METRICS, Column
from metrics_pipeline.metrics.upstream import MAY_BE_UNKNOWN

#: A JSON number with the digits of the database; a string if the request says decimals=string.
ExactNumber = Annotated[Decimal, WithJsonSchema({"type": "number", "format": "decimal"})]

TYPES: dict[str, Any] = {
    "text": str,
    "date": date,
    "bigint": int,
    "numeric(7,6)": ExactNumber,
    "numeric(20,9)": ExactNumber,
    "jsonb": dict[str, int],
}


def _field(column: Column, *, may_be_unknown: bool = False) -> Any:
    type_ = TYPES[column.sql_type]
    return (type_ | None if may_be_unknown else type_, Field(description=column.meaning, examples=[column.example]))


DayMetrics: type[BaseModel] = create_model(
    "DayMetrics",
    __doc__="One agent's metrics of one day; null: the logs do not have what it is computed from.",
    **{column.name: _field(column, may_be_unknown=column.name in MAY_BE_UNKNOWN) for column in AGENT_DAY.columns},
    created_at=(datetime, Field(description="When the row was first stored.")),
    updated_at=(datetime | None, Field(description="When one of its values was last replaced.")),
)

_MetricValues: type[BaseModel] = create_model(
    "MetricValues",
    __doc__="The metric columns of a stored row.",
    **{metric.name: _field(metric) for metric in METRICS},
)


class LatencyCount(BaseModel):
    """How many executions of a day had a latency in an interval."""

    metric_date: date
    from_ms: int | None = Field(description="The smallest latency of the interval; null: there is none.")
    below_ms: int | None = Field(description="The latency above the interval; null: there is none.")
    executions: int = Field(examples=[12])


class Restatement(BaseModel):
    """A stored row whose values were replaced."""

    agent_id: str
    metric_date: date
    replaced_at: datetime
    run_id: str = Field(description="The run that replaced them.")
    reason: str = Field(
        description="late logs, backfill, manual, definition change or cleared.", examples=["late logs"]
    )
    old_row: _MetricValues  # type: ignore[valid-type]
    new_row: _MetricValues | None = Field(  # type: ignore[valid-type]
        description="null if the day was cleared."
    )
    old_distribution: str | None = Field(
        description="The SHA-256 of the distribution that was replaced, in hexadecimal digits; null if there was none. "
        "Equal rows with different distributions: only latencies or users changed."
    )
    new_distribution: str | None = Field(description="The same of the new distribution.")


class ChangedDay(BaseModel):
    """A day that was stored, sealed, restated or expired, as it is now."""

    metric_date: date
    aggregated_at: datetime | None = Field(
        description="When it was last stored; null for a day that another program stored."
    )
    expired_at: datetime | None = Field(description="When retention deleted its metrics.")
    rows: list[DayMetrics] = Field(description="All of its rows.")  # type: ignore[valid-type]


class Changes(BaseModel):
    """The days that have changed, and the days that exist."""

    days: list[ChangedDay] = Field(description="Oldest first. Replace all rows of each.")
    stored_days: list[date] = Field(description="Every day that has rows. Delete the rows of all other days.")
    cursor: str = Field(description="The updated_since of the next request.")
    has_more: bool = Field(description="Whether more days have changed already.")
