"""Who may do what: bearer tokens, and what protects a server without any."""

import hashlib
import hmac
import ipaddress
from http import HTTPStatus
from typing import Annotated
from urllib.parse import urlsplit

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from metrics_pipeline.api.context import Context, context_of
from metrics_pipeline.api.problems import ProblemError, problem_response
from metrics_pipeline.settings import ApiToken

_BEARER = HTTPBearer(
    auto_error=False,
    description="One of METRICS_API_TOKENS. A server without tokens serves its own machine only, and asks for none.",
)


async def may_read(
    request: Request,
    context: Annotated[Context, Depends(context_of)],
    credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_BEARER)],
) -> ApiToken | None:
    """The token of the request, None on a server without tokens. Ends the request with 401 if it has none of ours."""
    if not context.settings.api_tokens:
        return None
    # Of two, a proxy may have judged the one that is not read here.
    is_only_one = len(request.headers.getlist("authorization")) == 1
    presented = credentials.credentials if credentials and is_only_one else ""
    token = _token_of(presented, context.settings.api_tokens)
    if token is None:
        raise ProblemError(
            HTTPStatus.UNAUTHORIZED,
            "Send a token that this server knows, as `Authorization: Bearer TOKEN`.",
            headers={"WWW-Authenticate": "Bearer" if credentials is None else 'Bearer error="invalid_token"'},
        )
    request.state.token_name = token.name
    return token


async def may_trigger(request: Request, token: Annotated[ApiToken | None, Depends(may_read)]) -> None:
    """Ends the request with 403 unless it may start runs."""
    if token is not None:
        if not token.may_trigger:
            raise ProblemError(
                HTTPStatus.FORBIDDEN,
                "This token may read, and not start runs.",
                headers={"WWW-Authenticate": 'Bearer error="insufficient_scope"'},
            )
    # Without tokens a browser on this machine would lend its reach to any page: it names the page's site.
    elif (origin := request.headers.get("origin")) is not None and origin.partition("://")[2] != request.headers.get(
        "host"
    ):
        raise ProblemError(HTTPStatus.FORBIDDEN, "Runs cannot be started from another site's page.")


def _token_of(presented: str, tokens: tuple[ApiToken, ...]) -> ApiToken | None:
    digest = hashlib.sha256(presented.encode()).digest()
    # Every token is compared, so that the time tells nothing of which one it was.
    found = None
    for token in tokens:
        if hmac.compare_digest(digest, token.sha256):
            found = token
    return found


class LoopbackHosts:
    """Answers only requests whose Host is this machine's loopback.

    For a server without tokens: a page of another site could have its own name resolve to 127.0.0.1, and read on.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hands the request on, or answers 400."""
        if scope["type"] == "http" and not is_loopback(_host_of(Headers(scope=scope))):
            error = ProblemError(
                HTTPStatus.BAD_REQUEST, "Without METRICS_API_TOKENS this server answers as localhost or 127.0.0.1 only."
            )
            await problem_response(scope["state"]["request_id"], error)(scope, receive, send)
            return
        await self._app(scope, receive, send)


def is_loopback(host: str) -> bool:
    """Whether a name or an address can only mean this machine."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _host_of(headers: Headers) -> str:
    try:
        return urlsplit(f"//{headers.get('host', '')}").hostname or ""
    except ValueError:
        return ""
