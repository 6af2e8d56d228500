"""The state of a window of stored days, for caches, and its failed executions by error type."""

from datetime import date

from sqlalchemy import Connection, text

# xmin changes with every write of a row, whatever the clocks say; aggregated_at covers an xmin that has wrapped around.
_VERSION = text("""
SELECT encode(sha256(convert_to(coalesce(string_agg(
           concat_ws(' ', metric_date, xmin, extract(epoch FROM aggregated_at)), ',' ORDER BY metric_date), ''),
           'UTF8')), 'hex') AS value
FROM metric_day_ledger WHERE metric_date BETWEEN :first AND :last""")

# A version of a row has a place and a transaction. Reading these takes a tenth of the time of judging the days.
_JUDGEMENT_VERSION = text("""
SELECT concat_ws(' ',
    (SELECT sum(hashtextextended(concat_ws(' ', ctid, xmin), 0)) FROM metric_day_ledger
     WHERE metric_date BETWEEN :first AND :last),
    (SELECT sum(hashtextextended(concat_ws(' ', ctid, xmin), 0)) FROM metric_day_verifications
     WHERE metric_date BETWEEN :first AND :last),
    (SELECT concat_ws(' ', count(*), sum(hashtextextended(concat_ws(' ', ctid, xmin), 0)))
     FROM agent_performance_metrics WHERE metric_date BETWEEN :first AND :last))""")


def window_version(connection: Connection, first: date, last: date) -> str:
    """A text that changes whenever a day from `first` to `last` is stored again, sealed, cleared or expired."""
    version: str = connection.scalar(_VERSION, {"first": first, "last": last})
    return version


def judgement_version(connection: Connection, first: date, last: date) -> str:
    """A text that changes whenever a row changes by which the days from `first` to `last` are judged."""
    version: str = connection.scalar(_JUDGEMENT_VERSION, {"first": first, "last": last})
    return version
