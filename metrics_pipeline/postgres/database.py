"""The one way to a connection: which server, how its sessions are set up, and its name for messages."""

from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from dataclasses import replace
from typing import Any

import psycopg
from sqlalchemy import Connection, Engine, NullPool, create_engine, event

from metrics_pipeline.embedded import acquire
from metrics_pipeline.postgres.faults import database_faults
from metrics_pipeline.postgres.upgrading import create_upstream_tables, upgrade
from metrics_pipeline.postgres.urls import DatabaseUrl
from metrics_pipeline.settings import Settings

_SESSION = "SET TIME ZONE 'UTC'"


class Database:
    """One PostgreSQL database. Making one opens no connection.

    Attributes:
        engine: SQLAlchemy on psycopg 3, without a pool but within `keeping_connections`.
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
        self.engine: Engine = self._engine(poolclass=NullPool)

    @contextmanager
    def keeping_connections(self) -> Iterator["Database"]:
        """The same database, whose connections stay open between transactions, for a block of many short ones.

        A backfill would otherwise wait twice a day for a new process of the server to read the catalog. A connection
        that was lost while nobody used it is replaced.
        """
        kept = copy(self)
        kept.engine = self._engine(pool_size=2, max_overflow=-1, pool_pre_ping=True)
        try:
            yield kept
        finally:
            kept.engine.dispose()

    def reading_engine(self, *, connections: int, statement_timeout_seconds: int) -> Engine:
        """An engine for a server of many small reads: at most `connections`, kept open and probed before each use.

        Its transactions are read-only, and no statement in them takes longer than the timeout. Who finds no connection
        free within 5 seconds gets sqlalchemy.exc.TimeoutError.
        """
        engine = self._engine(pool_size=connections, max_overflow=0, pool_timeout=5, pool_pre_ping=True)
        engine = engine.execution_options(postgresql_readonly=True)

        # Per transaction, not per session: PgBouncer would hand a session's settings on to a pipeline's.
        @event.listens_for(engine, "begin")
        def limit(connection: Connection) -> None:
            connection.exec_driver_sql(f"SET LOCAL statement_timeout = '{statement_timeout_seconds}s'")

        return engine

    def _engine(self, **pool: Any) -> Engine:
        engine = create_engine(
            "postgresql+psycopg://",
            # The URL stays bare, so no message or repr of SQLAlchemy's can show a secret of the parameters.
            # prepare_threshold: PgBouncer before 1.21 loses prepared statements in transaction mode.
            connect_args={**self._url.parameters, "prepare_threshold": None},
            # Whatever the server's default is: who waited for a lock has to see what its holder committed.
            isolation_level="READ COMMITTED",
            hide_parameters=True,
            **pool,
        )
        event.listen(engine, "connect", _set_up_session)
        return engine

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


def _set_up_session(connection: psycopg.Connection[Any], _record: object) -> None:
    # A statement, because PgBouncer refuses the start-up parameter `options`; in autocommit, because a SET
    # inside a transaction is undone with it.
    connection.autocommit = True
    connection.execute(_SESSION)
    connection.autocommit = False
