"""Starting Dagster runs, and their state."""

import asyncio
import time
from datetime import date
from http import HTTPStatus
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Depends, Path, Query, Response
from pydantic import Field
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse

from metrics_pipeline.api.authentication import may_read, may_trigger
from metrics_pipeline.api.context import Context, context_of
from metrics_pipeline.api.dagster_runs import DagsterRun
from metrics_pipeline.api.models import Backfill, Completed, Run, Started, StartedBackfill
from metrics_pipeline.api.parameters import IsoDate, OptionalDate, Parameters, day_range
from metrics_pipeline.api.problems import ProblemError, not_acceptable, problems
from metrics_pipeline.metrics.reconciliation import DayState, why_closed
from metrics_pipeline.metrics.windows import days_between
from metrics_pipeline.store.ledger import ledger_rows

router = APIRouter(prefix="/api/v1", tags=["runs"])

_POLL_SECONDS = 0.5
_CLOSED = {DayState.SEALED: "day-sealed", DayState.OTHER_ZONE: "other-time-zone"}


class TriggerParameters(Parameters):
    """Which day, and whether to wait for it."""

    target_date: OptionalDate = Field(
        default=None, description="The day, which has ended. Default: yesterday.", examples=["2025-07-11"]
    )
    wait: bool = Field(
        default=False,
        description="Answer when the run has ended; one that takes over two minutes is answered with 202.",
    )


class BackfillParameters(Parameters):
    """Which days."""

    start_date: IsoDate = Field(description="The first day.", examples=["2025-07-01"])
    end_date: OptionalDate = Field(default=None, description="The last day, which has ended. Default: yesterday.")


@router.post(
    "/metrics/aggregate/trigger",
    summary="Aggregate a day",
    dependencies=[Depends(may_trigger)],
    response_model=Completed,
    responses={
        200: {"description": "wait=true: the run has succeeded."},
        202: {"description": "The run is started, or one for this day is under way already.", "model": Started},
        **problems(401, 403, 409, 422, 502, 503),
    },
)
async def trigger(
    context: Annotated[Context, Depends(context_of)], parameters: Annotated[TriggerParameters, Query()]
) -> Response:
    """Starts a Dagster run that aggregates the day anew.

    A run for the day that is under way is not started twice: the answer names it. A day whose raw logs were pruned, or
    that is stored under another time zone, is refused with 409.
    """
    day = parameters.target_date or context.yesterday()
    await run_in_threadpool(_require_open, context, day, day, ("target_date", "target_date"))
    async with context.starting_runs():
        under_way = [work for work in await context.dagster.work_under_way() if day in work.days]
        if under_way and under_way[0].run_id is None and not any(work.run_id for work in under_way):
            raise _under_way(context, under_way[0].backfill_id or "", is_backfill=True)
        running = next((work.run_id for work in under_way if work.run_id), None)
        run_id = running or await context.dagster.start_day(day)
    if parameters.wait and (ended := await _wait(context, run_id)):
        agents = await run_in_threadpool(_agents_stored, context, day)
        if ended.status != "success" or agents is None:
            raise await _failed(context, ended)
        return JSONResponse(
            {
                "status": "completed",
                "agents_processed": agents,
                "run_id": run_id,
                "ui_url": context.dagster.run_url(run_id),
            }
        )
    return _accepted(
        {"status": "already_running" if running else "started", "run_id": run_id},
        f"/api/v1/runs/{quote(run_id, safe='')}",
        context.dagster.run_url(run_id),
    )


@router.post(
    "/metrics/aggregate/backfill",
    summary="Aggregate a range of days",
    dependencies=[Depends(may_trigger)],
    status_code=202,
    response_model=StartedBackfill,
    responses={
        202: {"description": "The backfill is started; Dagster's daemon works on it."},
        **problems(401, 403, 409, 422, 503),
    },
)
async def backfill(
    context: Annotated[Context, Depends(context_of)], parameters: Annotated[BackfillParameters, Query()]
) -> Response:
    """Starts a Dagster backfill that aggregates every day of the range anew.

    Refused with 409 when one of the days is sealed, stored under another time zone, or about to be written by a run or
    a backfill that is under way.
    """
    first, last = day_range(parameters.start_date, parameters.end_date, default_end=context.yesterday(), default_days=1)
    await run_in_threadpool(_require_open, context, first, last, ("start_date", "end_date"))
    async with context.starting_runs():
        wanted = set(days_between(first, last))
        for work in await context.dagster.work_under_way():
            if wanted & work.days:
                raise _under_way(context, work.run_id or work.backfill_id or "", is_backfill=work.run_id is None)
        backfill_id = await context.dagster.start_backfill(first, last)
    return _accepted(
        {"status": "started", "backfill_id": backfill_id},
        f"/api/v1/backfills/{quote(backfill_id, safe='')}",
        context.dagster.backfill_url(backfill_id),
    )


