"""Starting Dagster runs, and their state."""

import asyncio
import time
from collections.abc import Collection
from datetime import date
from http import HTTPStatus
from typing import Annotated
from urllib.parse import quote

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from pydantic import Field
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from metrics_pipeline.api.authentication import may_read, may_trigger
from metrics_pipeline.api.context import ApiContext, Context
from metrics_pipeline.api.dagster_runs import Work
from metrics_pipeline.api.idempotency import IdempotencyKey, KeyedRequest
from metrics_pipeline.api.models.runs import Backfill, Completed, Run, Started, StartedBackfill, StartedStatus
from metrics_pipeline.api.parameters import IsoDate, OptionalDate, Parameters, day_range, require_whole_days, understood
from metrics_pipeline.api.problems import ProblemError, problems
from metrics_pipeline.metrics.reconciliation import DayState, LedgerRow, why_closed
from metrics_pipeline.metrics.windows import days_between
from metrics_pipeline.names import IDEMPOTENCY_KEY_TAG
from metrics_pipeline.store.ledger import ledger_rows

router = APIRouter(prefix="/api/v1", tags=["runs"])

_POLL_SECONDS = 0.5
#: How long a replica may lag behind the run that was waited for.
_REPLICA_SECONDS = 10.0
_CLOSED = {DayState.SEALED: "day-sealed", DayState.OTHER_ZONE: "other-time-zone"}


class TriggerParameters(Parameters):
    """Which day, and whether to wait for it."""

    target_date: OptionalDate = Field(
        default=None, description="The day, which has ended. Default: yesterday.", examples=["2025-07-11"]
    )
    wait: bool = Field(
        default=False,
        description="Answer when the run has ended; with 202 if it takes over two minutes, or the server stops.",
    )


class BackfillParameters(Parameters):
    """Which days."""

    start_date: IsoDate = Field(description="The first day.", examples=["2025-07-01"])
    end_date: OptionalDate = Field(default=None, description="The last day, which has ended. Default: yesterday.")


@router.post(
    "/metrics/aggregate/trigger",
    summary="Aggregate a day",
    dependencies=[Depends(may_trigger), Depends(understood)],
    response_model=Completed,
    responses={
        200: {"description": "wait=true: the run has succeeded."},
        202: {"description": "The run is started, or one for this day is under way already.", "model": Started},
        **problems(401, 403, 409, 415, 422, 502, 503),
    },
)
async def trigger(
    request: Request,
    context: ApiContext,
    parameters: Annotated[TriggerParameters, Query()],
    idempotency_key: IdempotencyKey = None,
) -> Completed | Response:
    """Starts a Dagster run that aggregates the day again.

    With wait=true on a replica that does not show the stored day within ten seconds, the status is not_visible_yet. If
    a run for the day is under way, no second one is started: the answer names the first. A day whose raw logs were
    pruned, or that is stored under another time zone, is refused with 409.
    """
    day, dagster = parameters.target_date or context.yesterday(), context.dagster
    keyed = KeyedRequest.of(request, idempotency_key, f"trigger {parameters.target_date or 'yesterday'}")
    status: StartedStatus = "started"
    run_id = await _started_before(context, keyed)
    if run_id is None:
        await run_in_threadpool(_require_open, context, day, day, ("target_date", "target_date"), _CLOSED)
        async with context.starting_runs():
            under_way = [work for work in await dagster.work_under_way() if day in work.days]
            running = next((work.id for work in under_way if not work.is_backfill), None)
            # The same request may have come twice at once.
            run_id = await _started_before(context, keyed) or running
            if under_way and run_id is None:
                raise _already_running(request, under_way[0])
            if run_id is not None:
                status = "already_running"
            else:
                run_id = await dagster.start_day(day, keyed.tags if keyed else {})
    ui_url = dagster.run_url(run_id)
    if parameters.wait and (ended := await _wait(context, run_id)):
        if ended.status != "success":
            reason = await dagster.failure(run_id) or "The Dagster UI has the log of the run."
            raise ProblemError(
                HTTPStatus.BAD_GATEWAY,
                f"Run {run_id} ended as {ended.status}. {reason}",
                kind="run-failed",
                run_id=run_id,
                ui_url=ui_url,
            )
        agents = await _agents_stored(context, day, ended)
        if agents is not None:
            return Completed(status="completed", agents_processed=agents, run_id=run_id, ui_url=ui_url)
        status = "not_visible_yet"
    status_url = _address(request, "runs", run_id)
    return _accepted(Started(status=status, run_id=run_id, status_url=status_url, ui_url=ui_url))


