"""The API as programs meet it: uvicorn on a free port, asked by a real HTTP client."""

import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx2

from metrics_pipeline.api.app import build_app
from metrics_pipeline.api.server import build_server
from metrics_pipeline.postgres.database import Database
from metrics_pipeline.settings import Settings
from metrics_pipeline_tests.processes import HANGING_SECONDS

#: Yesterday is 2025-03-04, the DAY of metrics_pipeline_tests.days.
NOW = datetime(2025, 3, 5, 9, 30, tzinfo=UTC)

Serve = Callable[..., httpx2.Client]


@contextmanager
def serving(database: Database) -> Iterator[Serve]:
    """Starts a server over the database and returns a client for it. Further keywords are fields of Settings.

    `told` is given the server's own way to be told to stop, as SIGTERM does.
    """
    ends: list[Callable[[], object]] = []
    tests = database

    def start(
        *,
        now: datetime = NOW,
        dagster: Any = None,
        database: Database = tests,
        root_path: str = "",
        trusted_proxies: Sequence[str] = (),
        told: list[Callable[[], None]] | None = None,
        **settings: Any,
    ) -> httpx2.Client:
        app = build_app(Settings(Path("/nowhere"), **settings), database, dagster=dagster, now=lambda: now)
        server = build_server(app, log_config=None, root_path=root_path, trusted_proxies=trusted_proxies)
        server.config.port = 0
        if told is not None:
            told.append(lambda: server.handle_exit(signal.SIGTERM, None))
        thread = threading.Thread(target=server.run)
        thread.start()
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.005)
        port = server.servers[0].sockets[0].getsockname()[1]
        client = httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=HANGING_SECONDS, trust_env=False)
        ends.extend([client.close, lambda: setattr(server, "should_exit", True), thread.join])
        return client

    try:
        yield start
    finally:
        for end in ends:
            end()
