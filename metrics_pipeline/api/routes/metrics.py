"""Stored metrics: one agent's days, its summary, and all agents of a day."""

from dataclasses import asdict
from datetime import date, timedelta
from enum import StrEnum
from http import HTTPStatus
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query
from pydantic import Field, WithJsonSchema
from starlette.requests import Request
from starlette.responses import Response

from metrics_pipeline.api.authentication import may_read
from metrics_pipeline.api.conditions import EntityTags
from metrics_pipeline.api.context import ApiContext
from metrics_pipeline.api.formats import Decimals, json_accepted, render_object, render_rows, to_json
from metrics_pipeline.api.models.metrics import DayMetrics
from metrics_pipeline.api.models.summary import SUMMARY_OF_WINDOW, Summary
from metrics_pipeline.api.models.windows import WindowChange
from metrics_pipeline.api.parameters import (
    MAX_WINDOW_DAYS,
    AgentId,
    ListParameters,
    OptionalDate,
    PageParameters,
    Parameters,
    day_range,
    understood,
    unknown_agent,
)
from metrics_pipeline.api.problems import ProblemError, invalid_parameter
from metrics_pipeline.api.routes.answers import list_responses, object_responses
from metrics_pipeline.api.short_answers import ShortAnswerRoute
from metrics_pipeline.api.slow_answers import SlowDatabase
from metrics_pipeline.api.windows import are_comparable, differences
from metrics_pipeline.metrics.summary import PeriodSummary, changes, summarise
from metrics_pipeline.metrics.window_metrics import window_objects
from metrics_pipeline.store.answers.metrics import COLUMNS, SORTABLE, agent_series, day_page
from metrics_pipeline.store.answers.totals import agent_totals
from metrics_pipeline.store.ledger import ledger_rows

router = APIRouter(
    prefix="/api/v1/metrics",
    tags=["metrics"],
    dependencies=[Depends(may_read), Depends(understood)],
    route_class=ShortAnswerRoute,
)

_DEFAULT_DAYS = 30
# Of a period of which no day is stored.
_NO_WINDOW: dict[str, Any] = {
    **dict.fromkeys(SUMMARY_OF_WINDOW),
    "is_exact": False,
    "days_without_distribution": [],
    "days_without_column": {},
    "has_several_user_keys": False,
}

Sort = StrEnum(  # type: ignore[misc]
    "Sort", {f"{sign}{name}": f"{sign}{name}" for name in SORTABLE for sign in ("", "-")}
)


class DayParameters(PageParameters):
    """Which day, and in which order."""

    date: OptionalDate = Field(default=None, description="The day. Default: yesterday.", examples=["2025-07-11"])
    sort: Sort = Field(
        default=Sort("agent_id"),
        description="The column to sort by, ascending; with a minus before it, descending.",
        examples=["-total_cost_usd"],
    )
    min_executions: int = Field(
        default=0, ge=0, le=10**15, description="Only agents with at least so many executions; 1 leaves out idle ones."
    )


class SeriesParameters(ListParameters):
    """Which days."""

    start_date: OptionalDate = Field(
        default=None, description="The first day. Default: 29 days before end_date.", examples=["2025-06-12"]
    )
    end_date: OptionalDate = Field(default=None, description="The last day. Default: today.", examples=["2025-07-11"])
    order: Literal["asc", "desc"] = Field(default="desc", description="asc: the oldest day first.")


class SummaryParameters(Parameters):
    """Which period."""

    days: Annotated[int | None, WithJsonSchema({"type": "integer", "minimum": 1, "maximum": MAX_WINDOW_DAYS})] = Field(
        default=None,
        ge=1,
        le=MAX_WINDOW_DAYS,
        description="The number of days up to end_date. Default: 30. Not together with start_date.",
    )
    start_date: OptionalDate = Field(default=None, description="The first day.", examples=["2025-06-12"])
    end_date: OptionalDate = Field(
        default=None, description="The last day. Default: yesterday.", examples=["2025-07-11"]
    )
    decimals: Decimals = Field(default=Decimals.NUMBER, description="string: money and rates as strings.")


