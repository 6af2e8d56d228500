"""What the endpoints share: settings, the pooled database, Dagster's webserver, and the clock."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import date, datetime
from functools import cached_property

from fastapi import Request
from sqlalchemy import text
from starlette.concurrency import run_in_threadpool

from metrics_pipeline.api.dagster_runs import DagsterRuns
from metrics_pipeline.logs.contract import SOURCE_TABLES, check_contract
from metrics_pipeline.logs.postgres_logs import PostgresLogs
from metrics_pipeline.metrics.windows import last_complete_day
from metrics_pipeline.names import API_RUNS_LOCK
from metrics_pipeline.postgres.database import Database
from metrics_pipeline.settings import Settings

_CONNECTIONS = 10
_STATEMENT_TIMEOUT_SECONDS = 30

_START_LOCK = text("SELECT pg_advisory_xact_lock(:key)").bindparams(key=API_RUNS_LOCK)


@dataclass
class Context:
    """One server's share of everything outside it. Making one opens no connection."""

    settings: Settings
    database: Database
    dagster: DagsterRuns
    now: Callable[[], datetime]
    _starting: asyncio.Lock = field(init=False, default_factory=asyncio.Lock)

    def __post_init__(self) -> None:
        self.database = self.database.for_reading(
            connections=_CONNECTIONS, statement_timeout_seconds=_STATEMENT_TIMEOUT_SECONDS
        )

    @cached_property
    def logs(self) -> PostgresLogs:
        """The source of logs; its contract is checked once. Raises ContractError where the logs cannot be read."""
        with self.database.connect() as connection:
            return PostgresLogs(self.database, check_contract(connection, SOURCE_TABLES))

    @asynccontextmanager
    async def starting_runs(self) -> AsyncIterator[None]:
        """Only one request at a time is in here, of all processes of the API.

        Of two that look for a running run at once, both would find none and start one.
        """
        # The first lock keeps the requests of this process from waiting for the second one with a connection each.
        async with self._starting:
            held = ExitStack()
            await run_in_threadpool(lambda: held.enter_context(self._start_lock()))
            try:
                yield
            finally:
                await run_in_threadpool(held.close)

    @contextmanager
    def _start_lock(self) -> Iterator[None]:
        with self.database.connect() as connection:
            connection.execute(_START_LOCK)
            yield

    def yesterday(self) -> date:
        """The newest whole day in METRICS_TIME_ZONE."""
        return last_complete_day(self.now(), self.settings.time_zone)


async def context_of(request: Request) -> Context:
    """The context of the request's server."""
    context: Context = request.app.state.context
    return context
