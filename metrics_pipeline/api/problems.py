"""Errors as RFC 9457 problem details: their fields, and how every exception becomes one."""

import logging
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from sqlalchemy.exc import TimeoutError as NoConnectionFreeError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from metrics_pipeline.api.dagster_runs import DagsterUnavailableError
from metrics_pipeline.errors import PermanentError, PipelineError

MEDIA_TYPE = "application/problem+json"

_log = logging.getLogger("metrics_pipeline.api")


class FieldError(BaseModel):
    """An error in one part of the request."""

    field: str = Field(description="The parameter.", examples=["start_date"])
    location: str = Field(description="Where it is: query, path or header.", examples=["query"])
    detail: str = Field(description="What is wrong with it, and what would be accepted.")


class Problem(BaseModel):
    """Problem details as defined by RFC 9457."""

    type: str = Field(description="Identifies the kind of problem; about:blank means that the status says it all.")
    title: str = Field(description="The kind of problem in words.", examples=["Unprocessable Content"])
    status: int = Field(description="The HTTP status.", examples=[422])
    detail: str = Field(description="What happened here, and what to do about it.")
    request_id: str = Field(description="The X-Request-ID, by which the server's log is found.")
    errors: list[FieldError] | None = Field(default=None, description="The parameters that are wrong.")
    run_id: str | None = Field(default=None, description="The Dagster run that this is about.")
    backfill_id: str | None = Field(default=None, description="The Dagster backfill that this is about.")
    status_url: str | None = Field(default=None, description="Where to read the state of that run or backfill.")
    ui_url: str | None = Field(default=None, description="Where the Dagster UI shows it.")


