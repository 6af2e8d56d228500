"""Conditional requests: entity tags, and the 304 for who holds the present state."""

import hashlib
import re
from collections.abc import Iterable

from metrics_pipeline import __version__

_TAG = re.compile(r'(?:W/)?"([^"]*)"')

#: Answers may be kept by their asker, who asks each time whether they still hold.
CACHING = {"Cache-Control": "private, no-cache", "Vary": "Accept, Authorization"}


class EntityTags:
    """The tags of one resource in one form: a version of its data, and a digest of all else that shapes the answer."""

    def __init__(self, *shape: object) -> None:
        self._shape = hashlib.sha256(repr((__version__, *map(str, shape))).encode()).hexdigest()[:16]

    def tag(self, version: str) -> str:
        """The tag of a version. Weak, as a proxy may compress the answer."""
        return f'W/"{version}.{self._shape}"'

    def held(self, if_none_match: str | None) -> list[str]:
        """The versions of this resource that the asker holds."""
        tags = [tag.rpartition(".") for tag in _TAG.findall(if_none_match or "")]
        return [version for version, _, shape in tags if shape == self._shape]


def content_version(parts: Iterable[str]) -> str:
    """The version of data that has no other sign of change than itself."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.encode())
        digest.update(b"\n")
    return digest.hexdigest()
