"""The metrics of a window in groups, and two values of a dimension side by side."""

from datetime import date
from typing import Any, Literal

from pydantic import BaseModel, Field, create_model

from metrics_pipeline.api.models.metrics import TYPES, ExactNumber
from metrics_pipeline.metrics.catalog import METRICS, OverDays
from metrics_pipeline.metrics.upstream import MAY_BE_UNKNOWN
from metrics_pipeline.metrics.window_metrics import FURTHER_COLUMNS
from metrics_pipeline.store.windows import VALUE_COLUMNS

_WINDOW_TYPES: dict[str, Any] = {
    **{metric.name: TYPES[metric.sql_type] for metric in METRICS},
    "cost_per_unassisted_success": ExactNumber,
    "human_intervention_rate": ExactNumber,
    "success_rate_low": ExactNumber,
    "success_rate_high": ExactNumber,
    "days_stored": int,
    "is_exact": bool,
    "latency_error": float,
    "unique_users_error": float,
    "days_without_distribution": list[date],
    "days_without_column": dict[str, int],
    "has_several_user_keys": bool,
}
# A sum over nothing is 0, unless no day has the column. A quotient, a percentile or a number of users may have nothing
# that it can be computed from.
_MAY_BE_NULL = {
    *(metric.name for metric in METRICS if metric.over_days in (OverDays.QUOTIENT, OverDays.DISTRIBUTION)),
    *MAY_BE_UNKNOWN,
    "success_rate_low",
    "success_rate_high",
}
WINDOW_FIELDS: dict[str, Any] = {
    name: (_WINDOW_TYPES[name] | None if name in _MAY_BE_NULL else _WINDOW_TYPES[name], Field(description=meaning))
    for name, meaning in [
        *((metric.name, metric.meaning) for metric in METRICS),
        *((name, meaning) for name, (_, meaning) in FURTHER_COLUMNS.items()),
    ]
}

CHANGE_FIELDS: dict[str, Any] = {
    name: (_WINDOW_TYPES[name] | None, info)
    for name, (_, info) in WINDOW_FIELDS.items()
    if name
    not in (
        "error_distribution",
        "is_exact",
        "days_without_distribution",
        "days_without_column",
        "has_several_user_keys",
    )
}

WindowMetrics: type[BaseModel] = create_model(
    "WindowMetrics",
    __doc__="The metrics of all executions of a group, as if the window were one day.",
    **WINDOW_FIELDS,
)
WindowChange: type[BaseModel] = create_model(
    "WindowChange",
    __doc__="Each number minus that of the period before; null where one has none.",
    **CHANGE_FIELDS,
)


_CHOSEN_FIELDS: dict[str, Any] = {
    name: (type_ | None, Field(default=None, description=info.description))
    for name, (type_, info) in WINDOW_FIELDS.items()
}
_ChosenMetrics: type[BaseModel] = create_model(
    "ChosenMetrics", __doc__="The metrics of a window that `fields` names.", **_CHOSEN_FIELDS
)


#: The meaning of is_comparable.
IS_COMPARABLE = "Whether both periods have as many stored days, and as many without each column."


class Comparison(BaseModel):
    """A group of a window beside the same group in the period before."""

    previous: WindowMetrics | None = Field(  # type: ignore[valid-type]
        description="The same group in as many days just before; null if none of them is stored."
    )
    change: WindowChange | None  # type: ignore[valid-type]
    is_comparable: bool = Field(description=IS_COMPARABLE)


class ActivityRow(WindowMetrics):  # type: ignore[misc, valid-type]
    """A group of a window. It has only those of the first fields that group_by names."""

    agent_id: str = Field(default="", examples=["support-triage"])
    metric_date: date = Field(default=date.min, description="group_by=day.", examples=["2025-07-11"])
    week: date = Field(default=date.min, description="group_by=week: the Monday.", examples=["2025-07-07"])
    month: date = Field(default=date.min, description="group_by=month: its first day.", examples=["2025-07-01"])
    value_kind: str = Field(
        default="value",
        description="Only with a dimension: value; none: the logs have no value; list: they have a list or an object; "
        "other: all values but the 50 with the most executions of an agent's day.",
    )
    value: str = Field(default="", description="Only with a dimension: its value as text.", examples=["small-2"])
    days_without_dimension: list[date] = Field(
        default=[], description=f"Only with a dimension: {VALUE_COLUMNS['days_without_dimension'][4:]}"
    )
    is_complete: bool = Field(default=True, description=f"Only with a dimension: {VALUE_COLUMNS['is_complete']}")
    previous: WindowMetrics | None = Field(default=None, description="Only with compare=previous.")  # type: ignore[valid-type]
    change: WindowChange | None = Field(default=None, description="Only with compare=previous.")  # type: ignore[valid-type]
    is_comparable: bool = Field(default=False, description=f"Only with compare=previous: {IS_COMPARABLE.lower()}")


class ChosenRow(_ChosenMetrics):  # type: ignore[misc, valid-type]
    """A group of a window with the metrics that `fields` names, also in previous and change."""

    agent_id: str = Field(default="", examples=["support-triage"])
    metric_date: date = Field(default=date.min, examples=["2025-07-11"])
    week: date = Field(default=date.min, examples=["2025-07-07"])
    month: date = Field(default=date.min, examples=["2025-07-01"])
    value_kind: str = "value"
    value: str = Field(default="", examples=["small-2"])
    days_without_dimension: list[date] = Field(default=[])
    is_complete: bool = True
    previous: _ChosenMetrics | None = None  # type: ignore[valid-type]
    change: _ChosenMetrics | None = None  # type: ignore[valid-type]
    is_comparable: bool = False


class ErrorCount(BaseModel):
    """The failed executions of a group by error type, beside the fields that group_by names."""

    error_type: str = Field(examples=["timeout"])
    failed_executions: int = Field(examples=[12])


class ComparedSide(BaseModel):
    """All executions of one value in the window; nulls where it has none."""

    value: str
    executions: int
    successful_executions: int
    success_rate: ExactNumber | None
    latencies: int = Field(description="Executions with a latency.")
    p95_latency_ms: int | None
    days_stored: int = Field(description="Days on which the value has executions.")
    is_exact: bool = Field(description="Whether p95_latency_ms is exact.")
    is_complete: bool = Field(description=VALUE_COLUMNS["is_complete"])


class ComparedFigure(BaseModel):
    """The difference of b from a, and the interval that encloses the true difference with a probability of 95 %."""

    difference: float | None = Field(description="b minus a.", examples=[0.012])
    low: float | None = Field(description="The lower limit; null with too few executions.")
    high: float | None
    verdict: Literal["higher", "lower", "no difference shown", "too few"] = Field(
        description="higher or lower: b, if the interval does not contain 0. too few: a side has fewer executions than "
        "`minimum`, or no percentile."
    )
    minimum: int = Field(description="How many executions, or latencies, each side needs.")
    method: str


class ValueComparison(BaseModel):
    """Two values of a dimension side by side."""

    agent_id: str
    dimension: str = Field(examples=["version"])
    start_date: date
    end_date: date
    a: ComparedSide
    b: ComparedSide
    success_rate: ComparedFigure
    p95_latency_ms: ComparedFigure
    days_without_dimension: list[date] = Field(description=VALUE_COLUMNS["days_without_dimension"])
