"""The outermost layer: a request id for every request, its line in the access log, and the last catch for defects."""

import logging
import re
import time
import uuid
from http import HTTPStatus

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from metrics_pipeline.api.problems import ProblemError, problem_response

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")

_access = logging.getLogger("metrics_pipeline.access")
_log = logging.getLogger("metrics_pipeline.api")


class RequestLog:
    """Takes an X-Request-ID that is no more than an id, else makes one up; it is sent back and stands in the log.

    Neither the query nor a header is logged: a client may have put a secret there.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else str(uuid.uuid4())
        state = scope.setdefault("state", {})
        state["request_id"] = request_id
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["X-Request-ID"] = request_id
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except Exception:
            _log.exception("A defect of this server ended a request", extra={"request_id": request_id})
            if status:
                raise  # the answer has begun; the server cuts the connection
            error = ProblemError(
                HTTPStatus.INTERNAL_SERVER_ERROR,
                "A defect of this server; its log has the cause under this request_id.",
            )
            await problem_response(request_id, error)(scope, receive, send_with_id)
        finally:
            _access.info(
                "request",
                extra={
                    "request_id": request_id,
                    "method": scope["method"],
                    "path": scope["path"],
                    "status": status,
                    "duration_ms": round((time.perf_counter() - started) * 1000, 3),
                    "client": scope["client"][0] if scope.get("client") else None,
                    "token": state.get("token_name"),
                },
            )
