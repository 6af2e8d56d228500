"""Rows as JSON text that PostgreSQL wrote, so that no number is parsed on its way to the client."""

from dataclasses import dataclass

from metrics_pipeline.store.unlogged import ROWS_AND_DAYS


@dataclass(frozen=True)
class Page:
    """A part of a list. total: the rows of the whole list. version: changes whenever the list may have changed."""

    rows: list[str]
    total: int
    version: str


def rows_version(condition: str) -> str:
    """The SELECT of a text that changes whenever a row of ROWS_AND_DAYS that meets the condition does, or is deleted.

    xmin changes with every write of a row, whatever the clocks say; updated_at covers an xmin that has wrapped around.
    A day that is aggregated again without a change writes no row, but what its logs did not have may be another.
    """
    return f"""
SELECT encode(sha256(convert_to(coalesce(string_agg(
           concat_ws(' ', metric_date, agent_id, metrics.xmin, updated_at, unlogged), ','
           ORDER BY metric_date, agent_id COLLATE "C"), ''), 'UTF8')), 'hex') AS value
FROM {ROWS_AND_DAYS} WHERE {condition}"""


def as_array(select: str) -> str:
    """The SQL expression for all rows of `select`, in its order, as an array of JSON objects."""
    return f"ARRAY(SELECT row_to_json(answer)::text FROM ({select}) AS answer)"