@router.get(
    "/runs/{run_id}",
    summary="A run's state",
    dependencies=[Depends(may_read)],
    response_model=Run,
    responses=problems(401, 404, 422, 503),
)
async def run(
    context: Annotated[Context, Depends(context_of)],
    run_id: Annotated[str, Path(description="As the trigger, the ledger or the Dagster UI names it.")],
) -> Run:
    """A Dagster run of this code location, whoever started it."""
    found = await context.dagster.run(run_id)
    if found is None:
        raise ProblemError(
            HTTPStatus.NOT_FOUND, f"Dagster knows no run {run_id!r} of this pipeline.", kind="unknown-run"
        )
    return Run(
        run_id=found.run_id,
        job=found.job,
        status=found.status,
        is_finished=found.is_finished,
        start_date=found.days and found.days[0],
        end_date=found.days and found.days[1],
        created_at=found.created_at,
        started_at=found.started_at,
        ended_at=found.ended_at,
        error=await context.dagster.failure(run_id) if found.status == "failure" else None,
        ui_url=context.dagster.run_url(run_id),
    )


@router.get(
    "/backfills/{backfill_id}",
    summary="A backfill's state",
    dependencies=[Depends(may_read)],
    response_model=Backfill,
    responses=problems(401, 404, 422, 503),
)
async def backfill_state(
    context: Annotated[Context, Depends(context_of)],
    backfill_id: Annotated[str, Path(description="As the backfill's start or the Dagster UI names it.")],
) -> Backfill:
    """A Dagster backfill of the metrics, whoever started it, with the ids of its runs."""
    found = await context.dagster.backfill(backfill_id)
    if found is None:
        raise ProblemError(
            HTTPStatus.NOT_FOUND, f"Dagster knows no backfill {backfill_id!r} of the metrics.", kind="unknown-backfill"
        )
    return Backfill(
        backfill_id=found.backfill_id,
        status=found.status,
        is_finished=found.is_finished,
        start_date=found.days and found.days[0],
        end_date=found.days and found.days[1],
        created_at=found.created_at,
        ended_at=found.ended_at,
        run_ids=list(found.run_ids),
        error=found.error,
        ui_url=context.dagster.backfill_url(backfill_id),
    )


def _require_open(context: Context, first: date, last: date, fields: tuple[str, str]) -> None:
    """Ends the request unless every day has ended and may be aggregated."""
    settings, yesterday = context.settings, context.yesterday()
    if last > yesterday:
        raise not_acceptable(
            fields[1], f"{last} has not ended in {settings.time_zone}; the newest whole day is {yesterday}."
        )
    if first < settings.start_date:
        raise not_acceptable(fields[0], f"The first day of this pipeline is {settings.start_date}.")
    with context.database.connect() as connection:
        stored = ledger_rows(connection, first, last)
    for row in stored.values():
        closed = why_closed(row, settings.time_zone)
        if closed is not None:
            raise ProblemError(HTTPStatus.CONFLICT, closed.reason, kind=_CLOSED[closed.state])


async def _wait(context: Context, run_id: str) -> DagsterRun | None:
    """The run when it has ended; None if it takes longer than anybody waits."""
    deadline = time.monotonic() + context.dagster.wait_seconds
    while time.monotonic() < deadline:
        found = await context.dagster.run(run_id)
        if found is not None and found.is_finished:
            return found
        await asyncio.sleep(_POLL_SECONDS)
    return None


async def _failed(context: Context, ended: DagsterRun) -> ProblemError:
    reason = await context.dagster.failure(ended.run_id)
    return ProblemError(
        HTTPStatus.BAD_GATEWAY,
        f"Run {ended.run_id} ended as {ended.status}. "
        f"{reason or 'The day is not stored; the Dagster UI has the log of the run.'}",
        kind="run-failed",
        run_id=ended.run_id,
        ui_url=context.dagster.run_url(ended.run_id),
    )


def _agents_stored(context: Context, day: date) -> int | None:
    with context.database.connect() as connection:
        row = ledger_rows(connection, day, day).get(day)
    return None if row is None else row.agents


def _under_way(context: Context, id_: str, *, is_backfill: bool) -> ProblemError:
    kind = "backfill" if is_backfill else "run"
    return ProblemError(
        HTTPStatus.CONFLICT,
        f"Dagster's {kind} {id_} is about to write some of these days. Wait until it has ended.",
        kind="already-running",
        run_id=None if is_backfill else id_,
        ui_url=context.dagster.backfill_url(id_) if is_backfill else context.dagster.run_url(id_),
    )


def _accepted(body: dict[str, Any], status_url: str, ui_url: str) -> Response:
    return JSONResponse(
        body | {"status_url": status_url, "ui_url": ui_url},
        status_code=HTTPStatus.ACCEPTED,
        headers={"Location": status_url},
    )
