"""Servers of the API over the test's database, and a stand-in for Dagster's webserver."""

import threading
from collections.abc import Iterator

import httpx2
import pytest

from metrics_pipeline.postgres.database import Database

from .serving import Serve, serving
from .webserver import Webserver


@pytest.fixture
def serve(database: Database) -> Iterator[Serve]:
    """Starts a server over the test's database and returns a client for it. Keywords are fields of Settings."""
    with serving(database) as serve:
        yield serve


@pytest.fixture
def api(serve: Serve) -> httpx2.Client:
    """A client of a server without tokens, at NOW."""
    return serve()


@pytest.fixture
def webserver() -> Iterator[Webserver]:
    webserver = Webserver()
    thread = threading.Thread(target=webserver.server.serve_forever)
    thread.start()
    yield webserver
    webserver.server.shutdown()
    thread.join()
    webserver.server.server_close()
