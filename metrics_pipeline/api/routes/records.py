"""Agents and restatements."""

from datetime import date
from typing import Annotated

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import Response

from metrics_pipeline.api.authentication import may_read
from metrics_pipeline.api.context import ApiContext
from metrics_pipeline.api.formats import Form
from metrics_pipeline.api.models.agents import Agent
from metrics_pipeline.api.models.metrics import Restatement
from metrics_pipeline.api.parameters import OptionalDate, OptionalText, PageParameters, understood, unknown_agent
from metrics_pipeline.api.problems import invalid_parameter
from metrics_pipeline.api.routes.answers import list_responses, send_rows
from metrics_pipeline.api.short_answers import ShortAnswerRoute
from metrics_pipeline.store.answers.agents import agents_page
from metrics_pipeline.store.answers.metrics import is_known
from metrics_pipeline.store.answers.restatements import restatements_page
from metrics_pipeline.store.answers.rows import Page

router = APIRouter(
    prefix="/api/v1", dependencies=[Depends(may_read), Depends(understood)], route_class=ShortAnswerRoute
)


class RestatementParameters(PageParameters):
    """Which agent and which days."""

    agent_id: OptionalText = Field(
        default=None, description="Only this agent. Default: all.", examples=["support-triage"]
    )
    start_date: OptionalDate = Field(default=None, description="The first metric day. Default: any.")
    end_date: OptionalDate = Field(default=None, description="The last metric day. Default: any.")


@router.get(
    "/agents", tags=["agents"], summary="All agents", response_model=list[Agent], responses=list_responses(Agent)
)
def all_agents(
    request: Request,
    context: ApiContext,
    parameters: Annotated[PageParameters, Query()],
) -> Response:
    """Registered agents, and those that are no longer registered but have stored metrics, in the order of their ids."""
    form = parameters.form(request)
    with context.database.connect() as connection:
        page = agents_page(connection, limit=parameters.limit, offset=parameters.offset)
    return _send_page(request, page, Agent, form, parameters)


@router.get(
    "/restatements",
    tags=["days"],
    summary="Stored values that were replaced",
    response_model=list[Restatement],
    responses=list_responses(Restatement, 404),
)
def all_restatements(
    request: Request,
    context: ApiContext,
    parameters: Annotated[RestatementParameters, Query()],
) -> Response:
    """The rows that were replaced, when, by which run and why, with the values before and after, newest first."""
    form = parameters.form(request)
    first, last = parameters.start_date or date.min, parameters.end_date or date.max
    if first > last:
        raise invalid_parameter("start_date", f"{first} comes after end_date, {last}.")
    with context.database.connect() as connection:
        if parameters.agent_id is not None and not is_known(connection, parameters.agent_id):
            raise unknown_agent(parameters.agent_id)
        page = restatements_page(
            connection,
            first,
            last,
            agent_id=parameters.agent_id,
            limit=parameters.limit,
            offset=parameters.offset,
        )
    return _send_page(request, page, Restatement, form, parameters)


def _send_page(
    request: Request, page: Page, model: type[BaseModel], form: Form, parameters: PageParameters
) -> Response:
    parameters.require_same_list(page.version, request.query_params)
    headers = parameters.page_headers(request.query_params, version=page.version, total=page.total)
    return send_rows(request, page.rows, model.model_fields, form, headers)
