"""The embedded server whatever libpq's environment says, and after it was killed: for us and for Dagster's storage."""

from pathlib import Path

import pytest
from psycopg import pq
from sqlalchemy import NullPool, create_engine, text

from metrics_pipeline.embedded import acquire, before_connecting
from metrics_pipeline.orchestration.instance import open_instance
from metrics_pipeline.pipeline.opening import open_database
from metrics_pipeline.postgres.database import Database
from metrics_pipeline.postgres.urls import DatabaseUrl
from metrics_pipeline.settings import Settings
from metrics_pipeline_tests.days import query
from metrics_pipeline_tests.homes import kill_server

#: Each would redirect or break a connection that libpq completes from its environment.
HOSTILE = {
    "PGHOST": "192.0.2.1",
    "PGHOSTADDR": "192.0.2.1",
    "PGPORT": "1",
    "PGDATABASE": "nowhere",
    "PGUSER": "nobody",
    "PGPASSWORD": "x",
    "PGPASSFILE": "/nowhere",
    "PGREQUIREAUTH": "scram-sha-256",
    "PGCHANNELBINDING": "require",
    "PGSERVICE": "nowhere",
    "PGSERVICEFILE": "/nowhere",
    "PGOPTIONS": "-c search_path=nowhere",
    "PGAPPNAME": "x",
    "PGSSLMODE": "verify-full",
    "PGSSLNEGOTIATION": "direct",
    "PGREQUIRESSL": "1",
    "PGSSLCOMPRESSION": "1",
    "PGSSLCERT": "/nowhere",
    "PGSSLKEY": "/nowhere",
    "PGSSLCERTMODE": "require",
    "PGSSLROOTCERT": "/nowhere",
    "PGSSLCRL": "/nowhere",
    "PGSSLCRLDIR": "/nowhere",
    "PGSSLSNI": "x",
    "PGREQUIREPEER": "nobody",
    "PGMINPROTOCOLVERSION": "9.9",
    "PGMAXPROTOCOLVERSION": "9.9",
    "PGSSLMINPROTOCOLVERSION": "x",
    "PGSSLMAXPROTOCOLVERSION": "x",
    "PGGSSENCMODE": "require",
    "PGGSSDELEGATION": "x",
    "PGGSSLIB": "x",
    "PGKRBSRVNAME": "x",
    "PGCONNECT_TIMEOUT": "abc",
    "PGCLIENTENCODING": "x",
    "PGTARGETSESSIONATTRS": "standby",
    "PGLOADBALANCEHOSTS": "x",
    "PGDATESTYLE": "x",
    "PGTZ": "Nowhere",
    "PGGEQO": "x",
    "PGSYSCONFDIR": "/nowhere",
    "PGLOCALEDIR": "/nowhere",
}


@pytest.fixture(scope="module")
def storage_url(server_home: Path, server_uri: str) -> str:
    """The URL from which Dagster makes its engines."""
    with open_instance(Settings(server_home)) as instance:
        return instance.run_storage.postgres_url


def test_every_variable_that_libpq_has_an_option_for_is_tried() -> None:
    assert {option.envvar.decode() for option in pq.Conninfo.get_defaults() if option.envvar} <= set(HOSTILE)


@pytest.mark.parametrize("metrics_url", ["", "postgresql://db.example/metrics"], ids=["at home", "elsewhere"])
def test_no_variable_of_libpq_redirects_or_breaks_a_connection_to_the_embedded_server(
    metrics_url: str, storage_url: str, server_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("METRICS_DATABASE_URL", metrics_url)

    def connect() -> None:
        url = DatabaseUrl.parse(acquire(server_home))
        engines = {
            "postgres": Database(url, before_connecting=before_connecting(server_home)).engine,
            "dagster": create_engine(storage_url, poolclass=NullPool),
        }
        for database, engine in engines.items():
            with engine.connect() as connection:
                found = connection.execute(text("SELECT current_database(), user, current_schema()")).one()
                assert found == (database, "postgres", "public")

    failures = {}
    for name, value in HOSTILE.items():
        # Where the metrics are elsewhere, their URL may rely on the service.
        if metrics_url and name == "PGSERVICE":
            continue
        with monkeypatch.context() as patch:
            patch.setenv(name, value)
            try:
                connect()
            except Exception as error:
                failures[name] = str(error)
    assert failures == {}


def test_an_embedded_server_that_was_killed_while_idle_is_back_at_the_next_connection_of_anybody(home: Path) -> None:
    settings = Settings(home)
    with open_instance(settings) as instance, open_database(settings).keeping_connections() as database:
        instance.optimize_for_webserver(statement_timeout=15000, pool_recycle=3600, max_overflow=20)
        for is_there in (
            lambda: instance.get_runs_count() == 0,
            lambda: query(database, "SELECT count(*) FROM agent_registry") == [(0,)],
        ):
            assert is_there()
            kill_server(home)
            assert is_there()
