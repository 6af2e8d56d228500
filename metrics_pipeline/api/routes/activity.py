"""The metrics of any window of days, in groups: fleet tables, totals per day, monthly reports, errors by type."""

import hashlib
from collections.abc import Sequence
from datetime import date, timedelta
from enum import StrEnum
from itertools import combinations
from typing import Annotated, Any, Literal

import polars as pl
from fastapi import APIRouter, Depends, Query
from pydantic import ConfigDict, Field, WithJsonSchema
from starlette.requests import Request
from starlette.responses import Response

from metrics_pipeline.api.authentication import may_read
from metrics_pipeline.api.context import ApiContext
from metrics_pipeline.api.formats import to_json
from metrics_pipeline.api.models.windows import (
    ActivityRow,
    ChosenRow,
    Comparison,
    ErrorCount,
    WindowChange,
    WindowMetrics,
)
from metrics_pipeline.api.parameters import OptionalText, PageParameters, WindowParameters, require_known, understood
from metrics_pipeline.api.problems import invalid_parameter
from metrics_pipeline.api.routes.answers import list_responses, send_rows
from metrics_pipeline.api.slow_answers import SlowDatabase
from metrics_pipeline.api.windows import are_comparable, differences
from metrics_pipeline.metrics.window_metrics import window_objects
from metrics_pipeline.postgres.database import Database
from metrics_pipeline.store.ledger import ledger_rows
from metrics_pipeline.store.windows import (
    GROUP_COLUMNS,
    VALUE_COLUMNS,
    Grouping,
    Part,
    days_without_dimension,
    parts_of,
    stored_dimensions,
)

router = APIRouter(prefix="/api/v1", tags=["metrics"], dependencies=[Depends(may_read), Depends(understood)])

_PERIODS = ("day", "week", "month")
_ERROR_TYPE = "error_type"
_GROUPS = ("agent", *_PERIODS, _ERROR_TYPE)
#: The columns of a row besides those that name its group.
_VALUES = tuple(WindowMetrics.model_fields)
_NUMBERS = tuple(WindowChange.model_fields)
_SORTABLE = (*GROUP_COLUMNS.values(), "value", *_NUMBERS)
ActivitySort = StrEnum(  # type: ignore[misc]
    "ActivitySort", {f"{sign}{name}": f"{sign}{name}" for name in _SORTABLE for sign in ("", "-")}
)


# Described without null, which a query cannot express.
OptionalSort = Annotated[ActivitySort | None, WithJsonSchema({"type": "string", "enum": [*ActivitySort]})]
OptionalCompare = Annotated[Literal["previous"] | None, WithJsonSchema({"type": "string", "enum": ["previous"]})]


