"""Bearer tokens and their roles, and what protects a server without tokens."""

import hashlib
import hmac
from http import HTTPStatus
from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import HTTPBearer

from metrics_pipeline.api.context import context_of
from metrics_pipeline.api.problems import ProblemError
from metrics_pipeline.variables import ApiToken

# Asked by hand and not as a dependency: each of those takes 3 % of a short answer's time. problems.py documents it.
_BEARER = HTTPBearer(auto_error=False)

_FORWARDED = ("forwarded", "via", "x-real-ip")


async def may_read(request: Request) -> ApiToken | None:
    """The token of the request; None on a server without tokens. Ends the request with 401 if we do not know it."""
    known = (await context_of(request)).settings.api_tokens
    if not known:
        if any(name in _FORWARDED or name.startswith("x-forwarded-") for name in request.headers):
            # Behind a proxy on this machine every client of the network has a loopback address and host.
            raise ProblemError(
                HTTPStatus.FORBIDDEN,
                "A proxy forwarded this request, and this server has no tokens: it serves its own machine only. Set "
                "METRICS_API_TOKENS.",
            )
        return None
    credentials = await _BEARER(request)
    # If there are two headers, a proxy may have checked the one that is not read here.
    is_only_one = len(request.headers.getlist("authorization")) == 1
    presented = credentials.credentials if credentials and is_only_one else ""
    token = _token_of(presented, known)
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
                "This token may read, but not start runs.",
                headers={"WWW-Authenticate": 'Bearer error="insufficient_scope"'},
            )
    # Without tokens, any page in a browser on this machine could send this request. The browser names the page's site.
    elif (origin := request.headers.get("origin")) is not None and origin.partition("://")[2] != request.headers.get(
        "host"
    ):
        raise ProblemError(HTTPStatus.FORBIDDEN, "Runs cannot be started from another site's page.")


def _token_of(presented: str, tokens: tuple[ApiToken, ...]) -> ApiToken | None:
    digest = hashlib.sha256(presented.encode()).digest()
    # Compares every token, so that the duration does not reveal which one matched.
    found = None
    for token in tokens:
        if hmac.compare_digest(digest, token.sha256):
            found = token
    return found
