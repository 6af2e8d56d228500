"""Stored values that were replaced."""

from datetime import date

from sqlalchemy import Connection, text

from metrics_pipeline.store.answers.rows import as_array

_SELECT = """
SELECT agent_id, metric_date, replaced_at, run_id, reason, old_row, new_row FROM metric_restatements
WHERE (CAST(:agent_id AS text) IS NULL OR agent_id = :agent_id) AND metric_date BETWEEN :first AND :last
  AND breakdown IS NULL
ORDER BY replaced_at DESC, metric_date DESC, agent_id LIMIT :limit OFFSET :offset"""

_PAGE = text(f"SELECT {as_array(_SELECT)}")


def restatements_page(
    connection: Connection, first: date, last: date, *, agent_id: str | None, limit: int, offset: int
) -> list[str]:
    """At most `limit` restatements of days from `first` to `last`, of one agent or of all, newest first."""
    parameters = {"agent_id": agent_id, "first": first, "last": last, "limit": limit, "offset": offset}
    rows: list[str] = connection.scalars(_PAGE, parameters).one()
    return rows
