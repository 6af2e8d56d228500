"""Faults of a database: which may pass, which stay until somebody acts, and what the message says."""

import socket
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import psycopg
import pytest
from sqlalchemy import text

from metrics_pipeline.errors import ContractError, PermanentError, PipelineError, TransientError
from metrics_pipeline.postgres.database import Database
from metrics_pipeline.postgres.faults import database_faults
from metrics_pipeline.postgres.urls import DatabaseUrl
from metrics_pipeline_tests.days import execute
from metrics_pipeline_tests.processes import HANGING_SECONDS

SECRET = "s3cret-Pa55"

Run = Callable[..., None]


def by_sqlalchemy(database: Database, *statements: str) -> None:
    with database.connect() as connection:
        for statement in statements:
            connection.execute(text(statement))


def by_cursor(database: Database, *statements: str) -> None:
    """As the logs are read: past SQLAlchemy."""
    with (
        database_faults(database.description, database.login),
        database.engine.connect() as connection,
        connection.connection.cursor(binary=True) as cursor,
    ):
        for statement in statements:
            cursor.execute(statement)


both_ways = pytest.mark.parametrize("run", [by_sqlalchemy, by_cursor])


def fault(run: Run, database: Database, *statements: str) -> PipelineError:
    """The error that the statements raise: one line that names the database, and no secret in its chain of causes."""
    with pytest.raises(PipelineError) as caught:
        run(database, *statements)
    message = str(caught.value)
    assert database.description in message
    assert "\n" not in message
    assert SECRET not in "".join(traceback.format_exception(caught.value))
    assert caught.value.__cause__ is not None
    return caught.value


@both_ways
def test_a_server_that_does_not_listen_is_transient(run: Run) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        database = Database(DatabaseUrl.parse(f"postgresql://alice:{SECRET}@127.0.0.1:{port}/metrics"))
        error = fault(run, database, "SELECT 1")
    assert isinstance(error, TransientError)
    assert "Connection refused. Check that the server runs" in str(error)


@pytest.mark.parametrize(("host", "said"), [("/m?host=/nowhere", "No such file"), ("h.invalid/m", "h.invalid")])
@both_ways
def test_a_missing_socket_and_a_host_without_an_address_are_transient(run: Run, host: str, said: str) -> None:
    error = fault(run, Database(DatabaseUrl.parse(f"postgresql://alice:{SECRET}@{host}")), "SELECT 1")
    assert isinstance(error, TransientError)
    assert said in str(error)


