"""Routes of answers that take a millisecond or two, which reading the request must not double."""

import inspect
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, cast, get_type_hints

from fastapi import Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError

from metrics_pipeline.api.context import context_of
from metrics_pipeline.api.parameters import agent_in_path


class ShortAnswerRoute(APIRoute):
    """A route that FastAPI documents, and whose parameters Pydantic checks at once.

    FastAPI solves dependencies and reads queries field by field, which takes a quarter of a series' processor time.
    Here a dependency of the route or its router is a check: it takes the request only and returns nothing of use. An
    endpoint with other parameters than `request`, `context`, `agent_id` and `parameters` is FastAPI's.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The endpoint between the checks of its request and the thread that it runs in."""
        endpoint: Callable[..., Response] = self.endpoint
        names = inspect.signature(endpoint).parameters.keys()
        if not names <= {"request", "context", "agent_id", "parameters"}:
            return super().get_route_handler()
        model: type[BaseModel] = get_type_hints(endpoint)["parameters"]
        checks = [
            cast("Callable[[Request], Coroutine[Any, Any, object]]", each.dependency) for each in self.dependencies
        ]

        async def answer(request: Request) -> Response:
            for check in checks:
                await check(request)
            arguments: dict[str, Any] = {"request": request, "context": await context_of(request)}
            if "agent_id" in names:
                arguments["agent_id"] = agent_in_path(request.path_params["agent_id"])
            try:
                arguments["parameters"] = model.model_validate(dict(request.query_params))
            except ValidationError as error:
                raise RequestValidationError(
                    [{**found, "loc": ("query", *found["loc"])} for found in error.errors()]
                ) from error
            return await run_in_threadpool(partial(endpoint, **arguments))

        return answer
