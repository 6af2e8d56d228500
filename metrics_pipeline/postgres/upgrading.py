"""Brings our tables to the newest revision, and says which revision a database has."""

from dataclasses import dataclass
from functools import cache

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

from metrics_pipeline.errors import PermanentError
from metrics_pipeline.names import TABLES_LOCK
from metrics_pipeline.postgres.database import Database
from metrics_pipeline.postgres.tables import upstream_metadata

#: Not Alembic's default name, which the platform's own migrations may use in the same schema.
VERSION_TABLE = "metrics_pipeline_alembic_version"

_VERSION_TABLE_EXISTS = text("SELECT to_regclass(:table) IS NOT NULL").bindparams(table=VERSION_TABLE)
_REVISION = text(f"SELECT version_num FROM {VERSION_TABLE}")

_LOCK = text("SELECT pg_advisory_xact_lock(:key)").bindparams(key=TABLES_LOCK)


@dataclass(frozen=True)
class Upgrade:
    """What an upgrade did: the revision before, None for a database without our tables, and the one after."""

    before: str | None
    after: str


def upgrade(database: Database) -> Upgrade:
    """Applies the missing revisions in one transaction. If several processes try, one does so and the others wait.

    Raises ContractError for tables that cannot be adopted and PermanentError for a database newer than this package.
    """
    with database.begin() as connection:
        connection.execute(_LOCK)
        before = current_revision(connection)
        if before != head_revision():
            _refuse_unknown(before)
            config = _config()
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
        return Upgrade(before, head_revision())


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
