"""How uvicorn serves the application: limits for every client that can reach the port, with or without a token."""

from collections.abc import Sequence
from typing import Any

import uvicorn
from fastapi import FastAPI

_LARGEST_HEADERS_BYTES = 64 * 1024


def build_server(
    app: FastAPI, log_config: dict[str, Any] | None, *, root_path: str = "", trusted_proxies: Sequence[str] = ()
) -> uvicorn.Server:
    """The server, without its address.

    `root_path` is the path prefix that a proxy removes. Only `trusted_proxies`, addresses or networks, may say who the
    client is.
    """
    config = uvicorn.Config(
        app,
        root_path=root_path,
        proxy_headers=bool(trusted_proxies),
        forwarded_allow_ips=list(trusted_proxies),
        log_config=log_config,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=10,
        # httptools, uvicorn's default if it is installed, buffers headers without a limit: 100 MB sent took 100 MB of
        # memory. h11 costs 0.3 ms a request.
        http="h11",
        h11_max_incomplete_event_size=_LARGEST_HEADERS_BYTES,
    )
    server = uvicorn.Server(config)
    # Requests that wait for a run must answer before the server stops, 10 seconds after it was told to.
    app.state.context.is_stopping = lambda: server.should_exit
    return server
