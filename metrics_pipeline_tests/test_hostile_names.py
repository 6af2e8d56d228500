"""Names of databases, schemas, tables, roles, agents, zones and sort columns may look like SQL, and stay names."""

from collections.abc import Iterator
from datetime import UTC, datetime
from urllib.parse import quote, urlsplit

import psycopg
import pytest
from psycopg import sql
from typer.testing import CliRunner

from metrics_pipeline.cli import app
from metrics_pipeline.errors import DayRefusedError
from metrics_pipeline.logs.contract import check_contract
from metrics_pipeline.postgres.database import Database
from metrics_pipeline.postgres.tables import upstream_metadata
from metrics_pipeline.postgres.upgrading import upgrade
from metrics_pipeline.postgres.urls import DatabaseUrl
from metrics_pipeline_tests.api.conftest import serve as serve
from metrics_pipeline_tests.api.serving import Serve
from metrics_pipeline_tests.days import (
    DAY,
    Log,
    aggregate,
    assert_exact_twice,
    column,
    execute,
    query,
    store_agents,
    store_logs,
)
from metrics_pipeline_tests.retention.runs import contents, prune

INJECTIONS = [
    "'; DROP TABLE agent_performance_metrics; --",
    '"; DROP TABLE agent_performance_metrics; --',
    "a'); DELETE FROM metric_day_ledger; --",
    "$$; DROP TABLE agent_registry; $$",
    "\\'; DROP TABLE agent_registry; --",
    "*/ DROP TABLE agent_registry; /*",
    "' OR '1'='1",
    ":start %s %(end)s {start} $1 ::text",
    "E'\\x41' || chr(65)",
]
#: PostgreSQL would truncate longer names.
NAME = "n'\"; DROP x; -- :b %s %(c)s {d} ::e $$ \\ \x1b[1m"


