"""Logins that are refused: whether another attempt may help, and what to check."""

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest

from metrics_pipeline.embedded import acquire, release
from metrics_pipeline.errors import PermanentError, TransientError
from metrics_pipeline.postgres.database import Database
from metrics_pipeline.postgres.faults import database_faults
from metrics_pipeline.postgres.urls import DatabaseUrl
from metrics_pipeline_tests.postgres.test_faults import SECRET, Run, both_ways, by_sqlalchemy, fault


@pytest.fixture(scope="module")
def password_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URI, without user and password, of a server that asks everybody but postgres for a password."""
    home = tmp_path_factory.mktemp("password")
    uri = acquire(home)
    with psycopg.connect(uri, autocommit=True) as connection:
        hba = Path(connection.execute("SHOW hba_file").fetchone()[0])
        hba.write_text("local all postgres trust\nlocal all all scram-sha-256\n")
        connection.execute(f"CREATE ROLE alice LOGIN PASSWORD '{SECRET}'")
        connection.execute(f"CREATE ROLE busy LOGIN PASSWORD '{SECRET}' CONNECTION LIMIT 0")
        connection.execute("CREATE DATABASE private")
        connection.execute("REVOKE CONNECT ON DATABASE private FROM public")
        connection.execute("SELECT pg_reload_conf()")
    bob = urlsplit(uri)._replace(netloc="bob@").geturl()
    while "role" in _refusal(bob):  # under the old rules bob is refused for not existing
        pass
    yield uri
    release(home)


def _refusal(uri: str) -> str:
    try:
        psycopg.connect(uri)
    except psycopg.OperationalError as error:
        return str(error)
    raise AssertionError(uri)


def login(uri: str, user: str, password: str = "", database: str = "postgres") -> Database:
    netloc = f"{user}:{password}@" if password else f"{user}@"
    return Database(DatabaseUrl.parse(urlsplit(uri)._replace(netloc=netloc, path=f"/{database}").geturl()))


@both_ways
@pytest.mark.parametrize(
    ("user", "password", "database", "words"),
    [
        ("alice", SECRET + "x", "postgres", 'password authentication failed for user "alice"'),
        ("nobody", SECRET, "postgres", 'password authentication failed for user "nobody"'),
        ("alice", SECRET, "nowhere", 'database "nowhere" does not exist'),
        ("alice", SECRET, "private", 'permission denied for database "private"'),
    ],
)
def test_a_refused_login_is_permanent(run: Run, user, password, database, words, password_server: str) -> None:
    error = fault(run, login(password_server, user, password, database), "SELECT 1")
    assert isinstance(error, PermanentError)
    assert words in str(error)
    assert "Check user, password and database in METRICS_DATABASE_URL" in str(error)


@both_ways
def test_a_right_password_is_let_in(run: Run, password_server: str) -> None:
    run(login(password_server, "alice", SECRET), "SELECT 1 AS one")


@both_ways
def test_a_missing_password_is_permanent(run: Run, password_server: str) -> None:
    error = fault(run, login(password_server, "alice"), "SELECT 1")
    assert isinstance(error, PermanentError)
    assert "no password supplied" in str(error)


@both_ways
def test_a_used_up_connection_limit_is_transient(run: Run, password_server: str) -> None:
    error = fault(run, login(password_server, "busy", SECRET), "SELECT 1")
    assert isinstance(error, TransientError)
    assert "too many connections" in str(error)
    assert "raise it, for a role with ALTER ROLE … CONNECTION LIMIT." in str(error)


# What servers of PostgreSQL 15 to 18 and PgBouncer say, which the drivers hand on without a SQLSTATE.
@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ("FATAL:  Passwort-Authentifizierung für Benutzer »alice« fehlgeschlagen", PermanentError),
        ("FATAL:  Datenbank »nope« existiert nicht", PermanentError),
        ("FATAL:  authentification par mot de passe échouée pour l'utilisateur « alice »", PermanentError),
        ("ВАЖНО:  база данных \"nope\" не существует", PermanentError),
        ('FATAL:  no pg_hba.conf entry for host "10.0.0.1", user "alice", database "m", no encryption', PermanentError),
        ("FATAL:  no such user", PermanentError),
        ("FATAL:  das Datenbanksystem startet", TransientError),
        ("FATAL:  tut mir leid, schon zu viele Verbindungen", TransientError),
        ("FATAL:  the database system is starting up", TransientError),
        ("FATAL:  sorry, too many clients already", TransientError),
        ('FATAL:  remaining connection slots are reserved for roles with privileges of the "x" role', TransientError),
        ("FATAL:  query_wait_timeout", TransientError),
        ('FATAL:  database "m" is not currently accepting connections', TransientError),
        ("FATAL:  unsupported startup parameter: options", PermanentError),
        ("SSL connection has been closed unexpectedly", TransientError),
    ],
)  # fmt: skip
def test_a_login_refused_in_any_language_is_told_from_one_to_be_tried_again(words: str, kind: type) -> None:
    at = f'connection to server at "10.0.0.9", port 5432 failed: {words}'
    with pytest.raises(kind) as caught, database_faults("the database"):
        raise psycopg.OperationalError(f"connection failed: {at}")
    assert words.split(":  ")[-1] in str(caught.value)
    assert "connection to server" not in str(caught.value)


@pytest.mark.parametrize(
    "words",
    [
        "FATAL:  could not write init file: No space left on device",
        'FATAL:  could not open file "base/5/1259": Too many open files',
        "FATAL:  out of memory",
        "FATAL:  sorry, too many clients already",
        'FATAL:  remaining connection slots are reserved for roles with privileges of the "x" role',
    ],
)
def test_a_server_that_lacks_a_resource_for_a_session_is_not_said_to_be_away(words: str) -> None:
    with pytest.raises(TransientError, match="Free connections, memory or disk space there"), database_faults("x"):
        raise psycopg.OperationalError(f'connection failed: connection to server on socket "/s" failed: {words}')


def test_a_user_whom_the_system_does_not_know_has_to_be_named_in_the_url() -> None:
    with pytest.raises(PermanentError, match="Check METRICS_DATABASE_URL"), database_faults("x"):
        raise psycopg.OperationalError("connection is bad: local user with ID 4711 does not exist")


def test_a_service_that_is_not_defined_is_permanent() -> None:
    database = Database(DatabaseUrl.parse("postgresql:///?service=nowhere"))
    error = fault(by_sqlalchemy, database, "SELECT 1")
    assert isinstance(error, PermanentError)
    assert 'definition of service "nowhere" not found' in str(error)
    assert "the database of service nowhere" in str(error)
