"""The parameters that endpoints share: dates, ranges, pages and agents, each with its bounds."""

import re
from collections.abc import Mapping
from datetime import date, timedelta
from http import HTTPStatus
from typing import Annotated
from urllib.parse import unquote_to_bytes, urlencode

from fastapi import Path
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema
from sqlalchemy import Connection
from starlette.requests import Request

from metrics_pipeline.api.context import Context
from metrics_pipeline.api.formats import Decimals, Form, Format, negotiate
from metrics_pipeline.api.problems import ProblemError, invalid_parameter
from metrics_pipeline.store.answers.metrics import is_known

#: The most days in one answer: ten years.
MAX_DAYS = 3660
MAX_PAGE = 1000
#: The most days of a window: a leap year.
MAX_WINDOW_DAYS = 366
_DEFAULT_WINDOW_DAYS = 30
_MAX_OFFSET = 1_000_000


def _iso_date(value: object) -> object:
    # Pydantic alone would also accept a timestamp or a number of seconds, whose day depends on a time zone.
    if isinstance(value, str) and not re.fullmatch(r"\d{4}-\d{2}-\d{2}", value, re.ASCII):
        raise ValueError("write a date as YYYY-MM-DD")
    return value


def stored_text(value: str | None) -> str | None:
    """The text. Raises ValueError for one that no column of PostgreSQL can hold."""
    if value is not None and "\0" in value:
        raise ValueError("a text of PostgreSQL cannot hold a NUL character")
    return value


IsoDate = Annotated[date, BeforeValidator(_iso_date)]
# Optional values are described without null, which a query cannot express.
OptionalDate = Annotated[date | None, BeforeValidator(_iso_date), WithJsonSchema({"type": "string", "format": "date"})]
OptionalFormat = Annotated[Format | None, WithJsonSchema({"$ref": "#/components/schemas/Format"})]
#: Text that a column of PostgreSQL can hold.
StoredText = Annotated[str, AfterValidator(stored_text)]
OptionalText = Annotated[str | None, AfterValidator(stored_text), WithJsonSchema({"type": "string"})]


class Parameters(BaseModel):
    """Query parameters. An unknown one is refused: ignoring a misspelt one would answer another question."""

    model_config = ConfigDict(extra="forbid")


class ListParameters(Parameters):
    """The parameters of every list."""

    format: OptionalFormat = Field(
        default=None, description="The format of the answer. Default: what the Accept header prefers."
    )
    decimals: Decimals = Field(
        default=Decimals.NUMBER,
        description="string: JSON and NDJSON have money and rates as strings, for clients whose numbers are binary "
        "floats. The media type of such JSON is `application/vnd.metrics-pipeline.decimals-as-text+json`.",
    )
    excel: bool = Field(
        default=False,
        description="CSV for a spreadsheet: with a byte order mark, and an apostrophe before text that would be a "
        "formula.",
    )

    def form(self, request: Request) -> Form:
        """How the answer is to be written. Raises ProblemError (406) if Accept allows none of the formats."""
        accept = "text/csv" if self.excel and self.format is None else request.headers.get("accept")
        form = Form(negotiate(self.format, accept), self.decimals, self.excel)
        if self.excel and form.format is not Format.CSV:
            raise invalid_parameter("excel", "is for CSV only. Ask for format=csv.")
        return form


class PageParameters(ListParameters):
    """The parameters of every paged list. The Link header names the next page, if there is one.

    Its links carry the version of the list, so that pages of different states are never put together.
    """

    limit: int = Field(default=100, ge=1, le=MAX_PAGE, description="The largest number of rows.")
    offset: int = Field(default=0, ge=0, le=_MAX_OFFSET, description="The number of rows to skip.")
    list_version: OptionalText = Field(
        default=None,
        description="The state of the list that this page must belong to, as the Link header of another page names it. "
        "409 if the list has changed since. Default: the present state.",
    )

    def require_same_list(self, version: str, query: Mapping[str, str]) -> None:
        """Raises ProblemError (409) if the page that the client came from was one of another state of the list."""
        if self.list_version not in (None, version):
            first = {name: value for name, value in query.items() if name not in ("list_version", "offset")}
            raise ProblemError(
                HTTPStatus.CONFLICT,
                "The list has changed since the page that this link is from, so rows would be missing or come twice. "
                "Start again with the first page: without offset and list_version, as the Link header names it.",
                kind="list-changed",
                headers={"Link": f'<?{urlencode(first)}>; rel="first"'},
            )

    def page_headers(self, query: Mapping[str, str], *, version: str, total: int) -> dict[str, str]:
        """The headers of a page of a list with `total` rows: X-Total-Count, and Link (RFC 8288).

        The latter names the next page and the previous one, if they exist.
        """
        links = []
        if self.offset + self.limit < total and self.offset + self.limit <= _MAX_OFFSET:
            links.append((self.offset + self.limit, "next"))
        if self.offset:
            links.append((max(self.offset - self.limit, 0), "prev"))
        pages = [
            f"<?{urlencode({**query, 'limit': self.limit, 'offset': offset, 'list_version': version})}>; "
            f'rel="{relation}"'
            for offset, relation in links
        ]
        return {"X-Total-Count": str(total)} | ({"Link": ", ".join(pages)} if pages else {})