@pytest.fixture
def named_url(server_uri: str) -> Iterator[str]:
    """A database, its schema and two roles, all called NAME and a letter or two."""
    names = {kind: sql.Identifier(NAME + kind) for kind in ("db", "s", "p", "r")}
    with psycopg.connect(server_uri, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {db} TEMPLATE template0").format(**names))
        connection.execute(sql.SQL("ALTER DATABASE {db} SET search_path = {s}").format(**names))
        for role in ("p", "r"):
            connection.execute(sql.SQL("CREATE ROLE {} LOGIN").format(names[role]))
    url = urlsplit(server_uri)._replace(path=f"/{quote(NAME + 'db', safe='')}").geturl()
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE SCHEMA {s}").format(**names))
    yield url
    with psycopg.connect(server_uri, autocommit=True) as connection:
        connection.execute(sql.SQL("DROP DATABASE {db} WITH (FORCE)").format(**names))
        connection.execute(sql.SQL("DROP ROLE {p}, {r}").format(**names))


def test_database_schema_partition_and_roles_may_have_any_name(named_url: str) -> None:
    database = Database(DatabaseUrl.parse(named_url))
    upstream_metadata.create_all(database.engine)
    upgrade(database)
    execute(
        database,
        "DROP TABLE agent_execution_logs",
        """CREATE TABLE agent_execution_logs (id bigint GENERATED ALWAYS AS IDENTITY, agent_id text,
               "timestamp" timestamptz, status text, latency_ms int, token_count int, cost_usd numeric, error_type text,
               metadata jsonb) PARTITION BY RANGE ("timestamp")""",
    )
    with psycopg.connect(named_url, autocommit=True) as connection:
        connection.execute(
            sql.SQL(
                "CREATE TABLE {} PARTITION OF agent_execution_logs FOR VALUES FROM (MINVALUE) TO ('2025-03-05 00:00Z')"
            ).format(sql.Identifier(NAME))
        )
        printed = CliRunner().invoke(
            app,
            ["db", "grants", f"--pipeline={NAME}p", f"--retention={NAME}p", f"--reader={NAME}r"],
            env={"METRICS_DATABASE_URL": named_url},
            catch_exceptions=False,
        )
        connection.execute(printed.stdout)
    store_agents(database, dict.fromkeys(INJECTIONS, "active"))
    store_logs(database, [Log(agent, "failed", 1, 1, "1", agent) for agent in INJECTIONS])
    pipeline, reader = (
        Database(DatabaseUrl.parse(urlsplit(named_url)._replace(netloc=f"{quote(NAME + role, safe='')}@").geturl()))
        for role in ("p", "r")
    )
    with pipeline.engine.connect() as connection:
        check_contract(connection)
    assert_exact_twice(pipeline)
    report = prune(pipeline)
    assert (report.pruned_logs, report.held_back) == ({DAY: len(INJECTIONS)}, [])
    assert column(reader, "agent_id") == sorted(INJECTIONS)


def test_no_name_of_a_database_and_no_status_of_a_log_controls_the_terminal(named_url: str) -> None:
    database = Database(DatabaseUrl.parse(named_url))
    upstream_metadata.create_all(database.engine)
    store_logs(database, [Log(status="\x1b[1m"), Log(status="\\\x1b[1m")])
    for command in (
        "db upgrade --plan",
        "db upgrade",
        "db upgrade",
        "db check",
        "logs generate --days 1 --logs-per-day 1 --yes",
        "db adapt --from agent_execution_logs",
    ):
        done = CliRunner().invoke(app, command.split(), env={"METRICS_DATABASE_URL": named_url}, catch_exceptions=False)
        assert "\\x1b" in done.output, command
        assert "\x1b" not in done.output, command


def test_a_zone_in_the_ledger_is_quoted_in_the_refusal_and_changes_nothing(database: Database) -> None:
    store_agents(database, {"a": "active"})
    store_logs(database, [Log()])
    aggregate(database)
    for zone in INJECTIONS:
        move = "UPDATE metric_day_ledger SET time_zone = :zone, window_start = window_start - interval '1 h'"
        execute(database, move, zone=zone)
        before = contents(database)
        with pytest.raises(DayRefusedError) as refused:
            aggregate(database)
        assert zone in str(refused.value)
        assert [day.metric_date for day in prune(database).held_back] == [DAY]
        assert contents(database) == before


def test_an_agent_a_column_and_a_filter_of_a_request_are_values(database: Database, serve: Serve) -> None:
    store_agents(database, dict.fromkeys(INJECTIONS, "active"))
    aggregate(database)
    before = contents(database)
    api = serve(now=datetime(2025, 3, 5, 9, 30, tzinfo=UTC))
    for text in INJECTIONS:
        assert api.get("/api/v1/metrics", params={"date": str(DAY), "sort": text}).status_code == 422
        assert api.get("/api/v1/metrics", params={"date": text}).status_code == 422
        assert api.get("/api/v1/restatements", params={"agent_id": text}).status_code in (200, 422)
        [row] = api.get(f"/api/v1/metrics/{quote(text, safe='')}", params={"end_date": str(DAY)}).json()
        assert row["agent_id"] == text
    assert contents(database) == before


def test_an_agent_and_an_error_type_may_be_sql_in_every_command_that_reads_them(
    database: Database, database_url: str
) -> None:
    store_agents(database, dict.fromkeys(INJECTIONS, "active"))
    store_logs(database, [Log(agent, "failed", error_type=agent) for agent in INJECTIONS])
    aggregate(database)
    store_logs(database, [Log(agent, "failed", error_type=agent) for agent in INJECTIONS])
    aggregate(database)
    before = contents(database)
    for agent in INJECTIONS:
        said = CliRunner().invoke(
            app,
            ["restatements", f"--agent={agent}"],
            env={"METRICS_DATABASE_URL": database_url, "COLUMNS": "400"},
            catch_exceptions=False,
        )
        assert said.stdout.count(str(DAY)) == 1
        assert agent in said.stdout
    assert contents(database) == before
    assert query(database, "SELECT count(*) FROM agent_registry") == [(len(INJECTIONS),)]
