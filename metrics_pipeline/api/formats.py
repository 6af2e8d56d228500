"""The forms of an answer: JSON, NDJSON and CSV, chosen by `format` or the Accept header, with every digit kept."""

import csv
import io
from collections.abc import Iterable, Sequence
from decimal import Decimal
from enum import StrEnum
from http import HTTPStatus
from typing import Any, cast

import simplejson
from starlette.responses import Response

from metrics_pipeline.api.problems import ProblemError
from metrics_pipeline.store.answers.rows import RowForm, Rows


class Format(StrEnum):
    """What a list can be had as."""

    JSON = "json"
    NDJSON = "ndjson"
    CSV = "csv"

    @property
    def media_type(self) -> str:
        """As Content-Type has it."""
        return _MEDIA_TYPES[self]

    @property
    def row_form(self) -> RowForm:
        """What of a row is needed to write it."""
        return RowForm.FIELDS if self is Format.CSV else RowForm.JSON


_MEDIA_TYPES = {
    Format.JSON: "application/json",
    Format.NDJSON: "application/x-ndjson",
    Format.CSV: "text/csv; charset=utf-8; header=present",
}


def negotiate(asked: Format | None, accept: str | None) -> Format:
    """`format` if it is given, else the best of what Accept names, JSON where it leaves the choice.

    Raises ProblemError (406) when Accept names nothing that can be given.
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


def _quality(offered: str, accept: str) -> float:
    # RFC 9110: of the ranges that match, the most specific one says how welcome the type is.
    ranges = {"*/*": 0, f"{offered.partition('/')[0]}/*": 1, offered: 2}
    welcome = (-1, 0.0)
    for part in accept.split(","):
        media_range, *parameters = (piece.strip() for piece in part.lower().split(";"))
        if media_range in ranges:
            qualities = [piece[2:] for piece in parameters if piece.startswith("q=")]
            try:
                quality = float(qualities[0]) if qualities else 1.0
            except ValueError:
                quality = 0.0
            welcome = max(welcome, (ranges[media_range], quality))
    return welcome[1]


def render_rows(rows: Rows, columns: Sequence[str], form: Format, headers: dict[str, str]) -> Response:
    """Rows that PostgreSQL wrote in `form.row_form`, as the body of a response."""
    if form is Format.CSV:
        body = _csv(columns, cast("list[list[str | None]]", rows))
    elif form is Format.NDJSON:
        body = "".join(f"{row}\n" for row in rows)
    else:
        body = f"[{','.join(cast('list[str]', rows))}]"
    return Response(body, headers=headers, media_type=form.media_type)


def render_objects(objects: Sequence[dict[str, Any]], columns: Sequence[str], form: Format) -> Rows:
    """Objects of this process as rows in `form.row_form`."""
    if form is Format.CSV:
        return [[_field(row[name]) for name in columns] for row in objects]
    return [to_json({name: row[name] for name in columns}) for row in objects]


def to_json(value: object) -> str:
    """JSON in which a Decimal is a number with all its digits and without an exponent."""
    return simplejson.dumps(value, use_decimal=False, default=_digits, separators=(",", ":"))


def _digits(value: object) -> simplejson.RawJSON:
    if not isinstance(value, Decimal):
        raise TypeError(f"{type(value).__name__} has no JSON form here.")
    return simplejson.RawJSON(f"{value:f}")


def _field(value: object) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return str(value).lower() if isinstance(value, bool) else str(value)


def _csv(columns: Sequence[str], rows: Iterable[Sequence[str | None]]) -> str:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return text.getvalue()
