"""The state of every day, which tells a true zero from a day that was not computed."""

from datetime import timedelta
from typing import Annotated

from fastapi import APIRouter, Depends, Query
from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from metrics_pipeline.api.authentication import may_read
from metrics_pipeline.api.context import ApiContext
from metrics_pipeline.api.formats import to_json
from metrics_pipeline.api.models.days import DayCoverage, SkippedAgent
from metrics_pipeline.api.parameters import (
    MAX_WINDOW_DAYS,
    ListParameters,
    OptionalDate,
    day_range,
    require_whole_days,
    understood,
)
from metrics_pipeline.api.routes.answers import list_responses, send_rows
from metrics_pipeline.api.slow_answers import SlowDatabase
from metrics_pipeline.store.answers.skipped import skipped_agents

router = APIRouter(prefix="/api/v1", tags=["days"], dependencies=[Depends(may_read), Depends(understood)])


class CoverageParameters(ListParameters):
    """Which days."""

    start_date: OptionalDate = Field(
        default=None, description="The first day. Default: METRICS_LOOKBACK_DAYS days up to end_date."
    )
    end_date: OptionalDate = Field(default=None, description="The last day, which has ended. Default: yesterday.")


class SkippedParameters(ListParameters):
    """Which day."""

    date: OptionalDate = Field(default=None, description="The day, which has ended. Default: yesterday.")


@router.get(
    "/coverage",
    summary="The state of every day",
    response_model=list[DayCoverage],
    responses=list_responses(DayCoverage, is_paged=False),
)
def coverage(
    request: Request, context: ApiContext, database: SlowDatabase, parameters: Annotated[CoverageParameters, Query()]
) -> Response:
    """What is stored of each day, compared with its logs as they were last looked at, newest day first.

    At most 366 days. The sensor looks at the days of the look-back window every 15 minutes.
    """
    form = parameters.form(request)
    settings = context.settings
    end = parameters.end_date or context.yesterday()
    start = parameters.start_date
    require_whole_days(context, start or end, end, ("start_date" if start else "end_date", "end_date"))
    default_start = max(end - timedelta(days=settings.lookback_days - 1), settings.start_date)
    first, last = day_range(start or default_start, end, default_end=end, default_days=1, max_days=MAX_WINDOW_DAYS)
    rows = [
        # Every field is one of the verdict or else of the ledger's row, which may not exist.
        to_json({name: getattr(verdict, name, getattr(ledger, name, None)) for name in DayCoverage.model_fields})
        for verdict, ledger in reversed(context.judged_days(database, first, last))
    ]
    return send_rows(request, rows, DayCoverage.model_fields, form, {})


@router.get(
    "/skipped",
    summary="Whose logs are in no metric of a day",
    response_model=list[SkippedAgent],
    responses=list_responses(SkippedAgent, is_paged=False),
)
def skipped(request: Request, context: ApiContext, parameters: Annotated[SkippedParameters, Query()]) -> Response:
    """Agents that were inactive or not registered when the day was aggregated, those with the most logs first.

    Their logs add up to the day's skipped_logs in /api/v1/coverage.
    """
    form = parameters.form(request)
    day = parameters.date or context.yesterday()
    require_whole_days(context, day, day, ("date", "date"))
    with context.database.connect() as connection:
        rows = skipped_agents(connection, day)
    return send_rows(request, [to_json(row) for row in rows], SkippedAgent.model_fields, form, {})
