"""How an agent's latencies are distributed, day by day."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query
from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from metrics_pipeline.api.authentication import may_read
from metrics_pipeline.api.context import ApiContext
from metrics_pipeline.api.models.metrics import LatencyCount
from metrics_pipeline.api.parameters import StoredText, WindowParameters, require_known, understood
from metrics_pipeline.api.routes.answers import list_responses, send_rows
from metrics_pipeline.api.slow_answers import SlowDatabase
from metrics_pipeline.store.answers.latencies import latency_counts

router = APIRouter(prefix="/api/v1", tags=["metrics"], dependencies=[Depends(may_read), Depends(understood)])


class LatencyParameters(WindowParameters):
    """Which agent and which days."""

    agent_id: StoredText = Field(description="The agent.", examples=["support-triage"])


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
    first, last = parameters.days(context)
    with database.connect() as connection:
        require_known(connection, parameters.agent_id)
        rows = latency_counts(connection, parameters.agent_id, first, last)
    return send_rows(request, rows, LatencyCount.model_fields, form, {})
