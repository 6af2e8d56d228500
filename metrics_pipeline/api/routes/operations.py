"""What operators' tools ask: health, readiness, and gauges for monitoring."""

import asyncio
import logging
from dataclasses import asdict
from datetime import date
from http import HTTPStatus
from typing import Annotated

import prometheus_client
from anyio import to_thread
from fastapi import APIRouter, Depends, Query
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.openmetrics.exposition import CONTENT_TYPE_LATEST, generate_latest
from pydantic import Field
from sqlalchemy.exc import TimeoutError as NoConnectionFreeError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from metrics_pipeline import __version__
from metrics_pipeline.api.authentication import may_read
from metrics_pipeline.api.context import ApiContext, Context
from metrics_pipeline.api.dagster_runs import DagsterUnavailableError
from metrics_pipeline.api.gauges import Gauges
from metrics_pipeline.api.models.operations import Health, Info, Readiness
from metrics_pipeline.api.parameters import Parameters, understood
from metrics_pipeline.api.problems import problems
from metrics_pipeline.errors import PermanentError, PipelineError
from metrics_pipeline.metrics.catalog import DEFINITION_VERSION
from metrics_pipeline.postgres.upgrading import require_current
from metrics_pipeline.store.answers.windows import window_version
from metrics_pipeline.store.ledger import newest_stored_day
from metrics_pipeline.store.windows import stored_dimensions

router = APIRouter(tags=["operations"])

#: Prometheus allows ten seconds for a scrape; a slow Dagster must not cost it the other gauges.
_DAGSTER_SECONDS = 3

_log = logging.getLogger("metrics_pipeline.api")


class GaugeParameters(Parameters):
    """What is told besides."""

    agents: int = Field(
        default=0,
        ge=0,
        le=1000,
        description="Gauges for so many agents of the newest day, those with the most executions. Default: none; "
        "an agent is six time series.",
    )


@router.get("/healthz", summary="The process answers", response_model=Health)
async def healthz() -> Health:
    """Asks nothing of the database. Needs no token."""
    return Health(status="ok")


@router.get(
    "/readyz",
    summary="The database answers, with the schema of this version",
    response_model=Readiness,
    responses={503: {"description": "Not ready.", "model": Readiness}},
)
async def readyz(request: Request, context: ApiContext) -> Response:
    """Old coverage does not make a server unready; it says how old it is. Needs no token, and names no server."""
    return await to_thread.run_sync(_readiness, request, context, limiter=context.monitoring_threads)


def _readiness(request: Request, context: Context) -> Response:
    found = Readiness(
        status="not ready",
        database="unavailable",
        schema_revision="unknown",
        daemon=request.app.state.silence.daemon,
        newest_day=None,
        coverage_age_days=None,
    )
    try:
        with context.readiness.connect() as connection:
            try:
                require_current(connection)
            except PermanentError:
                found.database, found.schema_revision = "ok", "not current"
                raise
            found.schema_revision = "current"
            found.newest_day = newest_stored_day(connection)
    except (PipelineError, NoConnectionFreeError) as error:
        if isinstance(error, NoConnectionFreeError):
            found.database = "busy"
        # The message names servers and users, so it goes to the log only.
        _log.warning("%s", error, extra={"request_id": request.state.request_id})
        return JSONResponse(found.model_dump(mode="json"), status_code=HTTPStatus.SERVICE_UNAVAILABLE)
    found.status, found.database = "ready", "ok"
    if found.newest_day is not None:
        found.coverage_age_days = (context.yesterday() - found.newest_day).days
    return JSONResponse(found.model_dump(mode="json"))


@router.get(
    "/metrics",
    summary="Gauges in OpenMetrics format",
    dependencies=[Depends(may_read)],
    response_class=Response,
    responses={
        200: {
            "content": {
                "application/openmetrics-text": {"schema": {"type": "string"}},
                "text/plain": {"schema": {"type": "string"}},
            }
        },
        **problems(401, 422, 503),
    },
)
async def openmetrics(
    request: Request, context: ApiContext, parameters: Annotated[GaugeParameters, Query()]
) -> Response:
    """Days by state, the newest aggregated day and its totals, Dagster's runs and daemons, this server's requests."""
    gauges: Gauges = request.app.state.gauges
    dagster = None
    try:
        dagster = await asyncio.wait_for(context.dagster.state(context.now()), _DAGSTER_SECONDS)
    except (DagsterUnavailableError, TimeoutError) as error:
        _log.warning("The gauges say nothing of runs: %s", error, extra={"request_id": request.state.request_id})
    registry = await to_thread.run_sync(
        lambda: gauges.registry(dagster, agents=parameters.agents), limiter=context.monitoring_threads
    )
    if request.headers.get("accept", "").startswith("text/plain"):
        return Response(prometheus_client.generate_latest(registry), media_type=CONTENT_TYPE_PLAIN_0_0_4)
    return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)  # type: ignore[no-untyped-call]


@router.get(
    "/api/v1/info",
    summary="Zone, first day, retention and versions",
    dependencies=[Depends(may_read), Depends(understood)],
    response_model=Info,
    responses=problems(401, 422, 503),
)
def info(context: ApiContext) -> Info:
    """The zone in which every date of this API is a day, the days that can be asked for, and what is kept how long."""
    settings = context.settings
    with context.database.snapshot() as snapshot:
        newest = newest_stored_day(snapshot)
        version = window_version(snapshot, date.min, date.max)
        dimensions = stored_dimensions(snapshot)
    return Info(
        version=__version__,
        definition_version=DEFINITION_VERSION,
        time_zone=settings.time_zone,
        start_date=settings.start_date,
        newest_whole_day=context.yesterday(),
        newest_stored_day=newest,
        stored_version=version,
        dimensions=dimensions,
        lookback_days=settings.lookback_days,
        dagster_url=settings.ui_url,
        **asdict(settings.retention),
    )
