"""How uvicorn serves the application: limits for every client that can reach the port, with or without a token."""

from typing import Any

import uvicorn
from fastapi import FastAPI

_LARGEST_HEADERS_BYTES = 64 * 1024


def server_config(app: FastAPI, log_config: dict[str, Any] | None) -> uvicorn.Config:
    """The configuration of the server, without its address."""
    return uvicorn.Config(
        app,
        log_config=log_config,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=10,
        # httptools, uvicorn's default if it is installed, buffers headers without a limit: 100 MB sent took 100 MB of
        # memory. h11 costs 0.3 ms a request.
        http="h11",
        h11_max_incomplete_event_size=_LARGEST_HEADERS_BYTES,
    )
