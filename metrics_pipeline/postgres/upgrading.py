"""Brings our tables to the newest revision, and says which revision a database has."""

import time
from dataclasses import dataclass
from functools import cache

import psycopg
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

from metrics_pipeline.errors import ContractError, PermanentError, TransientError
from metrics_pipeline.names import METRICS_TABLE, TABLES_LOCK
from metrics_pipeline.postgres.database import Database
from metrics_pipeline.postgres.migrations.adoption import Adoption, metrics_exist, plan_adoption
from metrics_pipeline.postgres.migrations.readable import READABLE, unreadable_rows
from metrics_pipeline.postgres.tables import metadata, upstream_metadata

#: Not Alembic's default name, which the platform's own migrations may use in the same schema.
VERSION_TABLE = "metrics_pipeline_alembic_version"

_VERSION_TABLE_EXISTS = text("SELECT to_regclass(:table) IS NOT NULL").bindparams(table=VERSION_TABLE)
_REVISION = text(f"SELECT version_num FROM {VERSION_TABLE}")

_LOCK = text("SELECT pg_advisory_xact_lock(:key)").bindparams(key=TABLES_LOCK)

# While ALTER TABLE waits for a transaction that has read the table, every new reader waits behind it.
_LOCK_TIMEOUT_MS = 5_000
_PAUSES_SECONDS = (2, 5, 10)

_HOLDERS = text("""
SELECT DISTINCT relation::regclass::text AS table, a.pid, a.usename, a.application_name, gid,
       extract(epoch FROM now() - coalesce(a.xact_start, prepared))::bigint AS seconds
  FROM pg_locks AS lock
  LEFT JOIN pg_stat_activity AS a USING (pid)
  LEFT JOIN pg_prepared_xacts ON pid IS NULL AND virtualtransaction = '-1/' || transaction
 WHERE granted AND lock.database = (SELECT oid FROM pg_database WHERE datname = current_database())
   AND relation = ANY (SELECT to_regclass(name)::oid FROM unnest(CAST(:tables AS text[])) AS name)
 ORDER BY seconds DESC NULLS LAST LIMIT 5""").bindparams(tables=list(metadata.tables))

_SIZE = text("""
SELECT greatest(reltuples, 0)::bigint AS rows, pg_size_pretty(pg_total_relation_size(oid)) AS size
  FROM pg_class WHERE oid = to_regclass(:table)""").bindparams(table=METRICS_TABLE)


@dataclass(frozen=True)
class Upgrade:
    """What an upgrade did: the revision before, None for a database without our tables, and the one after."""

    before: str | None
    after: str


@dataclass(frozen=True)
class Plan:
    """What an upgrade would do.

    before: the revision of the database. revisions: each missing one with its first sentence, the oldest first. For an
    agent_performance_metrics that another program made: adoption, and its estimated rows and size.
    problems: why the upgrade would be refused.
    """

    before: str | None
    revisions: list[tuple[str, str]]
    adoption: Adoption | None
    rows: int
    size: str
    problems: list[str]


def upgrade(database: Database) -> Upgrade:
    """Applies the missing revisions in one transaction. If several processes try, one does so and the others wait.

    Raises ContractError for tables that cannot be adopted and PermanentError for a database newer than this package.
    Raises TransientError, which names who uses the tables, if they do not become free.
    """
    pauses = iter(_PAUSES_SECONDS)
    while True:
        try:
            return _upgrade(database)
        except TransientError as error:
            if not isinstance(error.__cause__, psycopg.errors.LockNotAvailable):
                raise
            pause = next(pauses, None)
            if pause is None:
                raise TransientError(f"{error} {_holders(database)}") from error
        time.sleep(pause)