class ActivityParameters(PageParameters, WindowParameters):
    """Which window, in which groups. Another parameter must be a dimension, such as model=small-2: only that value."""

    model_config = ConfigDict(extra="allow")

    group_by: OptionalText = Field(
        default=None,
        description="A row for each combination of these, separated by commas: agent, one of day, week (from Monday) "
        "and month, error_type, whose rows hold counts only, and one dimension of METRICS_DIMENSIONS that stored days "
        "have. Default: one row for the whole window.",
        examples=["agent,month"],
        pattern="^[a-z][a-z0-9_]*(,[a-z][a-z0-9_]*)*$",
    )
    fields: OptionalText = Field(
        default=None,
        description="Only these metrics, separated by commas. An answer without percentiles, mean latency and users "
        "takes a small part of the time of a whole one. Default: all. Not with error_type.",
        examples=["total_executions,total_cost_usd"],
        pattern=f"^({'|'.join(_VALUES)})(,({'|'.join(_VALUES)}))*$",
    )
    agent_id: OptionalText = Field(
        default=None, description="Only this agent. Default: all.", examples=["support-triage"]
    )
    sort: OptionalSort = Field(
        default=None,
        description="The column to sort by, ascending; with a minus before it, descending. Rows without a value come "
        "last. Default: the columns that name the group.",
        examples=["-total_cost_usd"],
    )
    min_executions: int = Field(default=0, ge=0, le=10**15, description="Only rows with at least so many executions.")
    compare: OptionalCompare = Field(
        default=None,
        description="Adds to each row its group in the same number of days just before, and the changes. Not with day, "
        "week, month or error_type.",
    )
    limit: int = Field(default=1000, ge=1, le=10_000, description="The largest number of rows.")

    def groups(self) -> tuple[tuple[Grouping, ...], bool]:
        """What the rows are grouped by, and whether by error type. Raises ProblemError (422) for what cannot be.

        dimension() has the rest.
        """
        asked = self.group_by.split(",") if self.group_by else []
        if len(set(asked)) < len(asked) or any({*pair} <= {*asked} for pair in combinations(_PERIODS, 2)):
            raise invalid_parameter("group_by", f"names a group twice, or more than one of {', '.join(_PERIODS)}.")
        if self.compare is not None and {*asked} - {"agent"}:
            raise invalid_parameter("compare", "is for the groups of agents, or for the whole window.")
        if self.fields is not None and _ERROR_TYPE in asked:
            raise invalid_parameter("fields", "is not for error_type, whose rows hold counts only.")
        by: tuple[Grouping, ...] = tuple(each for each in GROUP_COLUMNS if each in asked)
        return by, _ERROR_TYPE in asked

    def dimension(self, database: Database) -> tuple[str | None, str | None]:
        """The dimension that group_by or a filter names, and the value of the filter; None without.

        Raises ProblemError (422) for a name that is not a dimension of a stored day, and for several dimensions.
        """
        asked = self.group_by.split(",") if self.group_by else []
        filters = {name: str(value) for name, value in (self.model_extra or {}).items()}
        named = {**{name: "group_by" for name in asked if name not in _GROUPS}, **dict.fromkeys(filters)}
        if not named:
            return None, None
        with database.connect() as connection:
            known = stored_dimensions(connection)
        for name, parameter in named.items():
            if name not in known:
                have = f"Stored days have: {', '.join(known)}." if known else "No stored day has a dimension."
                raise invalid_parameter(
                    parameter or name, f"{name} is neither known here nor a dimension of a stored day. {have}"
                )
        if len(named) > 1:
            raise invalid_parameter(
                "group_by", f"days are broken down by each dimension alone. Ask for one of {', '.join(named)}."
            )
        (name,) = named
        if "\0" in filters.get(name, ""):
            raise invalid_parameter(name, "a text of PostgreSQL cannot hold a NUL character")
        if self.compare is not None:
            raise invalid_parameter("compare", "is not for dimensions. See /api/v1/metrics/{agent_id}/compare.")
        return name, filters.get(name)


