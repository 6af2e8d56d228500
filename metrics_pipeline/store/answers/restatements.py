"""Stored values that were replaced."""

from datetime import date

from sqlalchemy import Connection, text

from metrics_pipeline.store.answers.rows import RowForm, Rows, as_array

#: The columns of a row, in this order.
COLUMNS = ("agent_id", "metric_date", "replaced_at", "run_id", "reason", "old_row", "new_row")

_SELECT = f"""
SELECT {", ".join(COLUMNS)} FROM metric_restatements
WHERE (CAST(:agent_id AS text) IS NULL OR agent_id = :agent_id) AND metric_date BETWEEN :first AND :last
ORDER BY replaced_at DESC, metric_date DESC, agent_id LIMIT :limit OFFSET :offset"""

_STATEMENTS = {form: text(f"SELECT {as_array(_SELECT, form)}") for form in RowForm}


def restatements_page(
    connection: Connection, first: date, last: date, *, agent_id: str | None, limit: int, offset: int, form: RowForm
) -> Rows:
    """At most `limit` restatements of days from `first` to `last`, of one agent or of all, newest first."""
    parameters = {"agent_id": agent_id, "first": first, "last": last, "limit": limit, "offset": offset}
    rows: Rows = connection.scalars(_STATEMENTS[form], parameters).one()
    return rows
