"""What surrounds every route: request id, access log, headers for browsers, HEAD and OPTIONS, undecoded agent ids."""

import logging
import re
import time
import uuid
from http import HTTPStatus

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from metrics_pipeline.api.problems import ProblemError, problem_response
from metrics_pipeline.api.traffic import Traffic

#: The request line and the headers together.
LARGEST_HEADERS_BYTES = 64 * 1024

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
_LOOPBACK = re.compile(r"(localhost|127\.0\.0\.1|\[::1\])(:\d+)?", re.ASCII | re.IGNORECASE)
_AGENT_PREFIX = "/api/v1/metrics/"
_BROWSER_HEADERS = (
    # A page that frames /docs could trick its visitor into pressing Execute there.
    (b"content-security-policy", b"frame-ancestors 'none'"),
    # Agent names and error types are foreign text: a browser must not read CSV or JSON with markup in it as HTML.
    (b"x-content-type-options", b"nosniff"),
    # No page of another site can load an answer as an image or a script.
    (b"cross-origin-resource-policy", b"same-origin"),
)

_access = logging.getLogger("metrics_pipeline.access")
_log = logging.getLogger("metrics_pipeline.api")


def request_log(app: ASGIApp, traffic: Traffic) -> ASGIApp:
    """The outermost layer: an id and a line in the access log for each request, its count, and a 500 for a defect.

    A well-formed X-Request-ID of the client is kept, otherwise one is generated; the response repeats it. Neither the
    query nor a header is logged: a client may have put a secret there.
    """

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        started = time.perf_counter()
        asked = Headers(scope=scope).get("x-request-id", "")
        request_id = asked if _REQUEST_ID.fullmatch(asked) else str(uuid.uuid4())
        state = scope.setdefault("state", {})
        state["request_id"] = request_id
        status = 0

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                # Nobody receives the error of a statement that was cancelled because the client went away.
                status = 0 if state.get("is_abandoned") else message["status"]
                headers = message["headers"]
                given = {name for name, _ in headers}
                headers += [header for header in _BROWSER_HEADERS if header[0] not in given]
                headers.append((b"x-request-id", request_id.encode()))
            await send(message)

        malformed = _malformed(scope)
        try:
            if malformed is not None:
                await problem_response(request_id, malformed)(scope, receive, send_with_headers)
            else:
                await app(scope, receive, send_with_headers)
        except Exception:
            _log.exception("A defect of this server ended a request", extra={"request_id": request_id})
            if status:
                raise  # the response has begun; the server cuts the connection
            error = ProblemError(
                HTTPStatus.INTERNAL_SERVER_ERROR,
                "A defect of this server; its log has the cause under this request_id.",
            )
            await problem_response(request_id, error)(scope, receive, send_with_headers)
        finally:
            seconds = time.perf_counter() - started
            traffic.answered(scope["method"], state.get("route"), status, seconds)
            _access.info(
                "request",
                extra={
                    "request_id": request_id,
                    "method": scope["method"],
                    "path": scope["path"],
                    "status": status,
                    "duration_ms": round(seconds * 1000, 3),
                    "client": scope["client"][0] if scope.get("client") else None,
                    "token": state.get("token_name"),
                },
            )

    return serve


def _malformed(scope: Scope) -> ProblemError | None:
    # Both refusals close the connection, so that what follows on it is not taken for another request.
    closing = {"Connection": "close"}
    names = {name for name, _ in scope["headers"]}
    if b"content-length" in names and b"transfer-encoding" in names:
        return ProblemError(
            HTTPStatus.BAD_REQUEST, "The request has both Content-Length and Transfer-Encoding.", headers=closing
        )
    # h11 limits headers that come in pieces, not those that come at once.
    headers = sum(len(name) + len(value) + 4 for name, value in scope["headers"])
    if headers + len(scope["raw_path"]) + len(scope["query_string"]) > LARGEST_HEADERS_BYTES:
        return ProblemError(
            HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
            f"Address and headers are larger than {LARGEST_HEADERS_BYTES:,} bytes.",
            headers=closing,
        )
    return None


def head_and_options(app: ASGIApp) -> ASGIApp:
    """Answers HEAD as GET without its body, and OPTIONS with the methods that the path allows."""

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        method = scope["method"] if scope["type"] == "http" else ""

        async def send_head(message: Message) -> None:
            if message["type"] == "http.response.body":
                # Pieces of a body would be empty, and only the last one ends the response.
                if message.get("more_body"):
                    return
                message = {"type": "http.response.body"}
            await send(message)

        is_allowed = False

        async def send_options(message: Message) -> None:
            nonlocal is_allowed
            if message["type"] == "http.response.start" and message["status"] == HTTPStatus.METHOD_NOT_ALLOWED:
                is_allowed = True
                allow = MutableHeaders(scope=message)["allow"]
                methods = sorted({*allow.split(", "), "OPTIONS", *(["HEAD"] if "GET" in allow else [])})
                message = {
                    "type": "http.response.start",
                    "status": HTTPStatus.NO_CONTENT,
                    "headers": [(b"allow", ", ".join(methods).encode())],
                }
            elif is_allowed:
                message = {"type": "http.response.body"}
            await send(message)

        if method == "HEAD":
            await app({**scope, "method": "GET"}, receive, send_head)
        elif method == "OPTIONS":
            await app(scope, receive, send_options)
        else:
            await app(scope, receive, send)

    return serve


def loopback_only(app: ASGIApp) -> ASGIApp:
    """Answers only requests whose Host is this machine's own, others with 400.

    Starlette's TrustedHostMiddleware answers in plain text, for which clients that are generated from the OpenAPI
    document would need a second type of errors.
    """

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not _LOOPBACK.fullmatch(Headers(scope=scope).get("host", "")):
            error = ProblemError(
                HTTPStatus.BAD_REQUEST,
                "A server without tokens answers only for localhost, 127.0.0.1 and [::1], and Host names another.",
            )
            await problem_response(scope["state"]["request_id"], error)(scope, receive, send)
        else:
            await app(scope, receive, send)

    return serve


def raw_agent_ids(app: ASGIApp) -> ASGIApp:
    """Routes paths below /api/v1/metrics/ as they were sent, before percent-decoding.

    Servers decode %2F to a slash. After that, an agent `x/summary` could not be told from the summary of agent `x`.
    Notes the route, which only the layer next to the router sees.
    """

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            sent = scope["raw_path"].decode("latin-1")
            # A proxy with a path prefix may remove the prefix or not.
            if sent.startswith((_AGENT_PREFIX, scope.get("root_path", "") + _AGENT_PREFIX)):
                scope = {**scope, "path": sent}
        try:
            await app(scope, receive, send)
        finally:
            if scope["type"] == "http":
                scope["state"]["route"] = getattr(scope.get("route"), "path", None)

    return serve
