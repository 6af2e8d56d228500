"""The bulkhead of slow answers: how many at once, how long others wait, and their end if the client goes."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from http import HTTPStatus
from typing import Annotated

from fastapi import Depends, Request

from metrics_pipeline.api.context import ApiContext
from metrics_pipeline.api.problems import ProblemError
from metrics_pipeline.postgres.database import Database

_WAIT_SECONDS = 20
#: A route may run several statements: each is cancelled.
_CANCEL_EVERY_SECONDS = 0.1


async def lease_slow_database(request: Request, context: ApiContext) -> AsyncIterator[Database]:
    """A database with one connection, of which there are as many as slow answers may be computed at once.

    A request that waits for one holds neither a thread nor a connection. Raises ProblemError (503) after 20 seconds.
    When the client goes, the server's statement is cancelled.
    """
    free = context.slow_databases
    try:
        async with asyncio.timeout(_WAIT_SECONDS):
            database = await free.get()
    except TimeoutError as error:
        raise ProblemError(
            HTTPStatus.SERVICE_UNAVAILABLE,
            "Other requests for windows and days are being computed, or wait for the database. Ask again, or for fewer "
            "days at a time.",
            kind="busy",
            headers={"Retry-After": "10"},
        ) from error
    ended = asyncio.Event()
    watch = asyncio.create_task(_cancel_if_abandoned(request, database, ended))
    try:
        yield database
    finally:
        ended.set()
        if not getattr(request.state, "is_abandoned", False):
            watch.cancel()
        with suppress(asyncio.CancelledError):
            await watch
        free.put_nowait(database)


async def _cancel_if_abandoned(request: Request, database: Database, ended: asyncio.Event) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
    request.state.is_abandoned = True
    while not ended.is_set():
        await asyncio.to_thread(database.cancel_statements)
        with suppress(TimeoutError):
            await asyncio.wait_for(ended.wait(), _CANCEL_EVERY_SECONDS)
    # A cancellation that comes late would hit the next request, if it had the same connection.
    await asyncio.to_thread(database.engine.dispose)


#: The parameter of a slow route. It is given back before the answer is sent, however slowly the client reads.
SlowDatabase = Annotated[Database, Depends(lease_slow_database, scope="function")]
