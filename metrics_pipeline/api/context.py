"""What the endpoints share: settings, the pooled database, Dagster's webserver, and the clock."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Annotated

from fastapi import Depends, Request
from fastapi.concurrency import contextmanager_in_threadpool
from sqlalchemy import text

from metrics_pipeline.api.dagster_runs import DagsterRuns
from metrics_pipeline.metrics.reconciliation import DayVerdict, LedgerRow
from metrics_pipeline.metrics.windows import days_between, last_complete_day
from metrics_pipeline.names import API_RUNS_LOCK
from metrics_pipeline.pipeline.reconciling import judge_days
from metrics_pipeline.postgres.database import Database
from metrics_pipeline.settings import Settings
from metrics_pipeline.store.ledger import ledger_rows

#: A day's verdict, and its row in the ledger; None for a day that was never aggregated.
JudgedDay = tuple[DayVerdict, LedgerRow | None]

_CONNECTIONS = 10
_STATEMENT_TIMEOUT_SECONDS = 30

_START_LOCK = text("SELECT pg_advisory_xact_lock(:key)").bindparams(key=API_RUNS_LOCK)


@dataclass
class Context:
    """Everything outside the process that the routes of one server use. Creating it opens no connection."""

    settings: Settings
    database: Database
    dagster: DagsterRuns
    now: Callable[[], datetime]
    _starting: asyncio.Lock = field(init=False, default_factory=asyncio.Lock)

    def __post_init__(self) -> None:
        self.database = self.database.for_reading(
            connections=_CONNECTIONS, statement_timeout_seconds=_STATEMENT_TIMEOUT_SECONDS
        )

    @asynccontextmanager
    async def starting_runs(self) -> AsyncIterator[None]:
        """Lets one request at a time in, across all processes of the API.

        Otherwise two requests could both look for a running run, find none, and start one each.
        """
        # Requests of this process wait for the first lock, so that they do not hold a connection each for the second.
        async with self._starting, contextmanager_in_threadpool(self._start_lock()):
            yield

    @contextmanager
    def _start_lock(self) -> Iterator[None]:
        with self.database.connect() as connection:
            connection.execute(_START_LOCK)
            yield

    def judged_days(self, first: date, last: date) -> list[JudgedDay]:
        """Each day from `first` to `last`, oldest first, from one snapshot of our tables. Reads no logs.

        Only Dagster knows which days a run is about to write, so no day is called running here.
        """
        with self.database.snapshot() as snapshot:
            ledger = ledger_rows(snapshot, first, last)
            verdicts = judge_days(snapshot, days_between(first, last), self.settings.time_zone)
        return [(verdict, ledger.get(verdict.metric_date)) for verdict in verdicts]

    def yesterday(self) -> date:
        """The newest whole day in METRICS_TIME_ZONE."""
        return last_complete_day(self.now(), self.settings.time_zone)


async def context_of(request: Request) -> Context:
    """The context of the request's server."""
    context: Context = request.app.state.context
    return context


#: The parameter of a route that needs the context.
ApiContext = Annotated[Context, Depends(context_of)]
