"""How uvicorn serves the application: limits for every client that can reach the port, with or without a token."""

import asyncio
import logging
import uuid
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

import h11
import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from metrics_pipeline.api.middleware import LARGEST_HEADERS_BYTES
from metrics_pipeline.api.problems import ProblemError, problem_response

# A service has 1,024 open files by default, and others than connections need some.
_MOST_CONNECTIONS = 800
#: In this time a request must arrive in whole.
_REQUEST_SECONDS = 10

_log = logging.getLogger("metrics_pipeline.api")


class _Protocol(H11Protocol):
    """A connection that ends if a request does not arrive in time, or if there are too many connections.

    A request that is not HTTP is answered with a problem, too.
    """

    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > _MOST_CONNECTIONS:
            _log.warning("A connection was closed: there are %s already.", _MOST_CONNECTIONS)
            transport.abort()
        else:
            self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._unwatch()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.conn.their_state not in (h11.IDLE, h11.SEND_BODY):
            self._unwatch()
        elif self._deadline is None:
            self._watch()

    def send_400_response(self, msg: str) -> None:
        self._refuse(HTTPStatus.BAD_REQUEST, msg)

    def _get_upgrade(self) -> None:
        # No protocol but HTTP/1.1: a request for another one is answered as if it did not ask.
        return None

    def _watch(self) -> None:
        self._deadline = self.loop.call_later(
            _REQUEST_SECONDS,
            self._refuse,
            HTTPStatus.REQUEST_TIMEOUT,
            f"The request did not arrive in whole within {_REQUEST_SECONDS} seconds.",
        )

    def _unwatch(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _refuse(self, status: HTTPStatus, detail: str) -> None:
        self._unwatch()
        # Only a request that has no answer yet can be answered.
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE) and not self.transport.is_closing():
            request_id = str(uuid.uuid4())
            _log.warning("%s", detail, extra={"request_id": request_id})
            answer = problem_response(request_id, ProblemError(status, detail))
            headers = [*answer.raw_headers, (b"x-request-id", request_id.encode()), (b"connection", b"close")]
            for event in (
                h11.Response(status_code=status, headers=headers, reason=status.phrase),
                h11.Data(data=bytes(answer.body)),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event))
        self.transport.close()


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
        http=_Protocol,
        ws="none",
        h11_max_incomplete_event_size=LARGEST_HEADERS_BYTES,
    )
    server = uvicorn.Server(config)
    # Requests that wait for a run must answer before the server stops, 10 seconds after it was told to.
    app.state.context.is_stopping = lambda: server.should_exit
    return server
