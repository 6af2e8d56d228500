"""The bodies of answers, as the OpenAPI document describes them. The metric columns come from metrics/catalog.py."""

from datetime import date, datetime
from decimal import Decimal
from typing import Annotated, Any, Literal, get_args, get_type_hints

from pydantic import BaseModel, Field, WithJsonSchema, create_model

from metrics_pipeline.metrics.alerts import Scope, Severity
from metrics_pipeline.metrics.catalog import AGENT_DAY, METRICS, Column, OverDays
from metrics_pipeline.metrics.reconciliation import STATE_MEANINGS, DayState
from metrics_pipeline.metrics.summary import PeriodSummary
from metrics_pipeline.metrics.verification import EVIDENCE_MEANINGS, JudgedBy
from metrics_pipeline.metrics.window_metrics import FURTHER_COLUMNS
from metrics_pipeline.store.windows import VALUE_COLUMNS

#: A JSON number with the digits of the database; a string if the request says decimals=string.
ExactNumber = Annotated[Decimal, WithJsonSchema({"type": "number", "format": "decimal"})]

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
    acknowledged_at: datetime | None = Field(
        description="Since when the checks leave the agent out, because it was retired on purpose; null: they do not."
    )
    acknowledged_reason: str | None = Field(description="Why, as `metrics-pipeline agents acknowledge` was told.")


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


class Alert(BaseModel):
    """Something unusual of an agent, of the fleet or of the pipeline, and the newest day on which it was unusual."""

    state: Literal["open", "resolved", "withdrawn"]
    rule: str = Field(description="The rule that found it.", examples=["unusual_success_rate"])
    scope: Scope = Field(description="What it is about.", examples=["agent"])
    agent_id: str | None = Field(description="The agent; null unless scope is agent.", examples=["support-triage"])
    severity: Severity = Field(description="That of its worst day.", examples=["critical"])
    opened_on: date = Field(description="The first unusual day.", examples=["2025-07-10"])
    last_seen_on: date | None = Field(
        description="The newest unusual day; null if it was withdrawn.", examples=["2025-07-11"]
    )
    days: int | None = Field(description="How many days were unusual; null if it was withdrawn.", examples=[2])
    resolved_on: date | None = Field(description="The day that resolved it.")
    withdrawn_at: datetime | None = Field(
        description="When a day was restated or cleared and the alert did not follow from the metrics any more."
    )
    metric: str | None = Field(
        description="What was unusual on the newest unusual day; null if the rule is not about a number.",
        examples=["success_rate"],
    )
    value: ExactNumber | None = Field(description="Its value.", examples=[0.871])
    usual_low: ExactNumber | None = Field(
        description="The smallest value that is usual, or that the rule allows; null: there is none.",
        examples=[0.9315],
    )
    usual_high: ExactNumber | None = Field(
        description="The largest value that is usual, or that the rule allows; null: there is none.",
        examples=[1],
    )
    executions: int | None = Field(
        description="The executions of that day; for a rule about logs, the logs.", examples=[500]
    )
    details: dict[str, Any] = Field(
        description="What else the rule found, for example the error type or the projected end of the month. "
        "Money is text."
    )


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


class SkippedAgent(BaseModel):
    """An agent whose logs of a day are in no metric, because it was not active or not registered."""

    kind: Literal["agent", "none", "others"] = Field(
        description="none: logs without an agent. others: all agents but the 50 with the most skipped logs; on a day "
        "that was stored before revision 0011 of the tables, all."
    )
    agent_id: str | None = Field(
        description="Of more than 200 characters the first 199 and …", examples=["retired-bot"]
    )
    status: str | None = Field(description="Its status in agent_registry now; null if it is not registered.")
    logs: int


def _figure(type_: Any) -> Any:
    value, figure = get_args(type_)
    exact = {Decimal: ExactNumber, Decimal | None: ExactNumber | None}.get(value, value)
    return (exact, Field(description=figure.meaning, examples=[figure.example]))


_WINDOW_TYPES: dict[str, Any] = {
    **{metric.name: _TYPES[metric.sql_type] for metric in METRICS},
    "cost_per_unassisted_success": ExactNumber,
    "human_intervention_rate": ExactNumber,
    "success_rate_low": ExactNumber,
    "success_rate_high": ExactNumber,
    "days_stored": int,
    "is_exact": bool,
    "latency_error": float,
    "unique_users_error": float,
    "days_without_distribution": list[date],
    "has_several_user_keys": bool,
}
# A sum over nothing is 0; a quotient, a percentile or a number of users may have nothing that it can be computed from.
_MAY_BE_NULL = {
    *(metric.name for metric in METRICS if metric.over_days in (OverDays.QUOTIENT, OverDays.DISTRIBUTION)),
    "cost_per_unassisted_success",
    "human_intervention_rate",
    "success_rate_low",
    "success_rate_high",
}
_WINDOW_FIELDS: dict[str, Any] = {
    name: (_WINDOW_TYPES[name] | None if name in _MAY_BE_NULL else _WINDOW_TYPES[name], Field(description=meaning))
    for name, meaning in [
        *((metric.name, metric.meaning) for metric in METRICS),
        *((name, meaning) for name, (_, meaning) in FURTHER_COLUMNS.items()),
    ]
}

