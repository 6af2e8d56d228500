"""The one way to a connection: which server, how its sessions are set up, and its name for messages."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import adbc_driver_postgresql.dbapi
import psycopg
from sqlalchemy import Engine, NullPool, create_engine, event

from metrics_pipeline.settings import Settings
from metrics_pipeline.storage.embedded import acquire
from metrics_pipeline.storage.faults import database_faults
from metrics_pipeline.storage.migrating import create_upstream_tables, upgrade
from metrics_pipeline.storage.urls import DatabaseUrl

_SESSION = "SET TIME ZONE 'UTC'"


class Database:
    """One PostgreSQL database. Making one opens no connection.

    Attributes:
        engine: SQLAlchemy on psycopg 3, without a pool.
        description: database, host, port and user in words; never a password.
        is_embedded: whether it is our own server, whose tables we may create without being asked.
    """

    def __init__(self, url: DatabaseUrl, *, is_embedded: bool = False) -> None:
        self.description = url.description
        self.is_embedded = is_embedded
        self._url = url
        # No pool: a run makes a handful of transactions, and a local connection costs 3 ms. A connection that is not
        # kept is never found dead after a restart of the server, never shared by a fork, and never delays the embedded
        # server's end.
        self.engine: Engine = create_engine(
            "postgresql+psycopg://",
            # The URL stays bare, so no message or repr of SQLAlchemy's can show a secret of the parameters.
            # prepare_threshold: PgBouncer before 1.21 loses prepared statements in transaction mode.
            connect_args={**url.parameters, "prepare_threshold": None},
            poolclass=NullPool,
            # Whatever the server's default is: who waited for a lock has to see what its holder committed.
            isolation_level="READ COMMITTED",
            hide_parameters=True,
        )
        event.listen(self.engine, "connect", _set_up_session)

    @classmethod
    def from_settings(cls, settings: Settings) -> "Database":
        """The database that METRICS_DATABASE_URL names, which is left as it is and not connected to.

        Without a URL it is the embedded one: its server is started if need be, and its tables are created or upgraded.
        Raises SettingsError for a URL that cannot be read; embedded, also what the server's start and upgrade raise.
        """
        if settings.database_url is not None:
            return cls(DatabaseUrl.parse(settings.database_url))
        url = DatabaseUrl.parse(acquire(settings.home), source="The embedded server's URI")
        database = cls(replace(url, description=f"the embedded database in {settings.home}"), is_embedded=True)
        with database_faults(database.description):
            create_upstream_tables(database.engine)
            upgrade(database.engine)
        return database

    def __repr__(self) -> str:
        return f"Database({self.description!r})"

    @contextmanager
    def adbc_connect(self) -> Iterator[adbc_driver_postgresql.dbapi.Connection]:
        """A connection that reads Arrow: a transaction is open, and what is not committed is rolled back at the end."""
        with adbc_driver_postgresql.dbapi.connect(self._url.libpq_uri) as connection:
            with connection.cursor() as cursor:
                cursor.execute(_SESSION)
            connection.commit()
            yield connection


def _set_up_session(connection: psycopg.Connection[Any], _record: object) -> None:
    # A statement, because PgBouncer refuses the start-up parameter `options`; in autocommit, because a SET
    # inside a transaction is undone with it.
    connection.autocommit = True
    connection.execute(_SESSION)
    connection.autocommit = False
