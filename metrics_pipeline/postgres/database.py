"""A PostgreSQL database: its connections, how their sessions are set up, and its name in messages."""

import logging
import math
import os
import select
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from functools import cache, partial
from typing import Any, cast
from weakref import WeakKeyDictionary

import psycopg
from psycopg.conninfo import timeout_from_conninfo
from psycopg.pq import TransactionStatus
from psycopg.sql import Identifier
from sqlalchemy import Connection, Dialect, Engine, NullPool, TextClause, create_engine, event, text
from sqlalchemy.dialects import postgresql
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.pool import ConnectionPoolEntry

from metrics_pipeline.postgres.faults import Login, database_faults
from metrics_pipeline.postgres.urls import DatabaseUrl

#: A server that does not answer must not hold up a run that is told to end.
_CANCEL_SECONDS = 5

#: How long after its own timeout a statement may take to end before the server counts as frozen.
_GRACE_SECONDS = 2

#: In the pool's record of a connection: whether no pooler may give its session to others.
_IS_OUR_SESSION = "is_our_session"

_Connections = WeakKeyDictionary[psycopg.Connection[Any], float]

_log = logging.getLogger(__name__)

#: Settings that our statements and their results need, whatever the role, the database or the environment sets.
_SESSION = {
    "TimeZone": "UTC",
    # psycopg reads no other style, and the oracle's values are compared as text.
    "DateStyle": "ISO, YMD",
    "IntervalStyle": "postgres",
    # String constants in our statements contain backslashes.
    "standard_conforming_strings": "on",
    "bytea_output": "hex",
    "extra_float_digits": "1",
    # Table names come back as text and go into statements.
    "quote_all_identifiers": "off",
    "transform_null_equals": "off",
    # NULL in the text of an array is a value that is missing, not a word.
    "array_nulls": "on",
    "backslash_quote": "safe_encoding",
    # A role may default to read-only transactions. Ours say themselves which they are.
    "default_transaction_read_only": "off",
    "default_transaction_deferrable": "off",
    "default_transaction_isolation": "read committed",
    # The server ends the session of a client that vanished, and with it its locks: after 60 + 6 × 10 s where the
    # network says nothing, and after half an hour where a pooler or a stopped process keeps the connection. No
    # transaction of ours pauses that long: the longest pause is for the last slice of a large day.
    "tcp_keepalives_idle": "60",
    "tcp_keepalives_interval": "10",
    "tcp_keepalives_count": "6",
    "tcp_user_timeout": "120s",
    "idle_in_transaction_session_timeout": "30min",
}
#: A session that was closed counts against the limit of its role until its server process has ended.
_ENDING_SECONDS = 1.0
# In one statement, which also reads what only the role, the database or the server may set.
_SET_UP = (
    "SELECT quote_ident(current_user), current_setting('statement_timeout'), "
    "coalesce((SELECT rolconnlimit FROM pg_catalog.pg_roles WHERE rolname = session_user), -1), "
    + ", ".join(f"set_config('{name}', '{value}', false)" for name, value in _SESSION.items())
)

_EXCLUSIVE_LOCKS = text("""
SELECT pid, usename, state, relation::regclass::text AS "table", left(query, 100) AS query
FROM pg_locks JOIN pg_stat_activity USING (pid)
WHERE granted AND mode = 'AccessExclusiveLock' AND relation IS NOT NULL
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
ORDER BY 1, 4""")