@router.post(
    "/metrics/aggregate/backfill",
    summary="Aggregate a range of days",
    dependencies=[Depends(may_trigger), Depends(understood)],
    status_code=202,
    response_model=StartedBackfill,
    responses={
        202: {"description": "The backfill is started; Dagster's daemon works on it."},
        **problems(401, 403, 409, 415, 422, 503),
    },
)
async def backfill(
    request: Request,
    context: ApiContext,
    parameters: Annotated[BackfillParameters, Query()],
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Starts a Dagster backfill that aggregates every day of the range again.

    Sealed days keep their metrics: the backfill leaves them out. Refused with 409 when one of the days is stored under
    another time zone, or about to be written by a run or a backfill that is under way.
    """
    first, last = day_range(parameters.start_date, parameters.end_date, default_end=context.yesterday(), default_days=1)
    asked = f"backfill {parameters.start_date} {parameters.end_date or 'yesterday'}"
    keyed = KeyedRequest.of(request, idempotency_key, asked)
    backfill_id = await _started_before(context, keyed)
    if backfill_id is None:
        await run_in_threadpool(_require_open, context, first, last, ("start_date", "end_date"), [DayState.OTHER_ZONE])
        async with context.starting_runs():
            backfill_id = await _started_before(context, keyed)
            if backfill_id is None:
                wanted = set(days_between(first, last))
                for work in await context.dagster.work_under_way():
                    if wanted & work.days:
                        raise _already_running(request, work)
                backfill_id = await context.dagster.start_backfill(first, last, keyed.tags if keyed else {})
    return _accepted(
        StartedBackfill(
            status="started",
            backfill_id=backfill_id,
            status_url=_address(request, "backfills", backfill_id),
            ui_url=context.dagster.backfill_url(backfill_id),
        )
    )


# Without these routes, the path would be that of an agent.
@router.get("/metrics/aggregate/trigger", include_in_schema=False)
@router.get("/metrics/aggregate/backfill", include_in_schema=False)
async def started_by_post() -> None:
    """405 for a GET of what only a POST starts."""
    raise HTTPException(HTTPStatus.METHOD_NOT_ALLOWED, headers={"Allow": "POST"})


@router.get(
    "/runs/{run_id}",
    summary="A run's state",
    dependencies=[Depends(may_read), Depends(understood)],
    response_model=Run,
    responses=problems(401, 404, 422, 503),
)
async def run(
    context: ApiContext,
    run_id: Annotated[str, Path(description="As the trigger, the ledger or the Dagster UI names it.")],
) -> Run:
    """A Dagster run of this code location, no matter what started it."""
    found = await context.dagster.run(run_id)
    if found is None:
        raise ProblemError(
            HTTPStatus.NOT_FOUND, f"Dagster knows no run {run_id!r} of this pipeline.", kind="unknown-run"
        )
    if found.status == "failure":
        found.error = await context.dagster.failure(run_id)
    return found


@router.get(
    "/backfills/{backfill_id}",
    summary="A backfill's state",
    dependencies=[Depends(may_read), Depends(understood)],
    response_model=Backfill,
    responses=problems(401, 404, 422, 503),
)
async def backfill_state(
    context: ApiContext,
    backfill_id: Annotated[str, Path(description="As the backfill's start or the Dagster UI names it.")],
) -> Backfill:
    """A Dagster backfill of the metrics, no matter what started it, with the ids of its runs."""
    found = await context.dagster.backfill(backfill_id)
    if found is None:
        raise ProblemError(
            HTTPStatus.NOT_FOUND, f"Dagster knows no backfill {backfill_id!r} of the metrics.", kind="unknown-backfill"
        )
    return found


def _require_open(
    context: Context, first: date, last: date, fields: tuple[str, str], refused: Collection[DayState]
) -> None:
    """Ends the request unless every day has ended, and none is in a state of `refused`."""
    require_whole_days(context, first, last, fields)
    with context.database.connect() as connection:
        stored = ledger_rows(connection, first, last)
    for row in stored.values():
        closed = why_closed(row, context.settings.time_zone)
        if closed is not None and closed.state in refused:
            raise ProblemError(HTTPStatus.CONFLICT, closed.reason, kind=_CLOSED[closed.state])


async def _started_before(context: Context, keyed: KeyedRequest | None) -> str | None:
    """The id of what the same request has started before. Raises ProblemError (422) if it was another request."""
    found = await context.dagster.started_with(IDEMPOTENCY_KEY_TAG, keyed.key) if keyed else None
    if keyed is None or found is None:
        return None
    started, tags = found
    keyed.require_same(tags)
    return started


async def _wait(context: Context, run_id: str) -> Run | None:
    """The run when it has ended; None if it takes longer than `wait_seconds`, or the server is told to stop."""
    deadline = time.monotonic() + context.dagster.wait_seconds
    while time.monotonic() < deadline and not context.is_stopping():
        found = await context.dagster.run(run_id)
        if found is not None and found.is_finished:
            return found
        await asyncio.sleep(_POLL_SECONDS)
    return None


async def _agents_stored(context: Context, day: date, run: Run) -> int | None:
    """The agents of the day as the run, or a later one, stored it; None if the database, a replica, lags too far."""

    def row() -> LedgerRow | None:
        with context.database.connect() as connection:
            return ledger_rows(connection, day, day).get(day)

    deadline = time.monotonic() + _REPLICA_SECONDS
    while True:
        stored = await run_in_threadpool(row)
        if stored and (stored.run_id == run.run_id or (run.started_at and stored.aggregated_at >= run.started_at)):
            return stored.agents
        if time.monotonic() >= deadline:
            return None
        await asyncio.sleep(_POLL_SECONDS)


def _already_running(request: Request, work: Work) -> ProblemError:
    return ProblemError(
        HTTPStatus.CONFLICT,
        f"Dagster's {'backfill' if work.is_backfill else 'run'} {work.id} is about to write some of these days. "
        "Wait until it has ended.",
        kind="already-running",
        status_url=_address(request, "backfills" if work.is_backfill else "runs", work.id),
        backfill_id=work.id if work.is_backfill else None,
        run_id=None if work.is_backfill else work.id,
        ui_url=work.ui_url,
    )


def _address(request: Request, kind: str, work_id: str) -> str:
    """The path of a run's or backfill's state, as the client reaches it, also behind a proxy with a path prefix."""
    return f"{request.scope.get('root_path', '')}{router.prefix}/{kind}/{quote(work_id, safe='')}"


def _accepted(started: Started | StartedBackfill) -> Response:
    return JSONResponse(started.model_dump(), status_code=HTTPStatus.ACCEPTED, headers={"Location": started.status_url})
