"""Rows as text that PostgreSQL wrote: JSON objects, or the fields of CSV. No number is ever parsed on the way."""

from enum import StrEnum
from typing import Any

#: The rows of an answer: JSON objects, or lists of fields where None is NULL.
Rows = list[str] | list[list[str | None]]


class RowForm(StrEnum):
    """How the rows are to be written."""

    JSON = "json"
    FIELDS = "fields"


_AS_ARRAY = {
    RowForm.JSON: "ARRAY(SELECT row_to_json(answer)::text FROM ({select}) AS answer)",
    RowForm.FIELDS: (
        "ARRAY(SELECT ARRAY(SELECT value FROM json_each_text(row_to_json(answer))) FROM ({select}) AS answer)"
    ),
}

#: A text that changes whenever one of the days from :first to :last is stored anew, sealed or cleared. xmin changes
#: with every write of a row, whatever the clocks say; aggregated_at tells apart what a wrapped-around xmin would not.
LEDGER_VERSION = """
SELECT encode(sha256(convert_to(coalesce(string_agg(
           concat_ws(' ', metric_date, xmin, extract(epoch FROM aggregated_at)), ',' ORDER BY metric_date), ''),
           'UTF8')), 'hex') AS value
FROM metric_day_ledger WHERE metric_date BETWEEN :first AND :last"""


def as_array(select: str, form: RowForm) -> str:
    """The SQL expression for all rows of `select`, in its order, as an array."""
    return _AS_ARRAY[form].format(select=select)


def page_of(rows: list[Any], limit: int) -> tuple[list[Any], bool]:
    """The first `limit` of rows that were read with one more, and whether there was one more."""
    return rows[:limit], len(rows) > limit
