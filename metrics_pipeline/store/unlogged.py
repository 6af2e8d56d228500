"""Days whose logs did not have a column: which these are, and the figures of rows without what nothing is known of."""

from datetime import date

from sqlalchemy import Connection, text

from metrics_pipeline.metrics.upstream import UNKNOWN_WITHOUT

_DAYS_WITHOUT = text("""
SELECT name, array_agg(metric_date ORDER BY metric_date) AS days
FROM metric_day_ledger CROSS JOIN unnest(unlogged) WITH ORDINALITY AS lacking(name, place)
WHERE metric_date BETWEEN :first AND :last AND metrics_expired_at IS NULL GROUP BY name ORDER BY min(place), name""")

#: SQL of the rows of metrics, for known(). Rows that another program stored may have no day in the ledger.
ROWS_AND_DAYS = "agent_performance_metrics AS metrics LEFT JOIN metric_day_ledger USING (metric_date)"


def days_without(connection: Connection, first: date, last: date) -> dict[str, list[date]]:
    """The days from `first` to `last` whose logs did not have a column, sorted, for each such column."""
    found = connection.execute(_DAYS_WITHOUT, {"first": first, "last": last})
    return {row.name: row.days for row in found}


def known(figure: str) -> str:
    """SQL of a column of ROWS_AND_DAYS: NULL on days whose logs did not have what it is computed from."""
    columns = ", ".join(f"'{column}'" for column, figures in UNKNOWN_WITHOUT.items() if figure in figures)
    return f"CASE WHEN unlogged && ARRAY[{columns}] THEN NULL ELSE {figure} END AS {figure}" if columns else figure
