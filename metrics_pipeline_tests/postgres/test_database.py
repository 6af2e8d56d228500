import subprocess
import sys
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path
from urllib.parse import quote, urlsplit

import psycopg
import pytest
from sqlalchemy import inspect, text
from sqlalchemy.exc import DBAPIError, ProgrammingError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from metrics_pipeline.embedded import release
from metrics_pipeline.errors import TransientError
from metrics_pipeline.pipeline.opening import open_database
from metrics_pipeline.postgres.database import Database, exclusive_locks
from metrics_pipeline.postgres.tables import metadata, upstream_metadata
from metrics_pipeline.postgres.upgrading import head_revision, require_current
from metrics_pipeline.postgres.urls import DatabaseUrl
from metrics_pipeline.settings import Settings
from metrics_pipeline_tests.days import Log, assert_exact_twice, execute, query, store_agents, store_logs
from metrics_pipeline_tests.processes import wait_until

SESSION = """
    SELECT current_setting('TimeZone') AS zone, current_setting('application_name') AS name,
           current_setting('client_encoding') AS encoding
"""
#: What a role, a database or PGOPTIONS may set, and would change a statement's meaning or a result's form.
HOSTILE = {
    "TimeZone": "Asia/Tokyo",
    "DateStyle": "German, DMY",
    "IntervalStyle": "iso_8601",
    "standard_conforming_strings": "off",
    "bytea_output": "escape",
    "extra_float_digits": "-15",
    "quote_all_identifiers": "on",
    "transform_null_equals": "on",
    "array_nulls": "off",
    "backslash_quote": "on",
    "default_transaction_read_only": "on",
    "default_transaction_deferrable": "on",
    "default_transaction_isolation": "serializable",
    "idle_in_transaction_session_timeout": "1ms",
}
PINNED = ("UTC", "ISO, YMD", "postgres", "on", "hex", "1", "off", "off", "on", "safe_encoding", "off", "off")
PINNED += ("read committed", "30min")


def test_the_schema_of_the_url_is_that_of_every_transaction_and_of_no_session(
    database: Database, database_url: str
) -> None:
    with database.begin() as connection:
        connection.execute(text("CREATE SCHEMA own"))
        connection.execute(text("CREATE TABLE own.place AS SELECT 'own' AS name"))
    mine = Database(DatabaseUrl.parse(f"{database_url}&schema=own"))
    place = text("SELECT name FROM place")
    for connect in (mine.connect, mine.begin, mine.snapshot, mine.within(9, lock_seconds=9).connect):
        with connect() as connection:
            assert connection.scalar(place) == "own"
            # A pooler passes the settings of a session on to other clients, but none of a transaction.
            connection.rollback()
            driver = connection.connection.driver_connection
            driver.autocommit = True
            assert driver.execute("SHOW search_path").fetchone() == ('"$user", public',)
            driver.autocommit = False
    reading = mine.for_reading(connections=1, statement_timeout_seconds=9)
    assert tuple(reading.read_row(place, {})) == ("own",)
    reading.engine.dispose()


def session(database: Database) -> tuple[str, ...]:
    with database.engine.connect() as connection:
        # Were the time zone set inside the first transaction, this would lose it.
        connection.rollback()
        return tuple(connection.execute(text(SESSION)).one())


