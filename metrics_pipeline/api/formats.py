"""The formats of an answer: JSON, NDJSON and CSV, chosen by `format` or the Accept header, with every digit kept."""

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from enum import StrEnum
from http import HTTPStatus

import simplejson
from simplejson import RawJSON
from starlette.requests import Request
from starlette.responses import Response

from metrics_pipeline.api.problems import ProblemError


class Decimals(StrEnum):
    """How an answer writes money and rates."""

    NUMBER = "number"
    STRING = "string"


class Format(StrEnum):
    """The formats of a list."""

    JSON = "json"
    NDJSON = "ndjson"
    CSV = "csv"

    @property
    def media_type(self) -> str:
        """The Content-Type."""
        return _MEDIA_TYPES[self]


_MEDIA_TYPES = {
    Format.JSON: "application/json",
    Format.NDJSON: "application/x-ndjson",
    Format.CSV: "text/csv; charset=utf-8; header=present",
}
#: JSON with decimals=string. A type of its own, because the OpenAPI document cannot describe what a parameter changes.
DECIMALS_AS_TEXT = "application/vnd.metrics-pipeline.decimals-as-text+json"


@dataclass(frozen=True)
class Form:
    """How an answer is written. is_for_excel: CSV that a spreadsheet opens with the right characters and no formula."""

    format: Format
    decimals: Decimals = Decimals.NUMBER
    is_for_excel: bool = False

    @property
    def media_type(self) -> str:
        """The Content-Type."""
        is_text = self.format is Format.JSON and self.decimals is Decimals.STRING
        return DECIMALS_AS_TEXT if is_text else self.format.media_type


def negotiate(asked: Format | None, accept: str | None) -> Format:
    """`format` if it is given, else the format that the Accept header prefers; JSON if it has no preference.

    Raises ProblemError (406) if Accept allows none of the formats.
    """
    if asked is not None or not accept:
        return asked or Format.JSON
    quality = {offer: _quality(offer.media_type.partition(";")[0], accept) for offer in Format}
    best = max(Format, key=lambda offer: quality[offer])
    if quality[best] == 0:
        raise ProblemError(
            HTTPStatus.NOT_ACCEPTABLE,
            "This can be had as application/json, application/x-ndjson and text/csv. Name one of them in Accept, or "
            "ask for format=json, format=ndjson or format=csv.",
        )
    return best


async def json_accepted(request: Request) -> None:
    """Ends a request for an object, which is JSON only, with 406 if its Accept header leaves that out."""
    accept = request.headers.get("accept")
    if accept and _quality(Format.JSON.media_type, accept) == 0:
        raise ProblemError(
            HTTPStatus.NOT_ACCEPTABLE, "This can be had as application/json only. /api/v1/activity has NDJSON and CSV."
        )


def _quality(offered: str, accept: str) -> float:
    # RFC 9110: the most specific of the ranges that match decides.
    ranges = {"*/*": 0, f"{offered.partition('/')[0]}/*": 1, offered: 2}
    best = (-1, 0.0)
    for part in accept.split(","):
        media_range, *parameters = (piece.strip() for piece in part.lower().split(";"))
        if media_range in ranges:
            qualities = [piece[2:] for piece in parameters if piece.startswith("q=")]
            try:
                quality = float(qualities[0]) if qualities else 1.0
            except ValueError:
                quality = 0.0
            best = max(best, (ranges[media_range], quality))
    return best[1]


def render_rows(rows: Sequence[str], columns: Iterable[str], form: Form, headers: dict[str, str]) -> Response:
    """JSON objects that have `columns` in this order, as a response."""
    if form.format is Format.CSV:
        body = _csv(rows, columns, is_for_excel=form.is_for_excel)
    else:
        if form.decimals is Decimals.STRING:
            rows = [decimals_as_text(row) for row in rows]
        body = "".join(f"{row}\n" for row in rows) if form.format is Format.NDJSON else f"[{','.join(rows)}]"
    return Response(body, headers=headers, media_type=form.media_type)


def render_object(json: str, decimals: Decimals, headers: dict[str, str]) -> Response:
    """A JSON object as a response."""
    body = decimals_as_text(json) if decimals is Decimals.STRING else json
    return Response(body, headers=headers, media_type=Form(Format.JSON, decimals).media_type)


def decimals_as_text(json: str) -> str:
    """The same JSON with each number that has a decimal point as a string, digit for digit. Whole numbers stay."""
    return simplejson.dumps(
        simplejson.loads(json, parse_float=str), ensure_ascii=False, separators=(",", ":"), use_decimal=False
    )


def to_json(value: object) -> str:
    """JSON in which a Decimal is a number with all its digits and without an exponent, and a date is ISO 8601."""
    return simplejson.dumps(value, use_decimal=False, default=_json_form, separators=(",", ":"))


def _json_form(value: object) -> object:
    if isinstance(value, Decimal):
        return RawJSON(f"{value:f}")
    if isinstance(value, date):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} has no JSON form here.")


def _csv(rows: Iterable[str], columns: Iterable[str], *, is_for_excel: bool) -> str:
    text = io.StringIO(newline="")
    if is_for_excel:
        # Without this mark, Excel reads UTF-8 as the code page of the machine.
        text.write("\ufeff")
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow(columns)
    for row in rows:
        values = simplejson.loads(row, parse_int=RawJSON, parse_float=RawJSON).values()
        fields = [_field(value) for value in values]
        if is_for_excel:
            fields = [
                _neutral(value) if isinstance(value, str) else field
                for value, field in zip(values, fields, strict=True)
            ]
        writer.writerow(fields)
    return text.getvalue()


# A spreadsheet takes a text that begins like this for a formula, as an agent named =HYPERLINK("http://…"). It shows
# what follows an apostrophe as it is.
_FORMULA_STARTS = tuple("=+-@\t\r\n'")


def _neutral(field: str) -> str:
    return f"'{field}" if field.startswith(_FORMULA_STARTS) else field


def _field(value: object) -> str | None:
    if value is None or isinstance(value, str):
        return value
    # A number keeps its digits; an object stays JSON.
    return value.encoded_json if isinstance(value, RawJSON) else simplejson.dumps(value, ensure_ascii=False)
