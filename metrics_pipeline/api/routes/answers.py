"""What the documentation says of every list, and how one is sent."""

from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

from pydantic import BaseModel
from starlette.responses import Response

from metrics_pipeline.api.conditions import CACHING, EntityTags, content_version
from metrics_pipeline.api.formats import Format, render_rows
from metrics_pipeline.api.problems import problems
from metrics_pipeline.store.answers.rows import Rows

_TAG_HEADER = {
    "ETag": {
        "description": "The version of the answer; sent back as If-None-Match it is answered with 304 while it holds.",
        "schema": {"type": "string"},
    }
}
_LINK_HEADER = {
    "Link": {
        "description": "The next and the previous page as relative references (RFC 8288), if there are any.",
        "schema": {"type": "string"},
    }
}
_NOT_MODIFIED: dict[int | str, dict[str, Any]] = {
    304: {"description": "What the asker holds (If-None-Match) is still right.", "headers": _TAG_HEADER}
}


def list_responses(model: type[BaseModel], *statuses: int, is_paged: bool = True) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route that answers with a list of `model`, and with problems of these statuses."""
    headers = _TAG_HEADER | (_LINK_HEADER if is_paged else {})
    return {
        200: {
            "description": "The rows, as a JSON array, as NDJSON or as CSV.",
            "headers": headers,
            "content": {
                "application/x-ndjson": {"schema": {"type": "string", "description": f"A {model.__name__} a line."}},
                "text/csv": {"schema": {"type": "string", "description": "A line of column names, then one a row."}},
            },
        },
        **_NOT_MODIFIED,
        **problems(401, 406, 422, 503, *statuses),
    }


def object_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route that answers with one versioned object, and with problems of these statuses."""
    return {200: {"headers": _TAG_HEADER}, **_NOT_MODIFIED, **problems(401, 422, 503, *statuses)}


def versioned_headers(tags: EntityTags, version: str) -> dict[str, str]:
    """The headers of an answer that can be asked for again with If-None-Match."""
    return {"ETag": tags.tag(version), **CACHING}


def not_modified(tags: EntityTags, version: str) -> Response:
    """304: the asker holds this version."""
    return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=versioned_headers(tags, version))


def send_rows(
    rows: Rows, columns: Sequence[str], form: Format, if_none_match: str | None, headers: dict[str, str]
) -> Response:
    """Rows whose version is their own content, or 304."""
    tags = EntityTags(form, headers)
    version = content_version(map(repr, rows))
    if version in tags.held(if_none_match):
        return not_modified(tags, version)
    return render_rows(rows, columns, form, headers | versioned_headers(tags, version))
