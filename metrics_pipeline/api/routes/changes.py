"""The feed of changed days, for copies of the metrics elsewhere."""

from dataclasses import asdict
from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Depends, Query
from pydantic import Field, WithJsonSchema
from simplejson import RawJSON
from starlette.responses import Response

from metrics_pipeline.api.authentication import may_read
from metrics_pipeline.api.formats import Decimals, render_object, to_json
from metrics_pipeline.api.models.metrics import Changes
from metrics_pipeline.api.parameters import Parameters, understood
from metrics_pipeline.api.problems import ProblemError, invalid_parameter, problems
from metrics_pipeline.api.routes.answers import text_decimals
from metrics_pipeline.api.slow_answers import SlowDatabase
from metrics_pipeline.store.answers.changes import CURSOR_PATTERN, OtherFeedError, changes

router = APIRouter(prefix="/api/v1", tags=["days"], dependencies=[Depends(may_read), Depends(understood)])

_MAX_DAYS = 100
Cursor = Annotated[str | None, WithJsonSchema({"type": "string", "pattern": f"^{CURSOR_PATTERN}$"})]


class ChangesParameters(Parameters):
    """Since when."""

    updated_since: Cursor = Field(
        default=None, description="The `cursor` of the answer before. Default: the beginning, which tells every day."
    )
    limit: int = Field(default=10, ge=1, le=_MAX_DAYS, description="The largest number of days.")
    decimals: Decimals = Field(default=Decimals.NUMBER, description="string: money and rates as strings.")


@router.get(
    "/changes",
    summary="The days that have changed since the last answer",
    response_model=Changes,
    responses={200: {"content": text_decimals({"type": "object"})}, **problems(401, 410, 422, 503)},
)
def changed_days(database: SlowDatabase, parameters: Annotated[ChangesParameters, Query()]) -> Response:
    """Every day that was stored, restated, cleared or expired since the answer that `updated_since` is from.

    A copy of the metrics stays equal to them if it does this with each answer, in one transaction: replace all rows of
    each of `days` by those given, delete the rows of all days that are not in `stored_days`, and keep `cursor` for the
    next request. A day may come twice, but no change is left out, also if its transaction took long. While `has_more`
    is true, ask again at once. 410 means that the database was restored or replaced: begin without `updated_since`.
    """
    try:
        with database.snapshot() as snapshot:
            found = changes(snapshot, parameters.updated_since, limit=parameters.limit)
    except ValueError as error:
        raise invalid_parameter("updated_since", f"{error}. Give it as it was, or leave it out.") from error
    except OtherFeedError as error:
        raise ProblemError(
            HTTPStatus.GONE,
            "The database was restored, replaced or upgraded since the answer that this cursor is from, so it cannot "
            "tell what has changed. Begin again without updated_since.",
            kind="feed-restarted",
        ) from error
    days = [asdict(day) | {"rows": [RawJSON(row) for row in day.rows]} for day in found.days]
    body = to_json({"days": days, "stored_days": found.stored_days, "cursor": found.cursor, "has_more": found.has_more})
    return render_object(body, parameters.decimals, {"Cache-Control": "no-store"})
