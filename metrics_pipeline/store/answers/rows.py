"""Rows as JSON text that PostgreSQL wrote, so that no number is parsed on its way to the client."""

#: A text that changes whenever a day from :first to :last is stored again, sealed or cleared. xmin changes with every
#: write of a row, whatever the clocks say; aggregated_at covers an xmin that has wrapped around.
LEDGER_VERSION = """
SELECT encode(sha256(convert_to(coalesce(string_agg(
           concat_ws(' ', metric_date, xmin, extract(epoch FROM aggregated_at)), ',' ORDER BY metric_date), ''),
           'UTF8')), 'hex') AS value
FROM metric_day_ledger WHERE metric_date BETWEEN :first AND :last"""


def as_array(select: str) -> str:
    """The SQL expression for all rows of `select`, in its order, as an array of JSON objects."""
    return f"ARRAY(SELECT row_to_json(answer)::text FROM ({select}) AS answer)"
