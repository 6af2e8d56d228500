"""Assembles the application: routes, middleware and documentation."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime

from fastapi import FastAPI
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware

from metrics_pipeline import __version__
from metrics_pipeline.api.context import Context
from metrics_pipeline.api.dagster_runs import DagsterRuns
from metrics_pipeline.api.documentation import install_documentation
from metrics_pipeline.api.gauges import Gauges
from metrics_pipeline.api.middleware import head_and_options, loopback_only, raw_agent_ids, request_log
from metrics_pipeline.api.pages import install_page
from metrics_pipeline.api.problems import install_problems, problems
from metrics_pipeline.api.routes import (
    activity,
    alerts,
    changes,
    comparison,
    coverage,
    latencies,
    metrics,
    operations,
    records,
    runs,
)
from metrics_pipeline.api.silence import SilenceWatch
from metrics_pipeline.api.traffic import Traffic
from metrics_pipeline.postgres.database import Database
from metrics_pipeline.settings import Settings

#: Where a server without tokens may listen, and the only hosts that it answers for.
LOOPBACK_HOSTS = ("localhost", "127.0.0.1", "::1")

_DESCRIPTION = """
The daily metrics of AI agents, exact to the last digit.

- **Money and rates** are JSON numbers with the digits of the database. Read them as decimals, not as binary floats.
- **Lists** come as JSON, NDJSON or CSV: `format=csv`, or an `Accept` header.
- **Every list and summary has an ETag.** Sent as `If-None-Match`, it is answered with 304 while nothing changed.
- **Errors** are problem details (RFC 9457) that name the wrong parameter.
- **A missing day was not computed**: `GET /api/v1/coverage` tells the state of every day.
"""

_TAGS = [
    {"name": "metrics", "description": "One agent's days, its summary, and all agents of a day."},
    {"name": "agents", "description": "The agents that have metrics."},
    {"name": "alerts", "description": "What is unusual about an agent, the fleet or the pipeline."},
    {"name": "days", "description": "The state of each day, and the stored values that were replaced."},
    {"name": "runs", "description": "Dagster runs that aggregate days."},
    {"name": "operations", "description": "For monitoring. Health and readiness need no token."},
]


def build_app(
    settings: Settings,
    database: Database,
    *,
    dagster: DagsterRuns | None = None,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> FastAPI:
    """The API over a database. It does not connect before the first request needs it.

    Without tokens in the settings, it answers only requests whose Host is one of LOOPBACK_HOSTS, and that no proxy
    forwarded.
    """
    context = Context(settings, database, dagster or DagsterRuns(settings.dagster_webserver_url, settings.ui_url), now)

    silence = SilenceWatch(context)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        watches = [asyncio.create_task(watch) for watch in (context.watch_the_database(), silence.run())]
        yield
        for watch in watches:
            watch.cancel()
        await context.close()

    traffic = Traffic()
    layers = [
        Middleware(request_log, traffic=traffic),
        Middleware(head_and_options),
        # Level 5 takes a third of the time of level 9, and its answers are 2 % larger.
        Middleware(GZipMiddleware, minimum_size=1000, compresslevel=5),
        Middleware(raw_agent_ids),
    ]
    if not settings.api_tokens:
        # A page of another site could resolve its own name to 127.0.0.1 and read the answers.
        layers.append(Middleware(loopback_only))
    app = FastAPI(
        title="metrics_pipeline",
        version=__version__,
        description=_DESCRIPTION,
        openapi_tags=_TAGS,
        responses=problems(400),
        lifespan=lifespan,
        middleware=layers,
        docs_url=None,
        redoc_url=None,
        generate_unique_id_function=lambda route: route.name,
        redirect_slashes=False,  # an agent id may end in a slash
    )
    app.state.context = context
    app.state.silence = silence
    app.state.gauges = Gauges(context, traffic)
    install_problems(app, needs_token=bool(settings.api_tokens))
    # The runs and the comparison come before the metrics, whose paths match any agent id.
    for family in (operations, runs, comparison, metrics, activity, latencies, records, alerts, coverage, changes):
        app.include_router(family.router)
    install_documentation(app)
    install_page(app)
    return app