@router.get(
    "",
    summary="All agents of a day",
    response_model=list[DayMetrics],  # type: ignore[valid-type]
    responses=list_responses(DayMetrics, 404, 410),
)
def agents_of_a_day(request: Request, context: ApiContext, parameters: Annotated[DayParameters, Query()]) -> Response:
    """Each agent's row of one day.

    404 for a day that was never aggregated, and 410 for one whose metrics expired: an empty list would look like a day
    without activity.
    """
    form = parameters.form(request)
    day = parameters.date or context.yesterday()
    sort = parameters.sort.value
    shape = (sort, parameters.min_executions, parameters.limit, parameters.offset, form)
    tags = EntityTags(request, "day", day, *shape)
    answer = day_page(
        context.database,
        day,
        sort=sort.removeprefix("-"),
        is_descending=sort.startswith("-"),
        min_executions=parameters.min_executions,
        limit=parameters.limit,
        offset=parameters.offset,
        held=tags.held,
    )
    if not answer.rows:
        with context.database.connect() as connection:
            ledger = ledger_rows(connection, day, day).get(day)
        if ledger is not None and ledger.metrics_expired_at is not None:
            raise ProblemError(
                HTTPStatus.GONE,
                f"The metrics of {day} were older than the retention period and were deleted on "
                f"{ledger.metrics_expired_at:%Y-%m-%d}.",
                kind="day-expired",
            )
    if not answer.is_known:
        raise ProblemError(
            HTTPStatus.NOT_FOUND,
            f"{day} was never aggregated. GET /api/v1/coverage tells the state of every day.",
            kind="day-not-aggregated",
        )
    # The links name the day, because yesterday may be another one when they are followed.
    pinned = {**request.query_params, "date": str(day)}
    parameters.require_same_list(answer.version, pinned)
    if answer.rows is None or tags.holds(answer.version):
        return tags.not_modified(answer.version)
    headers = parameters.page_headers(pinned, version=answer.version, total=answer.total)
    return render_rows(answer.rows, COLUMNS, form, headers | tags.headers(answer.version))


@router.get(
    "/{agent_id:path}/summary",
    summary="An agent's figures over a period, beside the period before",
    dependencies=[Depends(json_accepted)],
    response_model=Summary,
    responses=object_responses(404, has_decimals=True),
)
def agent_summary(
    request: Request,
    context: ApiContext,
    database: SlowDatabase,
    agent_id: AgentId,
    parameters: Annotated[SummaryParameters, Query()],
) -> Response:
    """Means of the days' values, and figures of all executions of the period: rates, percentiles, users, cost.

    avg_success_rate and avg_latency count a day without executions as 1 and 0; every other figure leaves such days
    out. Percentiles and users are exact while is_exact is true; a day without distribution makes them null.
    """
    if parameters.days is not None and parameters.start_date is not None:
        raise invalid_parameter("days", "is given together with start_date. Give one of them.")
    middle, last = day_range(
        parameters.start_date,
        parameters.end_date,
        default_end=context.yesterday(),
        default_days=parameters.days or _DEFAULT_DAYS,
        max_days=MAX_WINDOW_DAYS,
    )
    days = (last - middle).days + 1
    first = middle - timedelta(days=days)
    tags = EntityTags(request, "summary", agent_id, first, last, parameters.decimals)
    with database.connect() as connection:
        totals = agent_totals(connection, agent_id, first, middle, last, held=tags.held)
    if not totals.is_known:
        raise unknown_agent(agent_id)
    if tags.holds(totals.version):
        return tags.not_modified(totals.version)
    before, now = (summarise(each) for each in (totals.previous, totals.current))

    def period(start: date, end: date, days_stored: int, summary: PeriodSummary) -> dict[str, Any]:
        frame = context.windows.read(database, start, end, (), agent_id)
        (window,) = window_objects(frame) or [_NO_WINDOW]
        return {
            "start_date": start,
            "end_date": end,
            "days_stored": days_stored,
            **asdict(summary),
            **{name: window[name] for name in SUMMARY_OF_WINDOW},
        }

    previous = period(first, middle - timedelta(days=1), totals.previous.days_stored, before)
    current = period(middle, last, totals.current.days_stored, now)
    body = to_json(
        {
            "agent_id": agent_id,
            "days": days,
            **current,
            "is_comparable": are_comparable(previous, current),
            "previous": previous,
            "change": asdict(changes(before, now))
            | differences(previous, current, [name for name in SUMMARY_OF_WINDOW if name in WindowChange.model_fields]),
        }
    )
    return render_object(body, parameters.decimals, tags.headers(totals.version))


# After the summary, whose path it also matches.
@router.get(
    "/{agent_id:path}",
    summary="One agent's days",
    response_model=list[DayMetrics],  # type: ignore[valid-type]
    responses=list_responses(DayMetrics, 404, is_paged=False),
)
def agent_days(
    request: Request, context: ApiContext, agent_id: AgentId, parameters: Annotated[SeriesParameters, Query()]
) -> Response:
    """Every stored day of the agent in the range, newest first unless asked otherwise.

    A missing day was not aggregated, or not for this agent.
    """
    form = parameters.form(request)
    first, last = day_range(
        parameters.start_date,
        parameters.end_date,
        default_end=context.yesterday() + timedelta(days=1),
        default_days=_DEFAULT_DAYS,
    )
    is_ascending = parameters.order == "asc"
    tags = EntityTags(request, "series", agent_id, first, last, is_ascending, form)
    answer = agent_series(context.database, agent_id, first, last, is_ascending=is_ascending, held=tags.held)
    if not answer.is_known:
        raise unknown_agent(agent_id)
    if answer.rows is None or tags.holds(answer.version):
        return tags.not_modified(answer.version)
    return render_rows(answer.rows, COLUMNS, form, tags.headers(answer.version))