class Database:
    """One PostgreSQL database. The constructor opens no connection and reads no settings.

    `connect`, `begin` and `snapshot` are context managers that turn the driver's exceptions inside their block into
    TransientError, PermanentError or ContractError.

    Attributes:
        engine: SQLAlchemy on psycopg 3, without a pool except for kept connections. Its exceptions are the driver's.
        url: what libpq connects with.
        description: database, host, port and user in words; never a password.
        is_embedded: whether it is our own server, whose tables we may create without being asked.
        login: what the last session found.
        connections: the open ones, also of databases that are derived from this one, except for_reading; and when to
            give each one up.
        statement_timeout_seconds: the limit of a statement for_reading.
    """

    def __init__(self, url: DatabaseUrl, *, before_connecting: Callable[..., None] | None = None) -> None:
        """`before_connecting`, of the embedded server only, is a listener of SQLAlchemy's event `do_connect`."""
        self.description = url.description
        self.is_embedded = before_connecting is not None
        self.url = url
        self._before_connecting = before_connecting
        self.login = Login()
        self.connections: _Connections = WeakKeyDictionary()
        self.statement_timeout_seconds = 0
        # No pool: a run makes a handful of transactions, and a local connection costs 3 ms. A connection that is not
        # kept is never found dead after a restart of the server, is never shared with a fork, and never delays the
        # shutdown of the embedded server.
        self.engine: Engine = self._engine(self.login, self.connections, poolclass=NullPool)

    @contextmanager
    def connect(self) -> Iterator[Connection]:
        """A connection whose transaction is rolled back at the end of the block."""
        with database_faults(self.description, self.login), self.engine.connect() as connection:
            yield connection

    @contextmanager
    def begin(self) -> Iterator[Connection]:
        """A connection whose transaction is committed at the end of the block, or rolled back by an exception."""
        with database_faults(self.description, self.login), self.engine.begin() as connection:
            yield connection

    @contextmanager
    def snapshot(self) -> Iterator[Connection]:
        """A read-only transaction whose statements all see one state of the database."""
        with self.connect() as connection:
            yield connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)

    @contextmanager
    def keeping_connections(self) -> Iterator["Database"]:
        """The same database with connections that stay open between transactions, for a block of many short ones.

        Otherwise a backfill would wait twice per day for a new server process to read the catalog. A connection that
        was lost while idle is replaced.
        """
        kept = copy(self)
        kept.engine = self._engine(self.login, self.connections, pool_size=2, max_overflow=-1, pool_pre_ping=True)
        is_over = False

        # A thread that nobody waits for, such as a reader that found nothing left to read, may connect afterwards.
        @event.listens_for(kept.engine, "checkin")
        def close_if_over(_connection: object, record: ConnectionPoolEntry) -> None:
            if is_over:
                record.invalidate()

        try:
            yield kept
        finally:
            is_over = True
            kept.engine.dispose()

    def for_reading(self, *, connections: int, statement_timeout_seconds: int) -> "Database":
        """The same database for many small reads: at most `connections`, kept open and replaced if they were closed.

        Its transactions are read-only. No statement in them takes longer than the timeout, and neither does connecting.
        A caller that finds no connection free within 5 seconds gets sqlalchemy.exc.TimeoutError. The caller disposes of
        the engine.
        cancel_statements and give_up_statements of the result are about its own connections only, and read_row is for
        the result only.
        """
        opened: _Connections = WeakKeyDictionary()
        engine = self._engine(
            Login(),
            opened,
            most_connecting_seconds=statement_timeout_seconds,
            pool_size=connections,
            max_overflow=0,
            pool_timeout=5,
        ).execution_options(postgresql_readonly=True)

        @event.listens_for(engine, "checkout")
        def require_open(connection: psycopg.Connection[Any], *_: object) -> None:
            # A server that ends a session closes the connection, so there is something to read. A ping would
            # take a fifth of the round trips of a short answer.
            poll = select.poll()
            poll.register(connection.fileno(), select.POLLIN)
            if poll.poll(0):
                raise DisconnectionError

        event.listen(engine, "connect", partial(_limit_session, statement_timeout_seconds, self.url.schema))

        @event.listens_for(engine, "begin")
        def limit_transaction(connection: Connection) -> None:
            if not connection.info[_IS_OUR_SESSION]:
                # By the driver: through SQLAlchemy, this takes as long as a short answer's own statement.
                driver: Any = connection.connection.driver_connection
                driver.execute(f"SET LOCAL statement_timeout = '{statement_timeout_seconds}s'")

        @event.listens_for(engine, "before_cursor_execute")
        def set_deadline(connection: Connection, *_: object) -> None:
            driver: Any = connection.connection.driver_connection
            opened[driver] = time.monotonic() + statement_timeout_seconds + _GRACE_SECONDS

        reading = copy(self)
        # Not what its sessions find, because the timeout is ours.
        reading.engine, reading.login, reading.connections = engine, Login(), opened
        reading.statement_timeout_seconds = statement_timeout_seconds
        return reading

    def read_row(self, statement: TextClause, parameters: Mapping[str, Any]) -> Sequence[Any]:
        """The only row of a statement, which is prepared once per session and runs outside of a transaction.

        For short answers: through SQLAlchemy, in a transaction, the same takes four times as much processor time.
        """
        with database_faults(self.description, self.login):
            pooled = self.engine.raw_connection()
            try:
                if pooled.info[_IS_OUR_SESSION]:
                    driver: Any = pooled.driver_connection
                    self.connections[driver] = time.monotonic() + self.statement_timeout_seconds + _GRACE_SECONDS
                    driver.autocommit, driver.prepare_threshold = True, 0
                    try:
                        (row,) = driver.execute(_of_driver(statement), parameters).fetchall()
                    finally:
                        if driver.closed:
                            pooled.invalidate()
                        else:
                            driver.autocommit, driver.prepare_threshold = False, None
                    return cast("Sequence[Any]", row)
            finally:
                pooled.close()
        with self.connect() as connection:
            return connection.execute(statement, dict(parameters)).one()

    def within(self, seconds: float, *, lock_seconds: float) -> "Database":
        """The same database for readers that have a deadline: from now on all statements together take `seconds`.

        A statement that runs at the deadline is cancelled, and so is one that waits for a lock for `lock_seconds`: both
        are a TransientError.
        """
        deadline = time.monotonic() + seconds
        hurried = copy(self)
        # Not what its sessions find, because the timeouts are ours.
        hurried.login = Login()
        hurried.engine = self._engine(hurried.login, self.connections, poolclass=NullPool)

        @event.listens_for(hurried.engine, "before_cursor_execute")
        def limit(_connection: Connection, cursor: Any, *_: object) -> None:
            # After an error the server takes nothing but the rollback to a savepoint.
            if cursor.connection.info.transaction_status is TransactionStatus.INERROR:
                return
            left_ms = max(1, int((deadline - time.monotonic()) * 1000))
            cursor.execute(
                "SELECT set_config('statement_timeout', %s, true), set_config('lock_timeout', %s, true)",
                (f"{left_ms}ms", f"{int(lock_seconds * 1000)}ms"),
            )

        return hurried

    def cancel_statements(self) -> None:
        """Cancels what the server executes for this database's connections now. Any thread may call it.

        A thread that waits for the server then gets a TransientError; otherwise Python cannot interrupt it. If the
        server cannot be reached, the thread's connection is lost as well, and its error is the one that counts.
        """
        for connection in list(self.connections):
            if connection.info.transaction_status is TransactionStatus.ACTIVE:
                try:
                    connection.cancel_safe(timeout=_CANCEL_SECONDS)
                except psycopg.Error as error:
                    _log.warning("A statement in %s could not be cancelled. %s", self.description, error)

    def give_up_statements(self) -> None:
        """Closes connections for_reading whose statement did not end in time: its thread gets a TransientError.

        A host or a server that is frozen neither answers nor closes a connection, and the server's own timeout does not
        apply. Any thread may call it, every second or so.
        """
        for connection, deadline in list(self.connections.items()):
            if connection.info.transaction_status is TransactionStatus.ACTIVE and time.monotonic() > deadline:
                _log.warning("%s did not end a statement in time. The connection is given up.", self.description)
                with socket.socket(fileno=os.dup(connection.fileno())) as duplicate:
                    duplicate.shutdown(socket.SHUT_RDWR)

    def _engine(
        self, login: Login, opened: _Connections, *, most_connecting_seconds: float = math.inf, **pool: Any
    ) -> Engine:
        engine = create_engine(
            "postgresql+psycopg://",
            # The URL has no parameters, so no message or repr of SQLAlchemy can show a secret.
            # prepare_threshold: PgBouncer before 1.21 loses prepared statements in transaction mode.
            connect_args={**self.url.parameters, "prepare_threshold": None},
            # Not the server's default: a statement that waited for a lock must see what the lock's holder committed.
            isolation_level="READ COMMITTED",
            hide_parameters=True,
            **pool,
        )
        # Before SQLAlchemy's own first questions to the server.
        event.listen(engine, "connect", partial(_set_up_session, login), insert=True)
        if self.url.schema is not None:
            search_path = f"SET LOCAL search_path TO {Identifier(self.url.schema).as_string()}"

            # For each transaction, because a pooler would pass a session's on to other clients.
            @event.listens_for(engine, "begin")
            def set_search_path(connection: Connection) -> None:
                driver: Any = connection.connection.driver_connection
                driver.execute(search_path)

        if self._before_connecting is not None:
            event.listen(engine, "do_connect", self._before_connecting)
        # The last of its kind: after a listener that connects, SQLAlchemy calls no other.
        event.listen(engine, "do_connect", partial(_connect, most_connecting_seconds))
        event.listen(engine, "connect", lambda connection, _record: opened.setdefault(connection, math.inf))
        return engine

    def __repr__(self) -> str:
        return f"Database({self.description!r})"