def test_every_session_runs_in_utc_and_utf8_whatever_the_database_and_the_client_default_to(
    bare_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGTZ", "America/New_York")
    monkeypatch.setenv("PGCLIENTENCODING", "LATIN1")
    database = Database(DatabaseUrl.parse(bare_database_url))
    with database.engine.begin() as connection:
        name = connection.scalar(text("SELECT current_database()"))
        connection.execute(text(f"ALTER DATABASE {name} SET TimeZone = 'Asia/Tokyo'"))
    assert session(database) == ("UTC", "metrics_pipeline", "UTF8")


@pytest.mark.parametrize("of", ["the database", "the role", "the URL", "the environment"])
def test_every_setting_that_results_depend_on_is_the_session_s_own_whoever_sets_another(
    of: str, database: Database, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = " ".join(f"-c {name}={value.replace(' ', chr(92) + ' ')}" for name, value in HOSTILE.items())
    whose = {"the database": "DATABASE {}", "the role": "ROLE CURRENT_USER IN DATABASE {}"}
    if of == "the URL":
        database = Database(DatabaseUrl.parse(f"{database_url}&options={quote(options)}"))
    elif of == "the environment":
        monkeypatch.setenv("PGOPTIONS", options)
    else:
        with database.engine.begin() as connection:
            target = whose[of].format(connection.scalar(text("SELECT current_database()")))
            for setting, value in HOSTILE.items():
                connection.execute(text(f"ALTER {target} SET {setting} = '{value}'"))
    with database.engine.connect() as connection:
        connection.rollback()
        assert tuple(connection.scalar(text(f"SHOW {setting}")) for setting in HOSTILE) == PINNED
    store_agents(database, {"a": "active"})
    store_logs(database, [Log("a", "failed", 7, 3, "0.25", r"\x", '{"user_id": "u"}')])
    assert_exact_twice(database)


def test_the_application_name_of_the_url_wins(bare_database_url: str) -> None:
    database = Database(DatabaseUrl.parse(f"{bare_database_url}&application_name=nightly"))
    assert session(database)[1] == "nightly"


def test_an_external_database_is_neither_contacted_nor_changed(tmp_path: Path, bare_database_url: str) -> None:
    open_database(Settings(tmp_path, "postgresql://user@192.0.2.1/metrics"))
    database = open_database(Settings(tmp_path, bare_database_url))
    assert not database.is_embedded
    assert inspect(database.engine).get_table_names() == []
    assert list(tmp_path.iterdir()) == []


def test_no_connection_outlives_its_transaction(bare_database_url: str, database: Database) -> None:
    with Database(DatabaseUrl.parse(bare_database_url)).engine.connect() as connection:
        pid = connection.scalar(text("SELECT pg_backend_pid()"))
    with database.engine.connect() as connection:
        # The server notices a closed connection a moment after the client closed it.
        connection.execute(text("SELECT pg_terminate_backend(:pid, 10000)"), {"pid": pid})
        assert connection.scalar(text("SELECT count(*) FROM pg_stat_activity WHERE pid = :pid"), {"pid": pid}) == 0


def test_reprs_hold_no_password(tmp_path: Path) -> None:
    settings = Settings(tmp_path, f"postgresql://alice:{quote('s3cret/1', safe='')}@h/m?sslpassword=s3cret")
    database = open_database(settings)
    assert repr(database) == "Database('database m on h:5432 (user alice)')"
    assert "s3cret" not in f"{database.engine!r} {database.engine.url} {settings!r}"


def test_sqlalchemy_s_own_errors_hold_no_parameters(database: Database) -> None:
    with database.engine.connect() as connection, pytest.raises(ProgrammingError) as caught:
        connection.execute(text("SELECT CAST(:value AS text) FROM nowhere"), {"value": "s3cret"})
    assert "s3cret" not in str(caught.value)


def test_the_embedded_database_has_all_tables_and_says_where_it_is(server_home: Path) -> None:
    database = open_database(Settings(server_home))
    assert database.is_embedded
    assert database.description == f"the embedded database in {server_home}"
    assert set(inspect(database.engine).get_table_names()) >= set(metadata.tables) | set(upstream_metadata.tables)
    with database.engine.connect() as connection:
        require_current(connection)


@pytest.mark.end_to_end
def test_processes_that_open_a_new_embedded_database_at_once_all_find_it_ready(tmp_path: Path) -> None:
    code = """
import sys
from pathlib import Path
from metrics_pipeline.settings import Settings
from metrics_pipeline.pipeline.opening import open_database
from metrics_pipeline.postgres.upgrading import current_revision
with open_database(Settings(Path(sys.argv[1]))).engine.connect() as connection:
    print(current_revision(connection))
"""

    def run(_: int) -> str:
        return subprocess.run(
            [sys.executable, "-W", "error", "-c", code, str(tmp_path)], check=True, text=True, stdout=subprocess.PIPE
        ).stdout

    try:
        with ThreadPoolExecutor(4) as pool:
            assert list(pool.map(run, range(4))) == [f"{head_revision()}\n"] * 4
    finally:
        release(tmp_path)


def as_behind_a_pooler(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pooler tells each client a process number of its own making."""
    monkeypatch.setattr(psycopg.ConnectionInfo, "backend_pid", 0)


@pytest.mark.parametrize("is_pooled", [False, True])
def test_a_database_for_reading_writes_nothing_and_stops_what_takes_too_long(
    is_pooled: bool, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    if is_pooled:
        as_behind_a_pooler(monkeypatch)
    reading = database.for_reading(connections=1, statement_timeout_seconds=1)
    for statement, sqlstate in [
        ("INSERT INTO agent_registry VALUES ('a', 'a', 'active') RETURNING id", "25006"),
        ("SELECT pg_sleep(60)", "57014"),
    ]:
        with pytest.raises(DBAPIError) as raised, reading.engine.connect() as connection:
            connection.execute(text(statement))
        assert raised.value.orig.sqlstate == sqlstate
        with pytest.raises(TransientError, match=sqlstate):
            reading.read_row(text(statement), {})
    # Behind a pooler the session may go to a pipeline next, so the limits are the transaction's.
    connection = reading.engine.raw_connection()
    connection.driver_connection.autocommit = True
    of_session = ("0", "off") if is_pooled else ("1s", "on")
    settings = "SELECT current_setting('statement_timeout'), current_setting('default_transaction_read_only')"
    assert connection.driver_connection.execute(settings).fetchone() == of_session
    connection.close()
    reading.engine.dispose()


@pytest.mark.parametrize("is_pooled", [False, True])
def test_a_row_is_read_by_a_statement_that_is_prepared_only_where_the_session_is_ours(
    is_pooled: bool, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    if is_pooled:
        as_behind_a_pooler(monkeypatch)
    reading = database.for_reading(connections=1, statement_timeout_seconds=5)
    question = text("SELECT :day, CAST(:names AS text[]), count(*) FROM pg_prepared_statements WHERE from_sql IS FALSE")
    for _ in range(2):
        row = reading.read_row(question, {"day": date(2025, 3, 4), "names": ["a%b", "c"]})
        assert tuple(row) == (date(2025, 3, 4), ["a%b", "c"], 0 if is_pooled else 1)
    process = text("SELECT pg_backend_pid()")
    (first,) = reading.read_row(process, {})
    with database.connect() as connection:
        state = connection.scalar(text("SELECT state FROM pg_stat_activity WHERE pid = :pid"), {"pid": first})
    assert state == "idle"
    # A session that ends in the middle of a statement is replaced by the next reader.
    with pytest.raises(TransientError):
        reading.read_row(text("SELECT pg_terminate_backend(pg_backend_pid()), pg_sleep(5)"), {})
    assert reading.read_row(process, {})[0] != first
    reading.engine.dispose()


def test_a_database_within_a_time_stops_all_statements_at_its_end_and_names_a_lock_at_once(database: Database) -> None:
    hurried = database.within(1.5, lock_seconds=9)
    with hurried.snapshot() as connection:
        connection.execute(text("SELECT pg_sleep(0.5)"))
    with pytest.raises(TransientError, match="57014"), hurried.snapshot() as connection:
        connection.execute(text("SELECT pg_sleep(1.2)"))
    with database.begin() as holder:
        holder.execute(text("LOCK TABLE metric_day_ledger"))
        hurried = database.within(9, lock_seconds=0.1)
        with pytest.raises(TransientError, match="55P03"), hurried.snapshot() as connection:
            connection.execute(text("SELECT FROM metric_day_ledger"))
        with database.connect() as connection:
            (held,) = exclusive_locks(connection)
        assert "(postgres, idle in transaction) holds metric_day_ledger: LOCK TABLE metric_day_ledger" in held
    with database.connect() as connection:
        assert exclusive_locks(connection) == []


def test_a_database_for_reading_keeps_its_connections_and_replaces_dead_ones(database: Database) -> None:
    engine = database.for_reading(connections=1, statement_timeout_seconds=5).engine

    def session() -> int:
        with engine.connect() as connection:
            return connection.scalar(text("SELECT pg_backend_pid()"))

    first = session()
    assert session() == first
    with database.engine.connect() as connection:
        connection.execute(text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": first})
    assert session() != first
    with engine.connect(), pytest.raises(PoolTimeoutError):
        engine.connect()
    engine.dispose()


def test_connections_that_are_kept_serve_many_transactions_in_a_row_and_end_with_their_block(
    database: Database,
) -> None:
    def process() -> int:
        with kept.engine.connect() as connection:
            return connection.scalar(text("SELECT pg_backend_pid()"))

    with database.keeping_connections() as kept:
        first = process()
        assert process() == first
        with kept.snapshot() as reading:
            assert reading.scalar(text("SHOW transaction_read_only")) == "on"
        assert session(kept)[0] == "UTC"
        with kept.engine.begin() as writing:
            assert writing.scalar(text("SHOW transaction_isolation")) == "read committed"
            writing.execute(text("INSERT INTO agent_registry (id, name, status) VALUES ('a', 'a', 'active')"))
        with database.engine.connect() as connection:
            connection.scalar(text(f"SELECT pg_terminate_backend({first}, 10000)"))
        # Lost while nobody used it: replaced, and nobody is told.
        second = process()
        assert second != first
        late = kept.engine.connect()
    late.close()
    # Also the one that came back after the block.
    query = text("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()")

    def is_gone() -> bool:
        with database.engine.connect() as connection:
            return connection.scalar(query) == 0

    wait_until(is_gone)


def test_a_session_that_is_just_ending_does_not_use_up_the_connections_of_its_role(
    database: Database, database_url: str
) -> None:
    name = f"one_{uuid.uuid4().hex}"
    execute(database, f"CREATE ROLE {name} LOGIN CONNECTION LIMIT 1")
    of_role = Database(DatabaseUrl.parse(urlsplit(database_url)._replace(netloc=f"{name}@").geturl()))
    ending = of_role.engine.raw_connection()
    # After the server has refused the second session once.
    closing = threading.Timer(0.2, ending.close)
    closing.start()
    with of_role.connect() as connection:
        assert connection.scalar(text("SELECT current_user")) == name
    execute(database, f"DROP ROLE {name}")


def test_a_cancellation_that_does_not_reach_the_server_is_no_error_of_its_own(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = threading.Event()

    def unreachable(*_: object, **__: object) -> None:
        tried.set()
        raise psycopg.OperationalError("cancellation failed: server closed the connection unexpectedly")

    def sleep() -> None:
        with database.connect() as connection:
            connection.exec_driver_sql("SELECT pg_sleep(60)")

    monkeypatch.setattr(psycopg.Connection, "cancel_safe", unreachable)
    sleeping = "FROM pg_stat_activity WHERE datname = current_database() AND query = 'SELECT pg_sleep(60)'"
    with ThreadPoolExecutor(1) as threads:
        sleeper = threads.submit(sleep)
        wait_until(lambda: query(database, f"SELECT 1 {sleeping} AND state = 'active'"))
        database.cancel_statements()
        assert tried.is_set()
        query(database, f"SELECT pg_terminate_backend(pid) {sleeping}")
        with pytest.raises(TransientError):
            sleeper.result()