def day_range(
    start_date: date | None, end_date: date | None, *, default_end: date, default_days: int, max_days: int = MAX_DAYS
) -> tuple[date, date]:
    """The first and the last requested day. Without a start, the range is `default_days` days up to the end.

    Raises ProblemError (422) for a start after the end and for more than `max_days` days.
    """
    last = end_date or default_end
    first = start_date or last - min(timedelta(days=default_days - 1), last - date.min)
    if first > last:
        raise invalid_parameter("start_date", f"{first} comes after end_date, {last}.")
    if (last - first).days >= max_days:
        raise invalid_parameter(
            "start_date", f"{first} to {last} are more than {max_days} days. Ask for fewer at a time."
        )
    return first, last


class WindowParameters(ListParameters):
    """The days of an answer about a window."""

    start_date: OptionalDate = Field(
        default=None, description="The first day. Default: 29 days before end_date.", examples=["2025-06-12"]
    )
    end_date: OptionalDate = Field(
        default=None, description="The last day. Default: yesterday.", examples=["2025-07-11"]
    )

    def days(self, context: Context) -> tuple[date, date]:
        """The first and the last day. Raises ProblemError (422) as day_range() does."""
        return day_range(
            self.start_date,
            self.end_date,
            default_end=context.yesterday(),
            default_days=_DEFAULT_WINDOW_DAYS,
            max_days=MAX_WINDOW_DAYS,
        )


class RecordParameters(PageParameters):
    """Which agent and which days of a list of what has happened."""

    agent_id: OptionalText = Field(
        default=None, description="Only this agent. Default: all.", examples=["support-triage"]
    )
    start_date: OptionalDate = Field(default=None, description="The first metric day. Default: any.")
    end_date: OptionalDate = Field(default=None, description="The last metric day. Default: any.")

    def days(self) -> tuple[date, date]:
        """The first and the last day. Raises ProblemError (422) for a start after the end."""
        first, last = self.start_date or date.min, self.end_date or date.max
        if first > last:
            raise invalid_parameter("start_date", f"{first} comes after end_date, {last}.")
        return first, last


async def understood(request: Request) -> None:
    """Ends a request that would be answered as if a part of it were not there: a repeated parameter, or a body."""
    names = [name for name, _ in request.query_params.multi_items()]
    repeated = next((name for name in names if names.count(name) > 1), None)
    if repeated is not None:
        raise invalid_parameter(repeated, "is given more than once. Give it once.")
    if request.headers.get("content-length", "0") != "0" or "transfer-encoding" in request.headers:
        raise ProblemError(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            "This request takes no body. Give its parameters in the query, as in ?start_date=2025-07-11.",
        )


def unknown_agent(agent_id: str) -> ProblemError:
    """404 for an agent that neither the registry nor the stored metrics know."""
    return ProblemError(
        HTTPStatus.NOT_FOUND,
        f"Neither agent_registry nor the stored metrics know an agent {agent_id!r}. GET /api/v1/agents lists all.",
        kind="unknown-agent",
    )


def require_known(connection: Connection, agent_id: str | None) -> None:
    """Raises ProblemError (404) for an agent that neither the registry nor the stored metrics know."""
    if agent_id is not None and not is_known(connection, agent_id):
        raise unknown_agent(agent_id)


def agent_in_path(agent_id: str) -> str:
    """The agent id as it was percent-encoded. Raises ProblemError (404) for one that no agent can have."""
    try:
        decoded = unquote_to_bytes(agent_id).decode()
    except UnicodeDecodeError as error:
        raise unknown_agent(agent_id) from error
    if "\0" in decoded:
        raise unknown_agent(decoded)  # a text of PostgreSQL cannot hold NUL
    return decoded


#: The agent id that a path names.
AgentId = Annotated[
    str,
    Path(
        description="The agent; in a URL percent-encoded. A slash may be sent as it is, but if the id ends in "
        "/summary or /compare, write the last one as %2F.",
        examples=["support-triage"],
    ),
    AfterValidator(agent_in_path),
]


def require_whole_days(context: Context, first: date, last: date, fields: tuple[str, str]) -> None:
    """Raises ProblemError (422) for days that have not ended or precede METRICS_START_DATE.

    `fields` are the parameters that named the first and the last day.
    """
    settings, yesterday = context.settings, context.yesterday()
    if last > yesterday:
        raise invalid_parameter(
            fields[1], f"{last} has not ended in {settings.time_zone}; the newest whole day is {yesterday}."
        )
    if first < settings.start_date:
        raise invalid_parameter(fields[0], f"The first day of this pipeline is {settings.start_date}.")
