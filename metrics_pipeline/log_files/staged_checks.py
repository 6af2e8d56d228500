"""Checks that compare staged logs with each other and with the database: repeated ids, unknown agents, precision."""

from collections.abc import Sequence

from sqlalchemy import Connection, text

from metrics_pipeline.errors import LogFileError
from metrics_pipeline.log_files.log_file import LogFile
from metrics_pipeline.log_files.problems import Problems
from metrics_pipeline.log_files.schema import COLUMNS, REQUIRED_COLUMNS
from metrics_pipeline.log_files.staging import LogStaging, refusals_named, verbatim
from metrics_pipeline.metrics.upstream import Kind

_SHOWN_AGENTS = 10


def _is_same(name: str) -> str:
    # The planner can join by `=`, which is right only where neither side is NULL. json has no equality; jsonb has.
    equals = "=" if name in REQUIRED_COLUMNS else "IS NOT DISTINCT FROM"
    cast = "::jsonb" if COLUMNS[name] is Kind.JSON else ""
    return f'old."{name}"{cast} {equals} new."{name}"{cast}'


_REPEATED = """
    SELECT file, row, id AS value FROM (
        SELECT file, row, id, row_number() OVER (PARTITION BY id ORDER BY file, row) AS occurrence FROM log_staging
        WHERE id IN (SELECT id FROM log_staging GROUP BY id HAVING count(*) > 1)
    ) repeated WHERE occurrence > 1
"""
_STORED = """
    SELECT file, row, id AS value FROM log_staging new
    WHERE EXISTS (SELECT FROM agent_execution_logs old WHERE old.id = new.id)
"""


def _same_values(staging: LogStaging) -> str:
    return " AND ".join(_is_same(name) for name in staging.written if name != "id")


def _has_twin(staging: LogStaging) -> str:
    return f"new.id IS NULL AND EXISTS (SELECT FROM agent_execution_logs old WHERE {_same_values(staging)})"


def check_precision(connection: Connection, staging: LogStaging, files: Sequence[LogFile], problems: Problems) -> None:
    """Adds a problem for each value that its column would round or cut, as numeric(12,6) does with nine decimals."""
    for name, declared in staging.declared_types.items():
        query = f"""
            SELECT file, row, "{name}" AS value FROM log_staging
            WHERE "{name}" IS DISTINCT FROM "{name}"::{verbatim(declared)}
        """
        reason = f"would not be kept exactly: the table's column is {declared}"
        with refusals_named(f"the files, because the table's column {name} is {declared}"):
            _add_found(connection, query, files, problems, name, reason)


def remove_known(connection: Connection, staging: LogStaging) -> int:
    """Deletes staged logs that are stored with the same values or repeat an earlier one; returns how many.

    A log without an id counts as stored if a stored log equals it in every other column.
    """
    same_values = _same_values(staging)
    statements = (
        f"""DELETE FROM log_staging new USING log_staging old
            WHERE old.id = new.id AND (old.file, old.row) < (new.file, new.row) AND {same_values}""",
        f"DELETE FROM log_staging new USING agent_execution_logs old WHERE old.id = new.id AND {same_values}",
        f"DELETE FROM log_staging new WHERE {_has_twin(staging)}",
    )
    return sum(connection.execute(text(statement)).rowcount for statement in statements)


def check_unknown(
    connection: Connection, staging: LogStaging, files: Sequence[LogFile], problems: Problems, *, known_removed: bool
) -> None:
    """Adds a problem for each log that is stored already or repeats the id of an earlier one."""
    remedy = "; --skip-existing leaves out logs that are stored with the same values"
    but = ", with other values" if known_removed else ""
    for query, reason in (
        (_REPEATED, f"is in the files twice{but}"),
        (_STORED, f"is stored already{but or remedy}"),
        (
            f"SELECT file, row, id AS value FROM log_staging new WHERE {_has_twin(staging)}",
            f"has no id, and a log with the same values is stored already{remedy}",
        ),
    ):
        _add_found(connection, query, files, problems, "id", reason)


def unregistered_agents(connection: Connection) -> list[str]:
    """The agents of the staged logs that are not in agent_registry, sorted."""
    return list(
        connection.execute(
            text("""
                SELECT agent_id FROM (SELECT DISTINCT agent_id::text AS agent_id FROM log_staging) staged
                WHERE NOT EXISTS (SELECT FROM agent_registry WHERE agent_registry.id::text = staged.agent_id) ORDER BY 1
            """)
        ).scalars()
    )


def refuse_unregistered(agents: Sequence[str]) -> None:
    """Raises LogFileError, which names the first of `agents`, unless there are none."""
    if agents:
        shown = ", ".join(map(repr, agents[:_SHOWN_AGENTS])) + (", …" if len(agents) > _SHOWN_AGENTS else "")
        raise LogFileError(
            f"Nothing was loaded: {len(agents):,} of the logs' agents are not in agent_registry: {shown}. "
            "Register them there, or load with --register-agents."
        )


def _add_found(
    connection: Connection, query: str, files: Sequence[LogFile], problems: Problems, column: str, reason: str
) -> None:
    """Adds a problem for each row (file, row, value) of `query`. Fetches only the rows that the error will show."""
    rows = connection.execute(
        text(f"SELECT file, row, value::text, count(*) OVER () FROM ({query}) found ORDER BY 1, 2 LIMIT :shown"),
        # At least one row, because it carries the count.
        {"shown": max(problems.room, 1)},
    ).all()
    for file, row, value, _ in rows:
        files[file].problem(row, reason, column=column, value=value)
    if rows:
        problems.count(rows[0][-1] - len(rows))
