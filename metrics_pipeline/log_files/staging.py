"""The temporary table through which all logs enter agent_execution_logs: of the same types, filled by COPY."""

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import polars as pl
import psycopg
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from metrics_pipeline.errors import ContractError, LogFileError
from metrics_pipeline.log_files.schema import LOG_SCHEMA

#: The SQLSTATE of a value for a column that is GENERATED ALWAYS.
_GENERATED_ALWAYS = "428C9"
#: What begins the SQLSTATE of a fault in the data: data exception, integrity violation, program limit exceeded.
_REFUSALS = ("22", "23", "54", _GENERATED_ALWAYS)
#: The types that hold the ids of generated logs, which are UUIDs.
_UUID_HOLDERS = ("uuid", "text", "character varying")

# A domain is replaced by its base type. -1 leaves out the type's modifier, so that numeric(12,6) does not round the
# values before check_precision sees them.
_TARGET_COLUMNS = text("""
    SELECT a.attname,
           format_type(coalesce(nullif(t.typbasetype, 0), t.oid), -1),
           CASE WHEN a.atttypmod <> -1 THEN format_type(a.atttypid, a.atttypmod) END,
           a.attgenerated <> ''
      FROM pg_attribute AS a JOIN pg_type AS t ON t.oid = a.atttypid
     WHERE a.attrelid = to_regclass('agent_execution_logs') AND a.attnum > 0 AND a.attname = ANY(:names)
""")


class LogStaging:
    """A temporary table `log_staging` in the transaction of `connection`. `drop` or the transaction's end removes it.

    It has the columns of LOG_SCHEMA in the types of agent_execution_logs, so that values can be compared without casts,
    and `file` and `row`, the place of each log. With `as_declared` they round as its columns do.
    Raises ContractError if agent_execution_logs lacks a column.

    Attributes:
        column_types: the PostgreSQL type of each column without its modifier, such as "uuid" or "numeric".
        declared_types: the type with its modifier, such as "numeric(12,6)", of each column that has one.
        written: the columns that the table does not generate.
        takes_uuids: whether `id` can hold the ids of generated logs.
    """

    def __init__(self, connection: Connection, *, as_declared: bool = False) -> None:
        rows = connection.execute(_TARGET_COLUMNS, {"names": list(LOG_SCHEMA)}).all()
        self.column_types: Mapping[str, str] = {name: plain for name, plain, _, _ in rows}
        self.declared_types: Mapping[str, str] = {name: declared for name, _, declared, _ in rows if declared}
        self.written: Sequence[str] = [name for name, _, _, is_generated in rows if not is_generated]
        self.takes_uuids = "id" in self.written and self.column_types.get("id") in _UUID_HOLDERS
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
        staged_as = {**self.column_types, **(self.declared_types if as_declared else {})}
        columns = ", ".join(f'"{name}" {verbatim(staged_as[name])}' for name in LOG_SCHEMA)
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
        counts = ", ".join(f'count("{name}") AS "{name}"' for name in LOG_SCHEMA)
        filled = self._connection.execute(text(f"SELECT {counts}, count(*) AS logs FROM log_staging")).mappings().one()
        # A generated column stays if a log fills it: PostgreSQL then refuses the log.
        columns = [name for name in LOG_SCHEMA if name in self.written or filled[name]]
        stored = 0
        for has_id, logs in ((True, filled["id"]), (False, filled["logs"] - filled["id"])):
            names = ", ".join(f'"{name}"' for name in columns if has_id or name != "id")
            # Also without a log, PostgreSQL refuses a statement that names an id which is GENERATED ALWAYS.
            if logs:
                with refusals_named("agent_execution_logs"):
                    stored += self._connection.execute(
                        text(f"""
                            INSERT INTO agent_execution_logs ({names}) SELECT {names} FROM log_staging
                            WHERE id IS {"NOT NULL" if has_id else "NULL"}
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
        if not isinstance(cause, psycopg.Error) or not (cause.sqlstate or "").startswith(_REFUSALS):
            raise
        reported = (cause.diag.message_primary, cause.diag.message_detail, cause.diag.context)
        said = [f"{part.rstrip('.')}." for part in reported if part]
        if cause.sqlstate == _GENERATED_ALWAYS:
            said.append("Leave the column out of the files, or add --skip-column and its name.")
        raise LogFileError(f"Nothing was loaded: PostgreSQL refuses a log of {place}: {' '.join(said)}") from error
