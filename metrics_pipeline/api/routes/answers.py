"""What the documentation says of lists and of versioned objects, and how a list is sent."""

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from metrics_pipeline.api.conditions import EntityTags
from metrics_pipeline.api.formats import DECIMALS_AS_TEXT, Form, render_rows
from metrics_pipeline.api.parameters import PageParameters
from metrics_pipeline.api.problems import problems
from metrics_pipeline.store.answers.rows import Page

_TAG_HEADER = {
    "ETag": {
        "description": "The version of the answer. Sent as If-None-Match, it is answered with 304 while it is current.",
        "schema": {"type": "string"},
    }
}
_PAGE_HEADERS = {
    "X-Total-Count": {"description": "The rows of all pages together.", "schema": {"type": "integer"}},
    "Link": {
        "description": "The next and the previous page as relative references (RFC 8288), if there are any.",
        "schema": {"type": "string"},
    },
}
_NOT_MODIFIED: dict[int | str, dict[str, Any]] = {
    304: {"description": "The version in If-None-Match is still current.", "headers": _TAG_HEADER}
}


def list_responses(model: type[BaseModel], *statuses: int, is_paged: bool = True) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route that answers with a list of `model`, and with problems of these statuses."""
    headers = _TAG_HEADER | (_PAGE_HEADERS if is_paged else {})
    return {
        200: {
            "description": "The rows, as a JSON array, as NDJSON or as CSV.",
            "headers": headers,
            "content": {
                "application/x-ndjson": {"schema": {"type": "string", "description": f"A {model.__name__} a line."}},
                "text/csv": {"schema": {"type": "string", "description": "A line of column names, then one a row."}},
                **text_decimals({"type": "array", "items": {"type": "object"}}),
            },
        },
        **_NOT_MODIFIED,
        **problems(401, 406, 422, 503, *([409] if is_paged else []), *statuses),
    }


def object_responses(*statuses: int, has_decimals: bool = False) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route that answers with one versioned object, and with problems of these statuses."""
    content = {"content": text_decimals({"type": "object"})} if has_decimals else {}
    return {200: {"headers": _TAG_HEADER, **content}, **_NOT_MODIFIED, **problems(401, 406, 422, 503, *statuses)}


def text_decimals(schema: dict[str, Any]) -> dict[str, Any]:
    """The `content` of an answer with decimals=string. It is described loosely, so that no schema comes twice."""
    meaning = "As application/json, but numbers of the format decimal are strings: decimals=string."
    return {DECIMALS_AS_TEXT: {"schema": {**schema, "description": meaning}}}


def send_rows(
    request: Request, rows: Sequence[str], columns: Iterable[str], form: Form, headers: dict[str, str]
) -> Response:
    """Rows whose version is their own content, or 304. `headers` are those of a page."""
    tags = EntityTags(request, form, headers)
    version = hashlib.sha256("\n".join(rows).encode()).hexdigest()
    if tags.holds(version):
        return tags.not_modified(version)
    return render_rows(rows, columns, form, headers | tags.headers(version))


def send_page(request: Request, page: Page, model: type[BaseModel], form: Form, parameters: PageParameters) -> Response:
    """A page of a list, or 304. Raises ProblemError (409) if the client comes from another state of the list."""
    parameters.require_same_list(page.version, request.query_params)
    headers = parameters.page_headers(request.query_params, version=page.version, total=page.total)
    return send_rows(request, page.rows, model.model_fields, form, headers)
