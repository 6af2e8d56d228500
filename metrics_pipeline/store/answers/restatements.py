"""Stored values that were replaced."""

from datetime import date

from sqlalchemy import Connection, text

from metrics_pipeline.store.answers.rows import Page, as_array

_FROM = """FROM metric_restatements
WHERE (CAST(:agent_id AS text) IS NULL OR agent_id = :agent_id) AND metric_date BETWEEN :first AND :last
  AND breakdown IS NULL"""

_SELECT = f"""
SELECT agent_id, metric_date, replaced_at, run_id, reason, old_row, new_row, old_distribution, new_distribution
{_FROM}
ORDER BY replaced_at DESC, metric_date DESC, agent_id LIMIT :limit OFFSET :offset"""

# Restatements are only added, with growing ids, and deleted by retention a year later: whatever is added is larger than
# what is deleted, so no change leaves both numbers as they were.
_PAGE = text(f"""
SELECT {as_array(_SELECT)} AS rows, all_of_them.count AS total, concat_ws('.', all_of_them.count, sum) AS version
FROM (SELECT count(*), coalesce(sum(id), 0) AS sum {_FROM}) AS all_of_them""")


def restatements_page(
    connection: Connection, first: date, last: date, *, agent_id: str | None, limit: int, offset: int
) -> Page:
    """At most `limit` restatements of days from `first` to `last`, of one agent or of all, newest first."""
    parameters = {"agent_id": agent_id, "first": first, "last": last, "limit": limit, "offset": offset}
    return Page(**connection.execute(_PAGE, parameters).mappings().one())
