"""Agents and restatements."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query
from starlette.requests import Request
from starlette.responses import Response

from metrics_pipeline.api.authentication import may_read
from metrics_pipeline.api.context import ApiContext
from metrics_pipeline.api.models.agents import Agent
from metrics_pipeline.api.models.metrics import Restatement
from metrics_pipeline.api.parameters import PageParameters, RecordParameters, require_known, understood
from metrics_pipeline.api.routes.answers import list_responses, send_page
from metrics_pipeline.api.short_answers import ShortAnswerRoute
from metrics_pipeline.store.answers.agents import agents_page
from metrics_pipeline.store.answers.restatements import restatements_page

router = APIRouter(
    prefix="/api/v1", dependencies=[Depends(may_read), Depends(understood)], route_class=ShortAnswerRoute
)


@router.get(
    "/agents", tags=["agents"], summary="All agents", response_model=list[Agent], responses=list_responses(Agent)
)
def all_agents(request: Request, context: ApiContext, parameters: Annotated[PageParameters, Query()]) -> Response:
    """Registered agents, and those that are no longer registered but have stored metrics, in the order of their ids."""
    form = parameters.form(request)
    with context.database.connect() as connection:
        page = agents_page(connection, limit=parameters.limit, offset=parameters.offset)
    return send_page(request, page, Agent, form, parameters)


@router.get(
    "/restatements",
    tags=["days"],
    summary="Stored values that were replaced",
    response_model=list[Restatement],
    responses=list_responses(Restatement, 404),
)
def all_restatements(
    request: Request, context: ApiContext, parameters: Annotated[RecordParameters, Query()]
) -> Response:
    """The rows that were replaced, when, by which run and why, with the values before and after, newest first."""
    form = parameters.form(request)
    first, last = parameters.days()
    with context.database.connect() as connection:
        page = restatements_page(
            connection,
            first,
            last,
            agent_id=parameters.agent_id,
            limit=parameters.limit,
            offset=parameters.offset,
        )
        if not page.total:
            # Those of an agent outlive its metrics.
            require_known(connection, parameters.agent_id)
    return send_page(request, page, Restatement, form, parameters)
