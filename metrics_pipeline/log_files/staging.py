"""The temporary table through which all logs enter agent_execution_logs: of the same types, filled by COPY."""

import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import polars as pl
import psycopg
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from metrics_pipeline.errors import ContractError, LogFileError
from metrics_pipeline.log_files.schema import LOG_SCHEMA

#: The SQLSTATE classes of faults in the data: data exception, integrity violation, program limit exceeded.
_REFUSALS = ("22", "23", "54")

# A domain is replaced by its base type. -1 leaves out the type's modifier, so that numeric(12,6) does not round the
# values before check_precision sees them.
_TARGET_COLUMNS = text("""
    SELECT a.attname,
           format_type(coalesce(nullif(t.typbasetype, 0), t.oid), -1),
           CASE WHEN a.atttypmod <> -1 THEN format_type(a.atttypid, a.atttypmod) END
      FROM pg_attribute AS a JOIN pg_type AS t ON t.oid = a.atttypid
     WHERE a.attrelid = to_regclass('agent_execution_logs') AND a.attnum > 0 AND NOT a.attisdropped
""")


class LogStaging:
    """A temporary table `log_staging` in the transaction of `connection`. `drop` or the transaction's end removes it.

    It has the columns of LOG_SCHEMA in the types of agent_execution_logs, so that values can be compared without casts,
    and `file` and `row`, the place of each log. Raises ContractError if agent_execution_logs lacks a column.

    Attributes:
        column_types: the PostgreSQL type of each column without its modifier, such as "uuid" or "numeric".
        declared_types: the type with its modifier, such as "numeric(12,6)", of each column that has one.
    """

    def __init__(self, connection: Connection) -> None:
        rows = connection.execute(_TARGET_COLUMNS).all()
        self.column_types: Mapping[str, str] = {name: plain for name, plain, _ in rows if name in LOG_SCHEMA}
        self.declared_types: Mapping[str, str] = {
            name: declared for name, _, declared in rows if name in LOG_SCHEMA and declared is not None
        }
        if not rows:
            raise ContractError(
                "There is no table agent_execution_logs. `metrics-pipeline db check` says what is needed."
            )
        if missing := [name for name in LOG_SCHEMA if name not in self.column_types]:
            raise ContractError(
                f"agent_execution_logs has no column {', '.join(missing)}. "
                "`metrics-pipeline db check` says what is needed."
            )
        self._connection = connection
        columns = ", ".join(f'"{name}" {verbatim(self.column_types[name])}' for name in LOG_SCHEMA)
        connection.execute(
            text(f"CREATE TEMPORARY TABLE log_staging (file integer, row bigint, {columns}) ON COMMIT DROP")
        )

    def copy(self, frame: pl.DataFrame, source: str) -> None:
        """Adds the rows of `frame`, which has columns of LOG_SCHEMA and either both or neither of `file` and `row`.

        Raises LogFileError, which names `source`, if a value does not fit its column.
        """
        buffer = io.BytesIO()
        # Quoting every text keeps an empty one distinct from NULL. Z is right for timestamptz, and a plain timestamp
        # ignores it.
        frame.write_csv(
            buffer, include_header=False, quote_style="non_numeric", datetime_format="%Y-%m-%dT%H:%M:%S%.6fZ"
        )
        columns = ", ".join(f'"{name}"' for name in frame.columns)
        driver = cast("psycopg.Connection[Any]", self._connection.connection.driver_connection)
        with (
            refusals_named(source),
            driver.cursor() as cursor,
            cursor.copy(f"COPY log_staging ({columns}) FROM STDIN (FORMAT csv, ENCODING 'UTF8')") as copy,
        ):
            copy.write(buffer.getbuffer())

    def analyze(self) -> None:
        """Gives the planner the number of rows: autovacuum does not analyze temporary tables."""
        self._connection.execute(text("ANALYZE log_staging"))

    def insert(self, *, skip_conflicts: bool = False) -> int:
        """Stores all rows and returns how many. A row without an id gets the default of the table's column.

        `skip_conflicts` leaves out rows that violate a unique constraint, such as those whose id is stored already.
        """
        stored = 0
        for columns, rows in (
            (list(LOG_SCHEMA), "id IS NOT NULL"),
            ([name for name in LOG_SCHEMA if name != "id"], "id IS NULL"),
        ):
            names = ", ".join(f'"{name}"' for name in columns)
            with refusals_named("agent_execution_logs"):
                stored += self._connection.execute(
                    text(f"""
                        INSERT INTO agent_execution_logs ({names}) SELECT {names} FROM log_staging WHERE {rows}
                        {"ON CONFLICT DO NOTHING" if skip_conflicts else ""}
                    """)
                ).rowcount
        return stored

    def drop(self) -> None:
        """Removes the table, so that the same transaction can stage more logs."""
        self._connection.execute(text("DROP TABLE log_staging"))


def verbatim(type_name: str) -> str:
    """The type's name for a statement of text(), which would take a colon in it for a parameter."""
    return type_name.replace(":", "\\:")


@contextmanager
def refusals_named(place: str) -> Iterator[None]:
    """Turns an error that PostgreSQL raises about the data into a LogFileError that names `place`. Others pass."""
    try:
        yield
    except (psycopg.Error, DBAPIError) as error:
        cause = error.orig if isinstance(error, DBAPIError) else error
        if not isinstance(cause, psycopg.Error) or (cause.sqlstate or "")[:2] not in _REFUSALS:
            raise
        said = [cause.diag.message_primary, cause.diag.message_detail, cause.diag.context]
        raise LogFileError(
            f"Nothing was loaded: PostgreSQL refuses a log of {place}: {'. '.join(part for part in said if part)}"
        ) from error
