"""What stands beside the metrics: agents and restatements."""

from datetime import date
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Query
from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from metrics_pipeline.api.authentication import may_read
from metrics_pipeline.api.context import Context, context_of
from metrics_pipeline.api.formats import negotiate
from metrics_pipeline.api.models import Agent, Restatement
from metrics_pipeline.api.parameters import OptionalDate, OptionalText, PageParameters
from metrics_pipeline.api.problems import not_acceptable
from metrics_pipeline.api.routes.answers import list_responses, send_rows
from metrics_pipeline.store.answers import agents, restatements
from metrics_pipeline.store.answers.rows import page_of

router = APIRouter(prefix="/api/v1", dependencies=[Depends(may_read)])


class RestatementParameters(PageParameters):
    """Of which agent and which days."""

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
    context: Annotated[Context, Depends(context_of)],
    parameters: Annotated[PageParameters, Query()],
    accept: Annotated[str | None, Header(include_in_schema=False)] = None,
    if_none_match: Annotated[str | None, Header(include_in_schema=False)] = None,
) -> Response:
    """Registered agents, and those that are registered no more but have stored metrics, in the order of their ids."""
    form = negotiate(parameters.format, accept)
    with context.database.connect() as connection:
        found = agents.agents_page(connection, limit=parameters.limit + 1, offset=parameters.offset, form=form.row_form)
    rows, has_more = page_of(found, parameters.limit)
    return send_rows(
        rows, agents.COLUMNS, form, if_none_match, parameters.link(request.query_params, has_more=has_more)
    )


@router.get(
    "/restatements",
    tags=["days"],
    summary="Stored values that were replaced",
    response_model=list[Restatement],
    responses=list_responses(Restatement),
)
def all_restatements(
    request: Request,
    context: Annotated[Context, Depends(context_of)],
    parameters: Annotated[RestatementParameters, Query()],
    accept: Annotated[str | None, Header(include_in_schema=False)] = None,
    if_none_match: Annotated[str | None, Header(include_in_schema=False)] = None,
) -> Response:
    """Which rows were replaced, when, by which run and why, with the values before and after, newest first."""
    form = negotiate(parameters.format, accept)
    first, last = parameters.start_date or date.min, parameters.end_date or date.max
    if first > last:
        raise not_acceptable("start_date", f"{first} comes after end_date, {last}.")
    with context.database.connect() as connection:
        found = restatements.restatements_page(
            connection,
            first,
            last,
            agent_id=parameters.agent_id,
            limit=parameters.limit + 1,
            offset=parameters.offset,
            form=form.row_form,
        )
    rows, has_more = page_of(found, parameters.limit)
    return send_rows(
        rows, restatements.COLUMNS, form, if_none_match, parameters.link(request.query_params, has_more=has_more)
    )