def exclusive_locks(connection: Connection) -> list[str]:
    """The locks of whole tables that keep readers out of this database, each with the session that holds it."""
    return [
        f"process {row.pid} ({row.usename}, {row.state}) holds {row.table}: {row.query}"
        for row in connection.execute(_EXCLUSIVE_LOCKS)
    ]


def _connect(
    most_seconds: float, dialect: Dialect, _record: object, arguments: Sequence[Any], parameters: dict[str, Any]
) -> DBAPIConnection:
    # A frozen server accepts the connection, and then says nothing.
    limited = {**parameters, "connect_timeout": min(timeout_from_conninfo(parameters), most_seconds)}
    until = time.monotonic() + _ENDING_SECONDS
    while True:
        try:
            return dialect.connect(*arguments, **limited)
        except psycopg.OperationalError as error:
            if "too many connections for role" not in str(error) or time.monotonic() > until:
                raise
            time.sleep(_ENDING_SECONDS / 50)


@cache
def _of_driver(statement: TextClause) -> str:
    return str(statement.compile(dialect=postgresql.psycopg.dialect()))  # type: ignore[no-untyped-call]


def _limit_session(
    statement_timeout_seconds: int,
    schema: str | None,
    connection: psycopg.Connection[Any],
    record: ConnectionPoolEntry,
) -> None:
    # A pooler gives each client a process number of its own making, by which it finds the statement to cancel. It
    # would pass settings of the session on to sessions of the pipeline, and PgBouncer before 1.21 loses prepared
    # statements in transaction mode.
    connection.autocommit = True
    is_ours = connection.execute("SELECT pg_backend_pid()").fetchone() == (connection.info.backend_pid,)
    if is_ours:
        connection.execute(
            f"SELECT set_config('statement_timeout', '{statement_timeout_seconds}s', false), "
            "set_config('default_transaction_read_only', 'on', false)"
        )
        if schema is not None:
            connection.execute("SELECT set_config('search_path', quote_ident(%s), false)", [schema])
    connection.autocommit = False
    record.info[_IS_OUR_SESSION] = is_ours


def _set_up_session(login: Login, connection: psycopg.Connection[Any], _record: object) -> None:
    # A statement, because PgBouncer refuses the start-up parameter `options`; in autocommit, because a rollback would
    # undo the settings.
    connection.autocommit = True
    for row in connection.execute(_SET_UP):
        login.role, login.statement_timeout, login.connection_limit = row[:3]
    connection.autocommit = False
