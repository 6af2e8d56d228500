"""Conditional requests: entity tags, If-None-Match and 304."""

import hashlib
import re
from http import HTTPStatus

from starlette.requests import Request
from starlette.responses import Response

from metrics_pipeline import __version__

_TAG = re.compile(r'(?:W/)?"([^"]*?)(?:[-;](?:gzip|br|zstd|deflate))?"')


class EntityTags:
    """The tags of one resource in one format: a version of its data, and a digest of all else that shapes the answer.

    held: the versions of this resource that the client names in If-None-Match. A compressing proxy may have added
    -gzip or the like to a tag.
    """

    def __init__(self, request: Request, *shape: object) -> None:
        self._shape = hashlib.sha256(repr((__version__, *map(str, shape))).encode()).hexdigest()[:16]
        named = ", ".join(request.headers.getlist("if-none-match"))
        tags = [tag.rpartition(".") for tag in _TAG.findall(named)]
        self.held = [version for version, _, shape in tags if shape == self._shape]
        self._holds_any = named.strip() == "*"

    def holds(self, version: str) -> bool:
        """Whether the client holds this version, or says by * that it holds whichever is current."""
        return self._holds_any or version in self.held

    def headers(self, version: str) -> dict[str, str]:
        """The headers of an answer that clients may cache, but must revalidate."""
        # Weak, as a proxy may compress the answer.
        tag = f'W/"{version}.{self._shape}"'
        return {"ETag": tag, "Cache-Control": "private, no-cache", "Vary": "Accept, Authorization"}

    def not_modified(self, version: str) -> Response:
        """304: the client holds this version."""
        return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=self.headers(version))
