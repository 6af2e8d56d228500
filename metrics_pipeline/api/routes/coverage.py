"""The state of every day: a true zero can always be told from a day that was not computed."""

from datetime import timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Query
from pydantic import Field
from starlette.responses import Response

from metrics_pipeline.api.authentication import may_read
from metrics_pipeline.api.context import Context, context_of
from metrics_pipeline.api.days import DayJudgement, judgements
from metrics_pipeline.api.formats import negotiate, render_objects
from metrics_pipeline.api.models import DayCoverage
from metrics_pipeline.api.parameters import ListParameters, OptionalDate, day_range
from metrics_pipeline.api.problems import not_acceptable
from metrics_pipeline.api.routes.answers import list_responses, send_rows

router = APIRouter(prefix="/api/v1", tags=["days"], dependencies=[Depends(may_read)])

#: Every day costs a pass over its logs.
_MAX_DAYS = 92
_COLUMNS = tuple(DayCoverage.model_fields)


class CoverageParameters(ListParameters):
    """Which days."""

    start_date: OptionalDate = Field(
        default=None, description="The first day. Default: METRICS_LOOKBACK_DAYS days up to end_date."
    )
    end_date: OptionalDate = Field(default=None, description="The last day, which has ended. Default: yesterday.")


@router.get(
    "/coverage",
    summary="The state of every day",
    response_model=list[DayCoverage],
    responses=list_responses(DayCoverage, is_paged=False),
)
def coverage(
    context: Annotated[Context, Depends(context_of)],
    parameters: Annotated[CoverageParameters, Query()],
    accept: Annotated[str | None, Header(include_in_schema=False)] = None,
    if_none_match: Annotated[str | None, Header(include_in_schema=False)] = None,
) -> Response:
    """Compares what is stored of each day with the logs that stand there now, newest day first. At most 92 days."""
    form = negotiate(parameters.format, accept)
    settings, yesterday = context.settings, context.yesterday()
    end = parameters.end_date or yesterday
    if end > yesterday:
        raise not_acceptable(
            "end_date", f"{end} has not ended in {settings.time_zone}; the newest whole day is {yesterday}."
        )
    for name, day in (("end_date", end), ("start_date", parameters.start_date or end)):
        if day < settings.start_date:
            raise not_acceptable(name, f"The first day of this pipeline is {settings.start_date}.")
    start = parameters.start_date or max(end - timedelta(days=settings.lookback_days - 1), settings.start_date)
    first, last = day_range(start, end, default_end=end, default_days=1, max_days=_MAX_DAYS)
    rows = [_row(day) for day in reversed(judgements(context, first, last))]
    return send_rows(render_objects(rows, _COLUMNS, form), _COLUMNS, form, if_none_match, {})


def _row(day: DayJudgement) -> dict[str, Any]:
    ledger = day.ledger
    return {
        "metric_date": day.verdict.metric_date.isoformat(),
        "state": day.verdict.state.value,
        "reason": day.verdict.reason,
        "is_outdated": day.verdict.is_outdated,
        "source_logs": ledger and ledger.source_logs,
        "aggregated_logs": ledger and ledger.aggregated_logs,
        "skipped_logs": ledger and ledger.skipped_logs,
        "agents": ledger and ledger.agents,
        "aggregated_at": ledger and ledger.aggregated_at.isoformat(),
        "run_id": ledger and ledger.run_id,
        "definition_version": ledger and ledger.definition_version,
    }
