"""What the answers hold, as the OpenAPI document describes it. The metric columns come from metrics/schema.py."""

from datetime import date, datetime
from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, WithJsonSchema, create_model

from metrics_pipeline.metrics.schema import KEY_COLUMNS, METRIC_COLUMNS, Column

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

#: One agent's day that adds up: 98 successes, one failure, and one execution with another status.
_EXAMPLE: dict[str, Any] = {
    "agent_id": "support-triage",
    "metric_date": "2025-07-11",
    "total_executions": 100,
    "successful_executions": 98,
    "failed_executions": 1,
    "success_rate": 0.98,
    "avg_latency_ms": 840,
    "p50_latency_ms": 610,
    "p95_latency_ms": 2310,
    "p99_latency_ms": 4102,
    "total_tokens": 128400,
    "total_cost_usd": 1.25,
    "avg_cost_per_execution": 0.0125,
    "error_distribution": {"timeout": 1},
    "human_interventions": 2,
    "unique_users": 37,
}


def _field(column: Column) -> Any:
    return (_TYPES[column.sql_type], Field(description=column.description, examples=[_EXAMPLE[column.name]]))


DayMetrics: type[BaseModel] = create_model(
    "DayMetrics",
    __doc__="One agent's metrics of one day.",
    **{column.name: _field(column) for column in KEY_COLUMNS + METRIC_COLUMNS},
    created_at=(datetime, Field(description="When the row was stored first.")),
    updated_at=(datetime | None, Field(description="When one of its values was last replaced.")),
)

_MetricValues: type[BaseModel] = create_model(
    "MetricValues",
    __doc__="The metric columns of a stored row.",
    **{column.name: _field(column) for column in METRIC_COLUMNS},
)


class Agent(BaseModel):
    """An agent that the registry or the stored metrics know."""

    agent_id: str = Field(examples=["support-triage"])
    name: str | None = Field(description="As the registry has it; null for an agent that is registered no more.")
    status: str | None = Field(description="As the registry has it, 'active' or not.", examples=["active"])
    last_active_date: date | None = Field(description="The newest aggregated day with executions.")


class Restatement(BaseModel):
    """A stored row whose values were replaced."""

    agent_id: str
    metric_date: date
    replaced_at: datetime
    run_id: str = Field(description="The run that replaced them.")
    reason: str = Field(description="late logs, backfill, manual or definition change.", examples=["late logs"])
    old_row: _MetricValues  # type: ignore[valid-type]
    new_row: _MetricValues  # type: ignore[valid-type]


class CoverageState(StrEnum):
    """What is to be said of a day."""

    AGGREGATED = "aggregated"
    NO_ACTIVITY = "no_activity"
    MISSING = "missing"
    DIRTY = "dirty"
    SEALED = "sealed"
    OTHER_ZONE = "other_zone"


class DayCoverage(BaseModel):
    """A day's state, and what its metrics were made from; the counts are null for a day that was never aggregated."""

    metric_date: date
    state: CoverageState = Field(
        description="aggregated: its metrics equal its logs. no_activity: likewise, and there is not one log. missing: "
        "never aggregated. dirty: its logs changed since. sealed: its raw logs were pruned, its metrics are final. "
        "other_zone: stored as a day of another METRICS_TIME_ZONE."
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


class Figures(BaseModel):
    """The figures of a period; a mean over nothing is null. Rates have 6 places, latencies 3, money 9."""

    avg_success_rate: ExactNumber | None = Field(description="Mean of the days' success_rate.", examples=[0.98])
    avg_latency: ExactNumber | None = Field(description="Mean of the days' avg_latency_ms.", examples=[840.5])
    total_executions: int
    total_cost: ExactNumber = Field(description="In USD.", examples=[37.5])
    success_rate: ExactNumber | None = Field(description="Successful / total executions of the period.")
    latency_ms: ExactNumber | None = Field(description="Mean of avg_latency_ms, weighted by executions.")
    cost_per_execution: ExactNumber | None = Field(description="In USD.")
    human_intervention_rate: ExactNumber | None = Field(description="Human interventions / total executions.")
    successful_executions: int
    failed_executions: int
    human_interventions: int
    total_tokens: int
    error_distribution: dict[str, int] = Field(examples=[{"timeout": 12}])


class Period(Figures):
    """The same figures of the days before."""

    start_date: date
    end_date: date
    days_stored: int = Field(description="How many of the days are stored for this agent.")


class Summary(Period):
    """An agent's figures over whole days that end yesterday, and how they compare."""

    agent_id: str
    days: int
    previous: Period = Field(description="The same number of days just before.")
    change: Figures = Field(description="Each figure minus that of the previous period; null where one has none.")


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


class Started(BaseModel):
    """A run that was started, or that is under way already for the same day."""

    status: Literal["started", "already_running"]
    run_id: str
    status_url: str = Field(description="Where its state can be asked for.")
    ui_url: str = Field(description="The run in the Dagster UI.")


class Completed(BaseModel):
    """A run that was waited for."""

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
