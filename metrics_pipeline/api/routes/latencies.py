"""How an agent's latencies are distributed, day by day."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query
from pydantic import AfterValidator, Field
from starlette.requests import Request
from starlette.responses import Response

from metrics_pipeline.api.authentication import may_read
from metrics_pipeline.api.context import ApiContext
from metrics_pipeline.api.models import LatencyCount
from metrics_pipeline.api.parameters import (
    MAX_WINDOW_DAYS,
    ListParameters,
    OptionalDate,
    day_range,
    stored_text,
    understood,
    unknown_agent,
)
from metrics_pipeline.api.routes.answers import list_responses, send_rows
from metrics_pipeline.api.slow_answers import SlowDatabase
from metrics_pipeline.store.answers.latencies import latency_counts
from metrics_pipeline.store.answers.metrics import is_known

router = APIRouter(prefix="/api/v1", tags=["metrics"], dependencies=[Depends(may_read), Depends(understood)])

_DEFAULT_DAYS = 30


class LatencyParameters(ListParameters):
    """Which agent and which days."""

    agent_id: Annotated[str, AfterValidator(stored_text)] = Field(description="The agent.", examples=["support-triage"])
    start_date: OptionalDate = Field(
        default=None, description="The first day. Default: 29 days before end_date.", examples=["2025-06-12"]
    )
    end_date: OptionalDate = Field(
        default=None, description="The last day. Default: yesterday.", examples=["2025-07-11"]
    )


@router.get(
    "/latencies",
    summary="An agent's latencies by day and interval",
    response_model=list[LatencyCount],
    responses=list_responses(LatencyCount, 404, is_paged=False),
)
def latencies(
    request: Request, context: ApiContext, database: SlowDatabase, parameters: Annotated[LatencyParameters, Query()]
) -> Response:
    """Executions by day and interval of latency, about six intervals in a decade, also after the logs are deleted.

    At most 366 days. A day without a row is not stored, has no latency, or lacks its distribution.
    """
    form = parameters.form(request)
    first, last = day_range(
        parameters.start_date,
        parameters.end_date,
        default_end=context.yesterday(),
        default_days=_DEFAULT_DAYS,
        max_days=MAX_WINDOW_DAYS,
    )
    with database.connect() as connection:
        if not is_known(connection, parameters.agent_id):
            raise unknown_agent(parameters.agent_id)
        rows = latency_counts(connection, parameters.agent_id, first, last)
    return send_rows(request, rows, LatencyCount.model_fields, form, {})