@router.get(
    "/activity",
    summary="The metrics of a window, in groups",
    response_model=list[ActivityRow | ErrorCount | ChosenRow],
    responses=list_responses(ActivityRow, 404),
)
def activity(
    request: Request, context: ApiContext, database: SlowDatabase, parameters: Annotated[ActivityParameters, Query()]
) -> Response:
    """Every metric over any days, at most 366, computed from stored days: exact sums, rates, percentiles and users.

    Percentiles are those of all executions of the group, and users are counted once, also after the raw logs are
    deleted. A row says whether they are exact, and which days lack a distribution; these make them null. Days that are
    not stored add nothing: GET /api/v1/coverage names them. Neither do days whose logs did not have a column to what is
    computed from it: days_without_column counts them, and without any other day the figure is null, and not 0.
    """
    form = parameters.form(request)
    by, by_error_type = parameters.groups()
    first, last = parameters.days(context)
    agent_id = parameters.agent_id
    with database.connect() as connection:
        require_known(connection, agent_id)
    dimension, value = parameters.dimension(database)
    keys = [GROUP_COLUMNS[each] for each in by]
    fields = _VALUES if parameters.fields is None else tuple(dict.fromkeys(parameters.fields.split(",")))
    needed = {*fields, parameters.sort.value.removeprefix("-") if parameters.sort else ""}
    parts = {Part.ERRORS} if by_error_type else parts_of(needed)
    frame = context.windows.read(database, first, last, by, agent_id, dimension, value, parts=parts)
    if dimension is not None:
        keys += ["value_kind", "value"]
        _refuse_without_a_day(database, first, last, dimension)
    frame = frame.filter(pl.col("total_executions") >= parameters.min_executions)
    # What a row of a value lacks is always told: it is not a metric that a client could leave out.
    columns = [*keys, *fields, *(VALUE_COLUMNS if dimension is not None else ())]
    if by_error_type:
        frame, columns = _by_error_type(frame, keys), [*keys, *ErrorCount.model_fields]
    page = _sorted(frame, parameters.sort).slice(parameters.offset, parameters.limit)
    state = [frame]
    if parameters.compare is None:
        answers = window_objects(page.select(columns))
    else:
        days = (last - first).days + 1
        before = context.windows.read(
            database,
            first - timedelta(days=days),
            first - timedelta(days=1),
            by,
            agent_id,
            parts=parts,
        )
        state.append(before)
        answers = _compared(page, before, keys, fields)
        columns = [*columns, *Comparison.model_fields]
    pinned = {**request.query_params, "start_date": str(first), "end_date": str(last)}
    version = ""
    if parameters.list_version is not None or parameters.offset or frame.height > parameters.limit:
        # Of the numbers themselves: a day that is stored again without a change leaves the list as it is.
        version = hashlib.sha256("".join(each.write_json() for each in state).encode()).hexdigest()
    parameters.require_same_list(version, pinned)
    headers = parameters.page_headers(pinned, version=version, total=frame.height)
    return send_rows(request, [to_json(answer) for answer in answers], columns, form, headers)


def _refuse_without_a_day(database: Database, first: date, last: date, dimension: str) -> None:
    """Raises ProblemError (422) if days of the window are stored and none of them has the dimension."""
    with database.connect() as connection:
        days = ledger_rows(connection, first, last)
        without = days_without_dimension(connection, first, last, dimension)
    if days and len(without) == len(days):
        raise invalid_parameter(
            "start_date",
            f"No stored day from {first} to {last} is broken down by {dimension}, so there is "
            "nothing to answer with. While their logs exist, a backfill breaks them down.",
        )


def _sorted(frame: pl.DataFrame, sort: ActivitySort | None) -> pl.DataFrame:
    if sort is None:
        return frame
    column = sort.value.removeprefix("-")
    if column not in frame.columns:
        raise invalid_parameter("sort", f"{column} is not a column of this answer. It has {', '.join(frame.columns)}.")
    return frame.sort(column, descending=sort.value.startswith("-"), nulls_last=True, maintain_order=True)


def _by_error_type(frame: pl.DataFrame, keys: Sequence[str]) -> pl.DataFrame:
    return (
        frame.select(*keys, "error_distribution")
        .explode("error_distribution", empty_as_null=False, keep_nulls=False)
        .unnest("error_distribution")
        .select(*keys, "error_type", failed_executions="executions")
    )


def _compared(
    page: pl.DataFrame, before: pl.DataFrame, keys: Sequence[str], fields: Sequence[str]
) -> list[dict[str, Any]]:
    """The rows with the fields of Comparison. A group that has no stored day before has null there."""
    columns = list(dict.fromkeys([*keys, *fields, "days_stored", "days_without_column"]))
    numbers = [name for name in _NUMBERS if name in fields]
    groups = {tuple(row[key] for key in keys): row for row in window_objects(before.select(columns))}
    compared = []
    for answer in window_objects(page.select(columns)):
        previous = groups.get(tuple(answer[key] for key in keys))
        compared.append(
            {
                **{name: answer[name] for name in (*keys, *fields)},
                "previous": previous and {name: previous[name] for name in fields},
                "change": previous and differences(previous, answer, numbers),
                "is_comparable": previous is not None and are_comparable(previous, answer),
            }
        )
    return compared
