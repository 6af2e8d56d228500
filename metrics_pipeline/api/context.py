"""What the endpoints share: settings, the pooled database, Dagster's webserver, and the clock."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import date, datetime
from threading import Lock
from typing import Annotated

from anyio import CapacityLimiter
from fastapi import Depends, Request
from fastapi.concurrency import contextmanager_in_threadpool
from sqlalchemy import text

from metrics_pipeline.api.dagster_runs import DagsterRuns, DagsterUnavailableError
from metrics_pipeline.api.windows import Windows
from metrics_pipeline.metrics.reconciliation import DayVerdict, LedgerRow
from metrics_pipeline.metrics.windows import days_between, last_complete_day
from metrics_pipeline.names import API_RUNS_LOCK
from metrics_pipeline.pipeline.reconciling import judge_days
from metrics_pipeline.postgres.database import Database
from metrics_pipeline.settings import Settings
from metrics_pipeline.store.answers.windows import judgement_version
from metrics_pipeline.store.ledger import ledger_rows

#: A day's verdict, and its row in the ledger; None for a day that was never aggregated.
JudgedDay = tuple[DayVerdict, LedgerRow | None]

# Ten connections together. Those of readiness, of monitoring and of slow answers are their own, so that each of these
# answers also while the others are all in use.
_CONNECTIONS = 6
_SLOW_CONNECTIONS = 2
_STATEMENT_TIMEOUT_SECONDS = 30
#: Before a load balancer or Prometheus gives up.
_MONITORING_SECONDS = 5
_MONITORING_THREADS = 20
_KEPT_JUDGEMENTS = 20

# Tried again and again, because a statement that waits would end with its timeout, as if the database were at fault.
_TRY_START_LOCK = text("SELECT pg_try_advisory_xact_lock(:key)").bindparams(key=API_RUNS_LOCK)
_START_SECONDS = 30
_START_POLL_SECONDS = 0.1
_OTHERS_WAIT = "Requests that came before this one wait for Dagster, which does not answer them. Nothing was started."


@dataclass
class Context:
    """Everything outside the process that the routes of one server use. Creating it opens no connection."""

    settings: Settings
    #: For answers that take milliseconds.
    database: Database
    dagster: DagsterRuns
    now: Callable[[], datetime]
    #: Whether the server was told to stop. Whoever serves the application sets it.
    is_stopping: Callable[[], bool] = field(init=False, default=lambda: False)
    #: Those that no slow answer uses now. api.slow_answers lends them.
    slow_databases: asyncio.Queue[Database] = field(init=False, default_factory=asyncio.Queue)
    #: The threads of readiness and monitoring, which do not wait for those of other answers.
    monitoring_threads: CapacityLimiter = field(
        init=False, default_factory=lambda: CapacityLimiter(_MONITORING_THREADS)
    )
    _judged: dict[tuple[date, date, str], list[JudgedDay]] = field(init=False, default_factory=dict)
    _keeping: Lock = field(init=False, default_factory=Lock)
    windows: Windows = field(init=False, default_factory=Windows)
    _starting: asyncio.Lock = field(init=False, default_factory=asyncio.Lock)

    def __post_init__(self) -> None:
        given, seconds = self.database, _STATEMENT_TIMEOUT_SECONDS
        self.database = given.for_reading(connections=_CONNECTIONS, statement_timeout_seconds=seconds)
        self.readiness, self.monitoring = (
            given.for_reading(connections=1, statement_timeout_seconds=_MONITORING_SECONDS) for _ in range(2)
        )
        slow = [given.for_reading(connections=1, statement_timeout_seconds=seconds) for _ in range(_SLOW_CONNECTIONS)]
        for database in slow:
            self.slow_databases.put_nowait(database)
        self._databases = [self.database, self.readiness, self.monitoring, *slow]

    async def watch_the_database(self) -> None:
        """Ends what waits for a frozen server, until it is cancelled."""
        while True:
            await asyncio.sleep(1)
            for database in self._databases:
                database.give_up_statements()

    async def close(self) -> None:
        """Closes every connection."""
        await self.dagster.close()
        for database in self._databases:
            database.engine.dispose()

    @asynccontextmanager
    async def starting_runs(self) -> AsyncIterator[None]:
        """Lets one request at a time in, across all processes of the API.

        Otherwise two requests could both look for a running run, find none, and start one each. Raises
        DagsterUnavailableError if those before do not end within 30 seconds: they wait for Dagster.
        """
        # Requests of this process wait for the first lock, so that they do not hold a connection each for the second.
        try:
            async with asyncio.timeout(_START_SECONDS):
                await self._starting.acquire()
        except TimeoutError as error:
            raise DagsterUnavailableError(_OTHERS_WAIT) from error
        try:
            async with contextmanager_in_threadpool(self._start_lock()):
                yield
        finally:
            self._starting.release()

    @contextmanager
    def _start_lock(self) -> Iterator[None]:
        deadline = time.monotonic() + _START_SECONDS
        with self.database.connect() as connection:
            while not connection.scalar(_TRY_START_LOCK):
                if time.monotonic() >= deadline:
                    raise DagsterUnavailableError(_OTHERS_WAIT)
                time.sleep(_START_POLL_SECONDS)
            yield

    def judged_days(self, database: Database, first: date, last: date) -> list[JudgedDay]:
        """Each day from `first` to `last`, oldest first, from one snapshot of our tables. Reads no logs.

        Only Dagster knows which days a run is about to write, so no day is called running here. The same days are not
        judged again while nothing is stored.
        """
        with database.snapshot() as snapshot:
            key = (first, last, judgement_version(snapshot, first, last))
            judged = self._judged.get(key)
            if judged is None:
                ledger = ledger_rows(snapshot, first, last)
                verdicts = judge_days(snapshot, days_between(first, last), self.settings.time_zone)
                judged = [(verdict, ledger.get(verdict.metric_date)) for verdict in verdicts]
                with self._keeping:
                    self._judged[key] = judged
                    while len(self._judged) > _KEPT_JUDGEMENTS:
                        del self._judged[next(iter(self._judged))]
        return judged

    def yesterday(self) -> date:
        """The newest whole day in METRICS_TIME_ZONE."""
        return last_complete_day(self.now(), self.settings.time_zone)


async def context_of(request: Request) -> Context:
    """The context of the request's server."""
    context: Context = request.app.state.context
    return context


#: The parameter of a route that needs the context.
ApiContext = Annotated[Context, Depends(context_of)]