@both_ways
def test_a_server_that_never_answers_is_transient(run: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        uri = f"postgresql://alice:{SECRET}@127.0.0.1:{silent.getsockname()[1]}/m?connect_timeout=2"
        error = fault(run, Database(DatabaseUrl.parse(uri)), "SELECT 1")
    assert isinstance(error, TransientError)
    assert "timeout" in str(error)


def test_readers_wait_for_a_server_that_never_answers_no_longer_than_for_a_statement() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        uri = f"postgresql://127.0.0.1:{silent.getsockname()[1]}/m?connect_timeout={2 * HANGING_SECONDS}"
        reading = Database(DatabaseUrl.parse(uri)).for_reading(connections=1, statement_timeout_seconds=2)
        asked = ThreadPoolExecutor(1).submit(fault, by_sqlalchemy, reading, "SELECT 1")
        assert isinstance(asked.result(HANGING_SECONDS), TransientError)


@both_ways
def test_a_server_without_the_encryption_that_the_url_demands_is_permanent(run: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(1) as thread:

        def decline() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(8)
                connection.sendall(b"N")

        declined = thread.submit(decline)
        uri = f"postgresql://alice:{SECRET}@127.0.0.1:{server.getsockname()[1]}/m?gssencmode=disable&sslmode=require"
        error = fault(run, Database(DatabaseUrl.parse(uri)), "SELECT 1")
        declined.result()
    assert isinstance(error, PermanentError)
    assert "SSL was required" in str(error)


@both_ways
@pytest.mark.parametrize(("option", "words"), [("sslmode=always", "invalid sslmode value"), ("port=99999", "port")])
def test_an_option_that_cannot_work_is_permanent(run: Run, option: str, words: str) -> None:
    error = fault(run, Database(DatabaseUrl.parse(f"postgresql://alice:{SECRET}@127.0.0.1/m?{option}")), "SELECT 1")
    assert isinstance(error, PermanentError)
    assert words in str(error)


@both_ways
@pytest.mark.parametrize(
    ("statement", "kind", "words"),
    [
        ("SELECT * FROM nowhere", ContractError, 'relation "nowhere" does not exist (SQLSTATE 42P01). Run `metrics-p'),
        ("SELECT nothing FROM agent_registry", ContractError, "(SQLSTATE 42703). Run `metrics-pipeline db check`"),
        ("SELECT 1 / 0 AS x", PermanentError, "division by zero (SQLSTATE 22012)"),
        ("SELECT 1 FROM", PermanentError, "(SQLSTATE 42601)"),
    ],
)
def test_a_statement_that_never_can_work_is_permanent(run: Run, statement, kind, words, database: Database) -> None:
    error = fault(run, database, statement)
    assert type(error) is kind
    assert words in str(error)


@pytest.mark.parametrize(
    ("statement", "remedy"),
    [
        ("SELECT name FROM agent_registry", "GRANT SELECT ON TABLE agent_registry TO postgres."),
        ("DELETE FROM agent_registry", "GRANT SELECT, DELETE ON TABLE agent_registry TO postgres."),
        (
            "INSERT INTO agent_registry SELECT * FROM agent_registry ON CONFLICT (id) DO UPDATE SET name = ''",
            "GRANT SELECT, INSERT, UPDATE ON TABLE agent_registry TO postgres.",
        ),
        ("CREATE TABLE public.x (y int)", "GRANT CREATE ON SCHEMA public TO postgres."),
        ("SELECT * FROM hidden.x", "GRANT USAGE ON SCHEMA hidden TO postgres."),
        ("DROP TABLE agent_registry", "Run the command as the owner"),
    ],
)
def test_a_missing_privilege_is_permanent_and_its_remedy_is_the_grant(
    statement: str, remedy: str, database: Database
) -> None:
    execute(database, "CREATE SCHEMA hidden", "CREATE TABLE hidden.x ()")
    error = fault(by_sqlalchemy, database, "SET ROLE pg_monitor", statement)
    assert isinstance(error, PermanentError)
    assert remedy in str(error)


@both_ways
def test_a_time_limit_of_the_server_is_transient(run: Run, database: Database) -> None:
    error = fault(run, database, "SET statement_timeout = 200", "SELECT count(*) AS n, pg_sleep(60)")
    assert isinstance(error, TransientError)
    assert "canceling statement due to statement timeout" in str(error)


@both_ways
def test_a_time_limit_of_the_role_is_permanent_and_named_with_its_value(run: Run, database_url: str) -> None:
    limited = Database(DatabaseUrl.parse(f"{database_url}&options=-cstatement_timeout%3D50ms"))
    error = fault(run, limited, "SELECT pg_sleep(60)")
    assert isinstance(error, PermanentError)
    assert "Role postgres has a statement_timeout of 50ms" in str(error)
    assert "ALTER ROLE postgres SET statement_timeout = 0" in str(error)
    cancelled = fault(
        run, limited, "SELECT pg_cancel_backend(pg_backend_pid()), count(*) FROM generate_series(1, 10000)"
    )
    assert isinstance(cancelled, TransientError)


def test_a_time_limit_of_our_own_is_transient_whatever_the_role_has(database_url: str) -> None:
    limited = Database(DatabaseUrl.parse(f"{database_url}&options=-cstatement_timeout%3D50ms"))
    reading = limited.for_reading(connections=1, statement_timeout_seconds=1)
    assert isinstance(fault(by_sqlalchemy, reading, "SELECT pg_sleep(60)"), TransientError)
    reading.engine.dispose()


def test_a_transaction_that_writes_on_a_standby_may_be_tried_again_and_the_primary_is_the_remedy() -> None:
    class Refused(psycopg.errors.FeatureNotSupported):
        diag = SimpleNamespace(
            message_primary="cannot set transaction read-write mode during recovery",
            source_function="check_transaction_read_only",
        )

    with pytest.raises(TransientError, match="point METRICS_DATABASE_URL at the primary"), database_faults("x"):
        raise Refused


@both_ways
def test_a_session_that_is_ended_in_the_middle_of_a_result_is_transient(run: Run, database: Database) -> None:
    end = "CASE i WHEN 200000 THEN pg_terminate_backend(pg_backend_pid()) END"
    error = fault(run, database, f"SELECT {end} AS x FROM generate_series(1, 300000) AS i")
    assert isinstance(error, TransientError)
    assert "terminating connection due to administrator command" in str(error)


@both_ways
def test_a_lock_that_is_not_free_in_time_is_transient(run: Run, database: Database) -> None:
    with database.engine.begin() as connection:
        connection.execute(text("LOCK TABLE agent_registry"))
        error = fault(run, database, "SET lock_timeout = 50", "SELECT id FROM agent_registry")
    assert isinstance(error, TransientError)
    assert "(SQLSTATE 55P03)" in str(error)


def raised(run: Run, database: Database, sqlstate: str) -> PipelineError:
    return fault(run, database, f"DO $$BEGIN RAISE EXCEPTION 'x' USING ERRCODE = '{sqlstate}'; END$$")


@pytest.mark.parametrize(
    "sqlstate",
    [
        "08006",
        "25006",
        "25P03",
        "40001",
        "40P01",
        "53100",
        "53200",
        "53300",
        "55P03",
        "57014",
        "57P01",
        "57P02",
        "57P03",
        "57P05",
    ],
)
def test_these_states_are_worth_another_try(sqlstate: str, database: Database) -> None:
    assert isinstance(raised(by_sqlalchemy, database, sqlstate), TransientError)
    assert isinstance(raised(by_cursor, database, sqlstate), TransientError)


@pytest.mark.parametrize(
    "sqlstate", ["28P01", "28000", "3D000", "25P04", "3F000", "42501", "42P01", "23505", "22003", "XX000"]
)
def test_these_states_stay_until_somebody_acts(sqlstate: str, database: Database) -> None:
    assert isinstance(raised(by_sqlalchemy, database, sqlstate), PermanentError)
    assert isinstance(raised(by_cursor, database, sqlstate), PermanentError)


def test_what_a_pooler_never_lets_through_is_permanent_and_says_how_to_do_without() -> None:
    class Refused(psycopg.errors.ProtocolViolation):
        diag = SimpleNamespace(message_primary="transaction blocks not allowed in statement pooling mode")

    with pytest.raises(PermanentError, match="Set PgBouncer's pool_mode to session or transac"), database_faults("x"):
        raise Refused
    with pytest.raises(PermanentError, match="ALTER ROLE … SET search_path"), database_faults("x"):
        raise psycopg.OperationalError("connection failed: x failed: FATAL:  unsupported startup parameter: options")


@pytest.mark.parametrize(
    ("breaks", "kind", "words"),
    [
        ("1 / (200000 - i)", PermanentError, "division by zero"),
        ("2147483647 - 200000 + i", PermanentError, "integer out of range"),
        ("CASE WHEN i = 200000 THEN pg_cancel_backend(pg_backend_pid()) END", TransientError, "canceling statement"),
        ("CASE WHEN i = 200000 THEN pg_terminate_backend(pg_backend_pid()) END", TransientError, "terminating"),
    ],
)
@both_ways
def test_a_result_that_breaks_midway_is_tried_again_unless_the_data_broke_it(
    run: Run, database: Database, breaks: str, kind: type[PipelineError], words: str
) -> None:
    error = fault(run, database, f"SELECT {breaks} FROM generate_series(1, 300000) AS i")
    assert type(error) is kind
    assert words in str(error)


@pytest.mark.parametrize("error", [OSError("disk"), ValueError("x"), PermanentError("ours")])
def test_what_is_no_fault_of_the_database_passes(error: Exception) -> None:
    with pytest.raises(type(error)) as caught, database_faults("the database"):
        raise error
    assert caught.value is error


def test_the_cause_is_the_drivers_exception_without_what_sqlalchemy_adds(database: Database) -> None:
    with pytest.raises(ContractError) as caught, database_faults("x"), database.engine.connect() as connection:
        connection.execute(text("SELECT * FROM nowhere"))
    assert isinstance(caught.value.__cause__, psycopg.errors.UndefinedTable)
    assert "sqlalchemy.exc" not in "".join(traceback.format_exception(caught.value))