def _upgrade(database: Database) -> Upgrade:
    with database.begin() as connection:
        # Another upgrade, and the rewrite of a large table, may take longer than a limit of the role.
        connection.exec_driver_sql("SET LOCAL lock_timeout = 0; SET LOCAL statement_timeout = 0")
        connection.execute(_LOCK)
        before = current_revision(connection)
        if before != head_revision():
            _refuse_unknown(before)
            _refuse_encoding(connection)
            connection.exec_driver_sql(f"SET LOCAL lock_timeout = {_LOCK_TIMEOUT_MS}")
            config = _config()
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
        return Upgrade(before, head_revision())


def plan_upgrade(database: Database) -> Plan:
    """What `upgrade` would do now. Changes nothing; reads an existing agent_performance_metrics as a whole."""
    with database.snapshot() as connection:
        before = current_revision(connection)
        _refuse_unknown(before)
        _refuse_encoding(connection)
        missing = _revisions()[: _revisions().index(before)] if before else _revisions()
        scripts = ScriptDirectory.from_config(_config())
        revisions = [(name, scripts.get_revision(name).doc) for name in reversed(missing)]
        adoption = None
        problems = []
        size = connection.execute(_SIZE).one_or_none()
        if missing and metrics_exist(connection):
            adoption = plan_adoption(connection) if before is None else None
            problems = adoption.problems if adoption else unreadable_rows(connection, READABLE)
        return Plan(before, revisions, adoption, size.rows if size else 0, size.size if size else "", problems)


def create_upstream_tables(database: Database) -> None:
    """Creates the upstream tables that are missing, in databases that no other system fills."""
    with database.begin() as connection:
        connection.execute(_LOCK)
        upstream_metadata.create_all(connection)


def current_revision(connection: Connection) -> str | None:
    """The database's revision; None if it has none of our tables."""
    # Not through Alembic, which takes 5 ms: a hundredth of the time for a day of a million logs.
    has_version = connection.execute(_VERSION_TABLE_EXISTS).scalar_one()
    revision: str | None = connection.execute(_REVISION).scalar_one_or_none() if has_version else None
    return revision


def head_revision() -> str:
    """The newest revision in this package."""
    return _revisions()[0]


def require_current(connection: Connection) -> None:
    """Raises PermanentError, with the remedy, unless the database has exactly this package's revision."""
    revision = current_revision(connection)
    if revision == head_revision():
        return
    _refuse_unknown(revision)
    raise PermanentError(
        f"Our tables are {'missing' if revision is None else f'at revision {revision}'}, needed is {head_revision()}. "
        "Run `metrics-pipeline db upgrade`."
    )


def _holders(database: Database) -> str:
    with database.connect() as connection:
        holders = connection.execute(_HOLDERS).all()
    named = "; ".join(
        f"{holder.table} is used by "
        + (f"the prepared transaction {holder.gid}" if holder.gid else f"process {holder.pid}")
        + (f" ({holder.application_name or 'without application_name'}, role {holder.usename})" if holder.pid else "")
        + (f" in a transaction of {holder.seconds} s" if holder.seconds is not None else "")
        for holder in holders
    )
    return (
        f"Nothing was changed. {named or 'It is free now'}. Let these transactions end, or end them with "
        "pg_terminate_backend or ROLLBACK PREPARED, and run `metrics-pipeline db upgrade` again."
    )


def _refuse_encoding(connection: Connection) -> None:
    encoding = connection.exec_driver_sql("SHOW server_encoding").scalar_one()
    if encoding != "UTF8":
        raise ContractError(
            f"The database's encoding is {encoding}, needed is UTF8. Nothing was changed. Create a database with "
            "ENCODING 'UTF8' TEMPLATE template0."
        )


def _refuse_unknown(revision: str | None) -> None:
    if revision is not None and revision not in _revisions():
        raise PermanentError(
            f"Our tables are at revision {revision}, which this version of metrics-pipeline does not know "
            f"(its newest is {head_revision()}). Install the version that made them, or a newer one."
        )


@cache
def _revisions() -> tuple[str, ...]:
    return tuple(script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions())


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", "metrics_pipeline.postgres:migrations")
    return config
