"""Stored metrics: one agent's days, its summary, and all agents of a day."""

from dataclasses import asdict
from datetime import date, timedelta
from enum import StrEnum
from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Depends, Query
from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from metrics_pipeline.api.authentication import may_read
from metrics_pipeline.api.conditions import EntityTags
from metrics_pipeline.api.context import ApiContext
from metrics_pipeline.api.formats import render_rows, to_json
from metrics_pipeline.api.models import DayMetrics, Summary
from metrics_pipeline.api.parameters import (
    AgentId,
    ListParameters,
    OptionalDate,
    PageParameters,
    Parameters,
    day_range,
    understood,
    unknown_agent,
)
from metrics_pipeline.api.problems import ProblemError
from metrics_pipeline.api.routes.answers import list_responses, object_responses
from metrics_pipeline.metrics.summary import changes, summarise
from metrics_pipeline.store.answers.metrics import COLUMNS, SORTABLE, agent_series, day_page
from metrics_pipeline.store.answers.totals import agent_totals
from metrics_pipeline.store.ledger import ledger_rows

router = APIRouter(prefix="/api/v1/metrics", tags=["metrics"], dependencies=[Depends(may_read), Depends(understood)])

_DEFAULT_DAYS = 30

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


class SeriesParameters(ListParameters):
    """Which days."""

    start_date: OptionalDate = Field(
        default=None, description="The first day. Default: 29 days before end_date.", examples=["2025-06-12"]
    )
    end_date: OptionalDate = Field(default=None, description="The last day. Default: today.", examples=["2025-07-11"])


class SummaryParameters(Parameters):
    """How long the period is."""

    days: int = Field(default=30, ge=1, le=365, description="The number of whole days, up to yesterday.")


@router.get(
    "",
    summary="All agents of a day",
    response_model=list[DayMetrics],  # type: ignore[valid-type]
    responses=list_responses(DayMetrics, 404, 410),
)
def agents_of_a_day(
    request: Request,
    context: ApiContext,
    parameters: Annotated[DayParameters, Query()],
) -> Response:
    """Each agent's row of one day.

    404 for a day that was never aggregated, and 410 for one whose metrics expired: an empty list would look like a day
    without activity.
    """
    form = parameters.form(request)
    day = parameters.date or context.yesterday()
    sort = parameters.sort.value
    tags = EntityTags(request, "day", day, sort, parameters.limit, parameters.offset, form)
    with context.database.connect() as connection:
        answer = day_page(
            connection,
            day,
            sort=sort.removeprefix("-"),
            is_descending=sort.startswith("-"),
            limit=parameters.limit + 1,
            offset=parameters.offset,
            held=tags.held,
        )
        ledger = None if answer.rows else ledger_rows(connection, day, day).get(day)
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
    if answer.rows is None or tags.holds(answer.version):
        return tags.not_modified(answer.version)
    rows, link = parameters.page(answer.rows, request.query_params)
    return render_rows(rows, COLUMNS, form, link | tags.headers(answer.version))


@router.get(
    "/{agent_id:path}/summary",
    summary="An agent's figures over whole days that end yesterday",
    response_model=Summary,
    responses=object_responses(404),
)
def agent_summary(
    request: Request,
    context: ApiContext,
    agent_id: AgentId,
    parameters: Annotated[SummaryParameters, Query()],
) -> Response:
    """Means of the days' values, figures weighted by executions, the same for the period before, and the changes."""
    last = context.yesterday()
    middle = last - timedelta(days=parameters.days - 1)
    first = middle - timedelta(days=parameters.days)
    tags = EntityTags(request, "summary", agent_id, first, last)
    with context.database.connect() as connection:
        totals = agent_totals(connection, agent_id, first, middle, last, held=tags.held)
    if not totals.is_known:
        raise unknown_agent(agent_id)
    if tags.holds(totals.version):
        return tags.not_modified(totals.version)
    previous, current = summarise(totals.previous), summarise(totals.current)
    body = {
        "agent_id": agent_id,
        "days": parameters.days,
        **_period(middle, last, totals.current.days_stored),
        **asdict(current),
        "previous": {
            **_period(first, middle - timedelta(days=1), totals.previous.days_stored),
            **asdict(previous),
        },
        "change": asdict(changes(previous, current)),
    }
    return Response(to_json(body), headers=tags.headers(totals.version), media_type="application/json")


# After the summary, whose path it also matches.
@router.get(
    "/{agent_id:path}",
    summary="One agent's days, newest first",
    response_model=list[DayMetrics],  # type: ignore[valid-type]
    responses=list_responses(DayMetrics, 404, is_paged=False),
)
def agent_days(
    request: Request,
    context: ApiContext,
    agent_id: AgentId,
    parameters: Annotated[SeriesParameters, Query()],
) -> Response:
    """Every stored day of the agent in the range. A missing day was not aggregated, or not for this agent."""
    form = parameters.form(request)
    first, last = day_range(
        parameters.start_date,
        parameters.end_date,
        default_end=context.yesterday() + timedelta(days=1),
        default_days=_DEFAULT_DAYS,
    )
    tags = EntityTags(request, "series", agent_id, first, last, form)
    with context.database.connect() as connection:
        answer = agent_series(connection, agent_id, first, last, held=tags.held)
    if not answer.is_known:
        raise unknown_agent(agent_id)
    if answer.rows is None or tags.holds(answer.version):
        return tags.not_modified(answer.version)
    return render_rows(answer.rows, COLUMNS, form, tags.headers(answer.version))


def _period(first: date, last: date, days_stored: int) -> dict[str, object]:
    return {"start_date": first, "end_date": last, "days_stored": days_stored}