class ProblemError(Exception):
    """Ends a request with a problem.

    `kind` lets programs distinguish it from other problems with the same status; None if the status is enough.
    `members` are further fields of Problem.
    """

    def __init__(
        self,
        status: HTTPStatus,
        detail: str,
        *,
        kind: str | None = None,
        errors: Sequence[FieldError] = (),
        headers: dict[str, str] | None = None,
        **members: str | None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.kind = kind
        self.errors = list(errors)
        self.members = members
        self.headers = headers


def invalid_parameter(field: str, detail: str) -> ProblemError:
    """422 for a query parameter whose value is well-formed but cannot be used."""
    error = FieldError(field=field, location="query", detail=detail)
    return ProblemError(HTTPStatus.UNPROCESSABLE_ENTITY, f"{field}: {detail}", errors=[error])


def problem_response(request_id: str, error: ProblemError) -> Response:
    """The problem as the response."""
    body = Problem(
        type=f"urn:metrics-pipeline:problem:{error.kind}" if error.kind else "about:blank",
        title=error.kind.replace("-", " ").capitalize() if error.kind else error.status.phrase,
        status=error.status,
        detail=error.detail,
        request_id=request_id,
        errors=error.errors or None,
        **error.members,
    )
    return JSONResponse(
        body.model_dump(exclude_none=True), status_code=error.status, headers=error.headers, media_type=MEDIA_TYPE
    )


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The documentation of these statuses for a route's `responses`."""
    return {status: _documented(HTTPStatus(status)) for status in statuses}


def _documented(status: HTTPStatus) -> dict[str, Any]:
    example = {
        "type": "about:blank",
        "title": status.phrase,
        "status": status,
        "detail": _MEANINGS[status],
        "request_id": "6ca6c797-ef0a-436a-beb7-02d8db79b6f1",
    }
    schema = {"$ref": "#/components/schemas/Problem"}
    return {"description": _MEANINGS[status], "content": {MEDIA_TYPE: {"schema": schema, "example": example}}}


_MEANINGS = {
    HTTPStatus.BAD_REQUEST: "The request is malformed, or names a host that this server does not answer for.",
    HTTPStatus.UNAUTHORIZED: "The bearer token is missing or unknown.",
    HTTPStatus.FORBIDDEN: "The token may only read, or the request comes from another site's page.",
    HTTPStatus.NOT_FOUND: "It does not exist.",
    HTTPStatus.NOT_ACCEPTABLE: "None of the accepted media types can be given.",
    HTTPStatus.GONE: "The day's metrics expired and were deleted; or the feed of changes must begin again.",
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE: "The request has a body; its parameters belong into the query.",
    HTTPStatus.CONFLICT: "The state of a day, a run that is under way, or a list that has changed forbids it.",
    HTTPStatus.UNPROCESSABLE_ENTITY: "A parameter is malformed, out of range or unknown; `errors` names it.",
    HTTPStatus.INTERNAL_SERVER_ERROR: "The database refuses the request until somebody changes something.",
    HTTPStatus.BAD_GATEWAY: "The Dagster run failed; `detail` says why.",
    HTTPStatus.SERVICE_UNAVAILABLE: "The database or Dagster cannot be reached or did not answer in time.",
}


def install_problems(app: FastAPI, *, needs_token: bool) -> None:
    """Makes every error of a route a problem, and adds the schema of problems to the OpenAPI document.

    The document of a server without tokens asks for none.
    """
    describe = app.openapi

    def openapi() -> dict[str, Any]:
        document = describe()
        schema = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
        document["components"]["schemas"] |= {**schema.pop("$defs"), "Problem": schema}
        if needs_token:
            document["components"]["securitySchemes"] = {
                "HTTPBearer": {"type": "http", "scheme": "bearer", "description": "One of METRICS_API_TOKENS."}
            }
            for operations in document["paths"].values():
                for operation in operations.values():
                    if str(HTTPStatus.UNAUTHORIZED.value) in operation["responses"]:
                        operation["security"] = [{"HTTPBearer": []}]
        return document

    app.openapi = openapi  # type: ignore[method-assign]

    async def respond(request: Request, error: Exception) -> Response:
        request_id = request.state.request_id
        if getattr(request.state, "is_abandoned", False):
            pass  # its statement was cancelled because nobody waits for the answer
        elif isinstance(error, DagsterUnavailableError):
            _log.warning("%s", error, extra={"request_id": request_id})
        elif isinstance(error, PipelineError | NoConnectionFreeError):
            _log.error("%s", error, extra={"request_id": request_id})
        if isinstance(error, RequestValidationError):
            return problem_response(request_id, _invalid_parameters(error, _parameters(request)))
        return problem_response(request_id, _problem_of(error))

    for kind in (
        ProblemError,
        RequestValidationError,
        HTTPException,
        DagsterUnavailableError,
        PipelineError,
        NoConnectionFreeError,
    ):
        app.add_exception_handler(kind, respond)


def _problem_of(error: Exception) -> ProblemError:
    match error:
        case ProblemError():
            return error
        case HTTPException():
            status = HTTPStatus(error.status_code)
            return ProblemError(status, status.description, headers=dict(error.headers or {}))
        case DagsterUnavailableError():
            kind, detail = "dagster-unavailable", str(error)
        case PermanentError():
            return ProblemError(
                HTTPStatus.INTERNAL_SERVER_ERROR,
                "The database refused the request, and trying again does not help: somebody has to change the data or "
                "the configuration. The server's log has the cause under this request_id.",
                kind="database-refused",
            )
        case _:
            # The error names servers and users, so it goes to the log only.
            kind = "database-unavailable"
            detail = (
                "The database did not answer, or not in time. Try again, or ask for less; the server's log has the "
                "cause under this request_id."
            )
    return ProblemError(HTTPStatus.SERVICE_UNAVAILABLE, detail, kind=kind, headers={"Retry-After": "10"})


def _parameters(request: Request) -> list[str]:
    """The query parameters of the request's route, as the OpenAPI document lists them."""
    operation = request.app.openapi()["paths"][request.scope["route"].path_format][request.method.lower()]
    return [each["name"] for each in operation.get("parameters", ()) if each["in"] == "query"]


def _invalid_parameters(error: RequestValidationError, known: Sequence[str]) -> ProblemError:
    errors = [
        FieldError(
            field=str(found["loc"][1]),
            location=str(found["loc"][0]),
            detail=(
                f"there is no such parameter. The parameters are: {', '.join(known)}."
                if found["type"] == "extra_forbidden"
                else str(found["ctx"]["error"])
                if found["type"] == "value_error"
                else found["msg"]
            ),
        )
        for found in error.errors()
    ]
    detail = "; ".join(f"{found.field}: {found.detail}" for found in errors)
    return ProblemError(HTTPStatus.UNPROCESSABLE_ENTITY, detail, errors=errors)
