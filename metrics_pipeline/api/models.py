"""The bodies of answers, as the OpenAPI document describes them. The metric columns come from metrics/catalog.py."""

from datetime import date, datetime
from decimal import Decimal
from typing import Annotated, Any, Literal, get_args, get_type_hints

from pydantic import BaseModel, Field, WithJsonSchema, create_model

from metrics_pipeline.metrics.catalog import AGENT_DAY, METRICS, Column
from metrics_pipeline.metrics.reconciliation import STATE_MEANINGS, DayState
from metrics_pipeline.metrics.summary import PeriodSummary
from metrics_pipeline.metrics.verification import EVIDENCE_MEANINGS, JudgedBy

#: A JSON number with the digits of the database.
ExactNumber = Annotated[Decimal, WithJsonSchema({"type": "number"})]

_TYPES: dict[str, Any] = {
    "text": str,
    "date": date,
    "bigint": int,
    "numeric(7,6)": ExactNumber,
    "numeric(20,9)": ExactNumber,
    "jsonb": dict[str, int],
}


def _field(column: Column) -> Any:
    return (_TYPES[column.sql_type], Field(description=column.meaning, examples=[column.example]))


DayMetrics: type[BaseModel] = create_model(
    "DayMetrics",
    __doc__="One agent's metrics of one day.",
    **{column.name: _field(column) for column in AGENT_DAY.columns},
    created_at=(datetime, Field(description="When the row was first stored.")),
    updated_at=(datetime | None, Field(description="When one of its values was last replaced.")),
)

_MetricValues: type[BaseModel] = create_model(
    "MetricValues",
    __doc__="The metric columns of a stored row.",
    **{metric.name: _field(metric) for metric in METRICS},
)


class Agent(BaseModel):
    """An agent that the registry or the stored metrics know."""

    agent_id: str = Field(examples=["support-triage"])
    name: str | None = Field(description="The name in the registry; null for an agent that is no longer registered.")
    status: str | None = Field(description="The status in the registry, 'active' or another.", examples=["active"])
    last_active_date: date | None = Field(description="The newest aggregated day with executions.")


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


#: The states that the database can tell. Only Dagster knows whether a run is about to write a day.
COVERAGE_STATES = tuple(state for state in DayState if state is not DayState.RUNNING)


class DayCoverage(BaseModel):
    """A day's state, and the logs in its metrics; the counts are null for a day that was never aggregated."""

    metric_date: date
    state: DayState = Field(
        description=" ".join(f"{state}: {STATE_MEANINGS[state]}." for state in COVERAGE_STATES),
        json_schema_extra={"enum": [*COVERAGE_STATES]},
    )
    reason: str = Field(description="The state in words.", examples=["equal to its logs"])
    is_outdated: bool = Field(description="Whether it was stored under an older definition of the metrics.")
    source_logs: int | None = Field(description="Logs read.")
    aggregated_logs: int | None = Field(description="Logs that are in the metrics.")
    skipped_logs: int | None = Field(description="Logs of inactive or unregistered agents.")
    agents: int | None = Field(description="Agents with a row.")
    aggregated_at: datetime | None
    run_id: str | None = Field(description="The run that stored the day.")
    definition_version: str | None = Field(examples=["1"])
    verified_at: datetime | None = Field(
        description="When all its logs were last read; null for a day whose logs were not read since it was stored."
    )
    confirmed_at: datetime | None = Field(description="When that was last known to be still true.")
    judged_by: JudgedBy | None = Field(
        description=" ".join(f"{evidence}: {meaning}." for evidence, meaning in EVIDENCE_MEANINGS.items())
    )


def _figure(type_: Any) -> Any:
    value, figure = get_args(type_)
    exact = {Decimal: ExactNumber, Decimal | None: ExactNumber | None}.get(value, value)
    return (exact, Field(description=figure.meaning, examples=[figure.example]))


Figures: type[BaseModel] = create_model(
    "Figures",
    __doc__="The figures of a period; a mean over nothing is null. Rates have 6 places, latencies 3, money 9.",
    **{name: _figure(type_) for name, type_ in get_type_hints(PeriodSummary, include_extras=True).items()},
)


class Period(Figures):  # type: ignore[misc, valid-type]
    """The same figures of the days before."""

    start_date: date
    end_date: date
    days_stored: int = Field(description="How many of the days are stored for this agent.")


class Summary(Period):
    """An agent's figures over whole days that end yesterday, and how they compare."""

    agent_id: str
    days: int
    previous: Period = Field(description="The same number of days just before.")
    change: Figures = Field(  # type: ignore[valid-type]
        description="Each figure minus that of the previous period; null where one has none."
    )


class Run(BaseModel):
    """A Dagster run of this code location."""

    run_id: str
    job: str = Field(examples=["daily_metrics_job"])
    status: str = Field(description="Dagster's status of the run.", examples=["success"])
    is_finished: bool
    start_date: date | None = Field(description="The first of its days.")
    end_date: date | None = Field(description="The last of its days.")
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    error: str | None = Field(description="Why it failed, and what to do about it.")
    ui_url: str = Field(description="The run in the Dagster UI.")


class Backfill(BaseModel):
    """A Dagster backfill over a range of days."""

    backfill_id: str
    status: str = Field(description="Dagster's status of the backfill.", examples=["completed_success"])
    is_finished: bool
    start_date: date | None
    end_date: date | None
    created_at: datetime
    ended_at: datetime | None
    run_ids: list[str] = Field(description="Its runs; each has its own status.")
    error: str | None
    ui_url: str


StartedStatus = Literal["started", "already_running", "not_visible_yet"]


class Started(BaseModel):
    """A run that was started, or one that is already under way for the same day."""

    status: StartedStatus = Field(
        description="not_visible_yet: the run has succeeded, but the API's database, a replica, does not show it yet."
    )
    run_id: str
    status_url: str = Field(description="Where to read its state.")
    ui_url: str = Field(description="The run in the Dagster UI.")


class Completed(BaseModel):
    """A run that has ended while the request waited."""

    status: Literal["completed"]
    agents_processed: int = Field(description="Agents with a row of that day.")
    run_id: str
    ui_url: str


class StartedBackfill(BaseModel):
    """A backfill that was started."""

    status: Literal["started"]
    backfill_id: str
    status_url: str
    ui_url: str


class Health(BaseModel):
    """The process answers."""

    status: Literal["ok"]


class Readiness(BaseModel):
    """Whether this server can answer questions, and how old its answers are."""

    status: Literal["ready", "not ready"]
    database: Literal["ok", "unavailable"]
    schema_revision: Literal["current", "not current", "unknown"]
    newest_day: date | None = Field(description="The newest aggregated day.")
    coverage_age_days: int | None = Field(description="How many whole days have ended since; 0 is up to date.")
