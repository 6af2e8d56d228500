"""An agent's summary: its figures over a period, beside the period before."""

from datetime import date
from decimal import Decimal
from typing import Any, get_args, get_type_hints

from pydantic import BaseModel, Field, create_model

from metrics_pipeline.api.models.metrics import ExactNumber
from metrics_pipeline.api.models.windows import CHANGE_FIELDS, IS_COMPARABLE, WINDOW_FIELDS
from metrics_pipeline.metrics.catalog import METRICS, OverDays
from metrics_pipeline.metrics.summary import PeriodSummary


def _figure(type_: Any) -> Any:
    value, figure = get_args(type_)
    exact = {Decimal: ExactNumber, Decimal | None: ExactNumber | None}.get(value, value)
    return (exact, Field(description=figure.meaning, examples=[figure.example]))


#: What a summary says of all executions of its period together, as the activity of the agent does.
SUMMARY_OF_WINDOW = (
    *(metric.name for metric in METRICS if metric.over_days is OverDays.DISTRIBUTION),
    "cost_per_unassisted_success",
    "is_exact",
    "days_without_distribution",
    "days_without_column",
    "has_several_user_keys",
)

Figures: type[BaseModel] = create_model(
    "Figures",
    __doc__="The figures of a period; a mean over nothing is null. Rates have 6 places, latencies 3, money 9.",
    **{name: _figure(type_) for name, type_ in get_type_hints(PeriodSummary, include_extras=True).items()},
)
_PeriodFigures: Any = create_model(
    "PeriodFigures",
    __base__=Figures,
    __doc__="The figures of a period, and those of all its executions together.",
    **{name: WINDOW_FIELDS[name] for name in SUMMARY_OF_WINDOW},
)
SummaryChange: Any = create_model(
    "SummaryChange",
    __base__=Figures,
    __doc__="Each figure minus that of the previous period; null where one has none.",
    **{name: CHANGE_FIELDS[name] for name in SUMMARY_OF_WINDOW if name in CHANGE_FIELDS},
)


class Period(_PeriodFigures):  # type: ignore[misc]
    """The same figures of the days before."""

    start_date: date
    end_date: date
    days_stored: int = Field(description="How many of the days are stored for this agent.")


class Summary(Period):
    """An agent's figures over whole days, and how they compare."""

    agent_id: str
    days: int
    is_comparable: bool = Field(description=IS_COMPARABLE)
    previous: Period = Field(description="The same number of days just before.")
    change: SummaryChange = Field(description="Each figure minus that of the previous period; null where one has none.")