_CHANGE_FIELDS: dict[str, Any] = {
    name: (_WINDOW_TYPES[name] | None, info)
    for name, (_, info) in _WINDOW_FIELDS.items()
    if name not in ("error_distribution", "is_exact", "days_without_distribution", "has_several_user_keys")
}

WindowMetrics: type[BaseModel] = create_model(
    "WindowMetrics",
    __doc__="The metrics of all executions of a group, as if the window were one day.",
    **_WINDOW_FIELDS,
)
WindowChange: type[BaseModel] = create_model(
    "WindowChange",
    __doc__="Each number minus that of the period before; null where one has none.",
    **_CHANGE_FIELDS,
)


_CHOSEN_FIELDS: dict[str, Any] = {
    name: (type_ | None, Field(default=None, description=info.description))
    for name, (type_, info) in _WINDOW_FIELDS.items()
}
_ChosenMetrics: type[BaseModel] = create_model(
    "ChosenMetrics", __doc__="The metrics of a window that `fields` names.", **_CHOSEN_FIELDS
)


class Comparison(BaseModel):
    """A group of a window beside the same group in the period before."""

    previous: WindowMetrics | None = Field(  # type: ignore[valid-type]
        description="The same group in as many days just before; null if none of them is stored."
    )
    change: WindowChange | None  # type: ignore[valid-type]
    is_comparable: bool = Field(description="Whether both periods have the same number of stored days.")


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
    is_comparable: bool = Field(
        default=False, description="Only with compare=previous: whether both periods have as many stored days."
    )


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


#: What a summary says of all executions of its period together, as the activity of the agent does.
SUMMARY_OF_WINDOW = (
    *(metric.name for metric in METRICS if metric.over_days is OverDays.DISTRIBUTION),
    "cost_per_unassisted_success",
    "is_exact",
    "days_without_distribution",
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
    **{name: _WINDOW_FIELDS[name] for name in SUMMARY_OF_WINDOW},
)
SummaryChange: Any = create_model(
    "SummaryChange",
    __base__=Figures,
    __doc__="Each figure minus that of the previous period; null where one has none.",
    **{name: _CHANGE_FIELDS[name] for name in SUMMARY_OF_WINDOW if name in _CHANGE_FIELDS},
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
    is_comparable: bool = Field(description="Whether both periods have the same number of stored days.")
    previous: Period = Field(description="The same number of days just before.")
    change: SummaryChange = Field(description="Each figure minus that of the previous period; null where one has none.")


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


class Info(BaseModel):
    """What a client needs to know of this pipeline to ask for the right days."""

    version: str
    definition_version: str = Field(description="The version of the metrics' definitions.")
    time_zone: str = Field(description="The zone of every day: METRICS_TIME_ZONE.", examples=["UTC"])
    start_date: date = Field(description="The first day that is aggregated.")
    newest_whole_day: date = Field(description="Yesterday in that zone.")
    newest_stored_day: date | None = Field(description="The newest aggregated day.")
    stored_version: str = Field(
        description="Changes whenever a day is stored, sealed, cleared or expired. While it is the same, so are the "
        "answers of activity, metrics, latencies and restatements."
    )
    dimensions: list[str] = Field(description="By what stored days are broken down.", examples=[["model", "version"]])
    unlogged: list[str] = Field(
        description="The figures that nothing is known of, because the logs do not have their column. A 0 of them is "
        "not a measurement.",
        examples=[["total_cost_usd"]],
    )
    lookback_days: int = Field(description="For how many days late logs are looked for.")
    dagster_url: str = Field(
        description="The Dagster UI; it shows a run at /runs/ and its id.", examples=["http://127.0.0.1:3000"]
    )
    raw_log_days: int | None = Field(description="For how many days raw logs are kept; null: for ever.")
    metric_days: int | None = Field(description="For how many days metrics are kept; null: for ever.")
    alert_days: int | None = Field(description="For how many days resolved alerts are kept; null: for ever.")


class Health(BaseModel):
    """The process answers."""

    status: Literal["ok"]


class Readiness(BaseModel):
    """Whether this server can answer questions, and how old its answers are."""

    status: Literal["ready", "not ready"]
    database: Literal["ok", "busy", "unavailable"]
    schema_revision: Literal["current", "not current", "unknown"]
    newest_day: date | None = Field(description="The newest aggregated day.")
    coverage_age_days: int | None = Field(description="How many whole days have ended since; 0 is up to date.")


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
