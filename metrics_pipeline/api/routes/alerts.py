"""Alerts: what is unusual, since when, and beside which usual range."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query
from pydantic import Field, WithJsonSchema
from starlette.requests import Request
from starlette.responses import Response

from metrics_pipeline.api.authentication import may_read
from metrics_pipeline.api.context import ApiContext
from metrics_pipeline.api.models.agents import Alert
from metrics_pipeline.api.parameters import OptionalDate, OptionalText, RecordParameters, require_known, understood
from metrics_pipeline.api.routes.answers import list_responses, send_page
from metrics_pipeline.api.short_answers import ShortAnswerRoute
from metrics_pipeline.metrics.alerts import Severity
from metrics_pipeline.store.answers.alerts import WantedState, alerts_page

router = APIRouter(
    prefix="/api/v1", dependencies=[Depends(may_read), Depends(understood)], route_class=ShortAnswerRoute
)


OptionalSeverity = Annotated[Severity | None, WithJsonSchema({"type": "string", "enum": [*Severity]})]


class AlertParameters(RecordParameters):
    """Which alerts."""

    state: WantedState = Field(
        default=WantedState.OPEN,
        description="open: not resolved. resolved: two usual days followed, or no day was judged for two weeks. "
        "withdrawn: a day was restated or cleared, and the alert does not follow from the metrics any more.",
    )
    agent_id: OptionalText = Field(
        default=None, description="Only alerts about this agent. Default: all.", examples=["support-triage"]
    )
    rule: OptionalText = Field(
        default=None, description="Only alerts of this rule. Default: all.", examples=["unusual_success_rate"]
    )
    severity: OptionalSeverity = Field(default=None, description="Only alerts of this severity. Default: both.")
    start_date: OptionalDate = Field(
        default=None, description="Only alerts that were open on this day or later. Default: any."
    )
    end_date: OptionalDate = Field(
        default=None, description="Only alerts that opened on this day or before. Default: any."
    )


@router.get(
    "/alerts", tags=["alerts"], summary="Alerts", response_model=list[Alert], responses=list_responses(Alert, 404)
)
def all_alerts(request: Request, context: ApiContext, parameters: Annotated[AlertParameters, Query()]) -> Response:
    """What is unusual about an agent, the fleet or the pipeline: since when, and the value beside its usual range.

    Newest first, and of one day the critical first. Alerts follow from the stored metrics, so late logs may open or
    withdraw one of a day that is long over.
    """
    form = parameters.form(request)
    first, last = parameters.days()
    with context.database.connect() as connection:
        page = alerts_page(
            connection,
            first,
            last,
            state=parameters.state,
            agent_id=parameters.agent_id,
            rule=parameters.rule,
            severity=parameters.severity,
            limit=parameters.limit,
            offset=parameters.offset,
        )
        if not page.total:
            # Those that were withdrawn outlive the agent's metrics.
            require_known(connection, parameters.agent_id)
    return send_page(request, page, Alert, form, parameters)
