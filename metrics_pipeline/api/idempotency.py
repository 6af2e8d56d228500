"""Idempotency-Key: a request that is repeated with the same key starts nothing twice, also after a restart.

Dagster keeps the key and the request as tags of the run or backfill that the first request started.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Annotated

from fastapi import Header, Request
from pydantic import WithJsonSchema

from metrics_pipeline.api.problems import FieldError, ProblemError
from metrics_pipeline.names import IDEMPOTENCY_KEY_TAG, IDEMPOTENT_REQUEST_TAG

_LONGEST = 255

#: The parameter of a route that takes a key.
IdempotencyKey = Annotated[
    str | None,
    Header(
        min_length=1,
        max_length=_LONGEST,
        description="Any text that is new for each thing to do, for example a UUID. A request that is repeated with it "
        "starts nothing: it names what the first one started.",
    ),
    WithJsonSchema({"type": "string", "minLength": 1, "maxLength": _LONGEST}),
]


@dataclass(frozen=True)
class KeyedRequest:
    """A request with a key. key: a digest of it and of the token's name. request: what the request asks for."""

    key: str
    request: str

    @classmethod
    def of(cls, request: Request, key: str | None, asked: str) -> "KeyedRequest | None":
        """None without a key. Raises ProblemError (422) for two keys."""
        if len(request.headers.getlist("idempotency-key")) > 1:
            raise _refused("is given more than once. Give it once.")
        if key is None:
            return None
        token = getattr(request.state, "token_name", "")
        return cls(hashlib.sha256(f"{token}\n{key}".encode()).hexdigest(), asked)

    @property
    def tags(self) -> dict[str, str]:
        """The tags of what this request starts."""
        return {IDEMPOTENCY_KEY_TAG: self.key, IDEMPOTENT_REQUEST_TAG: self.request}

    def require_same(self, tags: Mapping[str, str]) -> None:
        """Raises ProblemError (422) if what has these tags was started by another request with the same key."""
        if tags[IDEMPOTENT_REQUEST_TAG] != self.request:
            raise _refused("was used for another request. Use a new key for each thing to do.")


def _refused(detail: str) -> ProblemError:
    return ProblemError(
        HTTPStatus.UNPROCESSABLE_ENTITY,
        f"Idempotency-Key: {detail}",
        kind="idempotency-key",
        errors=[FieldError(field="idempotency-key", location="header", detail=detail)],
    )
