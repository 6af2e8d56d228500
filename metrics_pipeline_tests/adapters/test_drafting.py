"""`db adapt --from`: views over tables that nobody described."""

import re
from datetime import date

import psycopg
import pytest
from typer.testing import CliRunner

from metrics_pipeline.cli import app
from metrics_pipeline.errors import ContractError, PermanentError
from metrics_pipeline.logs.contract import check_contract
from metrics_pipeline.metrics.windows import day_window
from metrics_pipeline.postgres.database import Database
from metrics_pipeline.postgres.upgrading import upgrade
from metrics_pipeline.postgres.urls import DatabaseUrl
from metrics_pipeline_tests.adapters.test_adapting import LOGS, adapt, rows
from metrics_pipeline_tests.days import aggregate, assert_exact_twice, query
from metrics_pipeline_tests.roles import apply, new_role

# Tables that nobody described, and the logs that their rows are.
_TABLES: dict[str, tuple[str, list[tuple[str | None, ...]]]] = {
    "milliseconds since 1970": (
        """
        CREATE TABLE "Runs" ("runId" text, "assistantId" int, "createdAt" bigint, state varchar, "durationMs" bigint,
            "totalTokens" bigint, cost float8, "errorType" text, "userId" int);
        INSERT INTO "Runs" VALUES ('r1', 7, 1763596800123, 'DONE', 3000000000, 12, 0.1, NULL, 5),
            ('r2', 7, 1763596801000, 'Crashed', 4, NULL, NULL, 'x', NULL),
            ('r3', 7, 1763596802000, 'paused', NULL, NULL, 4e-10, NULL, NULL);
        """,
        [
            ("r1", "7", "2025-11-20 00:00:00.123+00", "success", None, "12", "0.100000000", None, "5"),
            ("r2", "7", "2025-11-20 00:00:01+00", "failed", "4", None, None, "x", None),
            ("r3", "7", "2025-11-20 00:00:02+00", "paused", None, None, "0.000000000", None, None),
        ],
    ),
    "interval and boolean": (
        """
        CREATE TABLE "Runs" (agent text, started_at timestamp, success boolean, elapsed interval, latency_s real);
        INSERT INTO "Runs" VALUES ('a', '2025-11-20', true, '1.0005 s', 1), ('b', '2025-11-21', false, NULL, 2);
        """,
        [
            (None, "a", "2025-11-20 00:00:00+00", "success", "1001", None, None, None, None),
            (None, "b", "2025-11-21 00:00:00+00", "failed", None, None, None, None, None),
        ],
    ),
    "seconds since 1970": (
        """
        CREATE TYPE outcome AS ENUM ('OK', 'KO');
        CREATE TABLE "Runs" (id int, agent_id uuid, time double precision, status outcome, duration_seconds real,
            tokens bigint);
        INSERT INTO "Runs" VALUES (1, '88dc28d0-f030-c55e-d4ab-77ed8faf0981', 1763596800.5, 'OK', 2.5, 3000000000);
        """,
        [("1", "88dc28d0-f030-c55e-d4ab-77ed8faf0981", "2025-11-20 00:00:00.5+00", "success", "2500") + (None,) * 4],
    ),
}


@pytest.mark.parametrize("unit", _TABLES)
def test_a_draft_guesses_columns_units_and_statuses_of_any_table(bare_database_url: str, unit: str) -> None:
    table, expected = _TABLES[unit]
    with psycopg.connect(bare_database_url, autocommit=True, options="-c TimeZone=UTC") as connection:
        connection.execute(table)  # type: ignore[call-overload]
        with new_role(connection, bare_database_url, "pipeline") as role:
            draft = adapt(bare_database_url, "--from", '"Runs"', "--role", role.name)
            assert ("-- Logs of these statuses count in the total only: paused." in draft.output) == (
                unit == "milliseconds since 1970"
            )
            apply(draft.output, bare_database_url)
            assert rows(connection, LOGS, "metrics") == expected
            with role.database.connect() as session:
                check_contract(session, ("agent_registry", "agent_execution_logs"))


def test_tables_of_other_names_take_one_command_and_keep_every_column(database_url: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(
            """
            CREATE SCHEMA "Ops";
            ALTER TABLE agent_execution_logs ADD model text;
            ALTER TABLE agent_execution_logs SET SCHEMA "Ops";
            ALTER TABLE "Ops".agent_execution_logs RENAME TO executions;
            ALTER TABLE agent_registry SET SCHEMA "Ops";
            ALTER TABLE "Ops".agent_registry RENAME TO bots;
            INSERT INTO "Ops".bots VALUES ('a', 'A', 'active'), ('b', 'B', 'retired'), ('c', 'C', 'ENABLED');
            INSERT INTO "Ops".executions (agent_id, "timestamp", status, cost_usd, metadata, model)
            VALUES ('a', '2025-03-04 12:00Z', 'success', 0.1, '{"user_id": "u"}', 'm'),
                   ('b', '2025-03-04 13:00Z', 'success', 0.1, '{"user_id": "u"}', 'm')"""
        )
        with new_role(connection, database_url, "pipeline") as role:
            names = ("--from", '"Ops".executions', "--agents", '"Ops".bots')
            draft = adapt(database_url, *names, "--role", role.name)
            assert 'SELECT *\n  FROM "Ops"."executions";' in draft.output
            assert "-- Agents of these statuses do not count as active: retired." in draft.output
            apply(draft.output, database_url)
            checked = CliRunner().invoke(app, ["db", "upgrade"], env={"METRICS_DATABASE_URL": role.url})
            checked = CliRunner().invoke(app, ["db", "check"], env={"METRICS_DATABASE_URL": role.url})
            assert (checked.exit_code, "Warning" in checked.output) == (0, False), checked.output
            assert_exact_twice(role.database, day_window(date(2025, 3, 4), "UTC"))
            connection.execute("""UPDATE "Ops".executions SET status = 'OK' WHERE agent_id = 'a'""")
            apply(adapt(database_url, *names, "--role", role.name).output, database_url)
            with role.database.connect() as session:
                found = session.exec_driver_sql("SELECT status, model FROM agent_execution_logs ORDER BY 1, 2").all()
                agents = session.exec_driver_sql("SELECT id, status FROM agent_registry ORDER BY 1").all()
    assert agents == [("a", "active"), ("b", "retired"), ("c", "active")]
    assert found == [("success", "m"), ("success", "m")]


def test_what_the_contract_refuses_is_accepted_through_the_views_that_its_error_names(database_url: str) -> None:
    with psycopg.connect(database_url, autocommit=True, options="-c TimeZone=UTC") as connection:
        connection.execute(
            """
            ALTER TABLE agent_registry ALTER id TYPE int USING id::int, ALTER status TYPE boolean USING true;
            ALTER TABLE agent_execution_logs ALTER agent_id TYPE bigint USING 1, ALTER "timestamp" TYPE date,
                ALTER status TYPE boolean USING true, ALTER latency_ms TYPE interval USING NULL,
                ALTER token_count TYPE numeric, ALTER cost_usd TYPE money, ALTER error_type TYPE int USING NULL,
                ALTER metadata TYPE text;
            INSERT INTO agent_registry VALUES (7, 'seven', true), (8, 'eight', false);
            INSERT INTO agent_execution_logs VALUES
                (DEFAULT, 7, '2025-03-04', false, '1.5 s', 12, 0.25, 404, '{"user_id": "u"}')"""
        )
        with new_role(connection, database_url, "pipeline") as role:
            with (
                Database(DatabaseUrl.parse(database_url)).connect() as session,
                pytest.raises(ContractError) as refused,
            ):
                check_contract(session)
            command = re.search(r"metrics-pipeline db adapt (--from .*)\.$", str(refused.value))
            assert command
            apply(adapt(database_url, *command[1].split(), "--role", role.name).output, database_url)
            with role.database.connect() as session:
                check_contract(session, ("agent_registry", "agent_execution_logs"))
                agents = session.exec_driver_sql("SELECT id, name, status FROM agent_registry ORDER BY 1").all()
                logs = session.exec_driver_sql(
                    """SELECT agent_id, "timestamp"::text, status, latency_ms, token_count, cost_usd::text, error_type,
                              metadata ->> 'user_id' FROM agent_execution_logs"""
                ).all()
    assert agents == [("7", "seven", "active"), ("8", "eight", "inactive")]
    assert logs == [("7", "2025-03-04 00:00:00+00", "failed", 1500, 12, "0.250000000", "404", "u")]


def test_a_latency_of_more_than_32_bits_is_null_through_the_views_that_the_error_of_a_run_names(
    database_url: str,
) -> None:
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(
            """
            ALTER TABLE agent_execution_logs ALTER latency_ms TYPE bigint;
            INSERT INTO agent_registry VALUES ('a', 'A', 'active');
            INSERT INTO agent_execution_logs (agent_id, "timestamp", status, latency_ms)
            VALUES ('a', '2025-03-04 12:00Z', 'success', 7), ('a', '2025-03-04 13:00Z', 'success', 2147483648)"""
        )
        checked = CliRunner().invoke(app, ["db", "check"], env={"METRICS_DATABASE_URL": database_url}).output
        assert "latency_ms has type bigint: a latency of 25 days or more makes its day unreadable" in checked
        with pytest.raises(PermanentError, match="of agent a at 13:00:00Z cannot be read: integer out") as refused:
            aggregate(Database(DatabaseUrl.parse(database_url)))
        command = re.search(r"metrics-pipeline db adapt (--from .*)\.$", str(refused.value))
        assert command
        with new_role(connection, database_url, "pipeline") as role:
            apply(adapt(database_url, *command[1].split(), "--role", role.name).output, database_url)
            upgrade(role.database)
            assert_exact_twice(role.database)
            assert query(role.database, "SELECT total_executions, avg_latency_ms FROM agent_performance_metrics") == [
                (2, 7)
            ]


def test_a_draft_of_a_table_that_logs_no_executions_is_refused_with_what_is_missing(bare_database_url: str) -> None:
    with psycopg.connect(bare_database_url, autocommit=True) as connection:
        connection.execute("CREATE TABLE runs (agent text, created_at timestamptz, result int)")
        connection.execute("INSERT INTO runs SELECT 'a', now(), i FROM generate_series(1, 21) AS i")
    assert 'The column result of "public"."runs" has 21 values' in str(
        adapt(bare_database_url, "--from", "runs").exception
    )
    with psycopg.connect(bare_database_url, autocommit=True) as connection:
        connection.execute("ALTER TABLE runs DROP COLUMN result")
    assert "No column of runs looks like status. Its columns: agent, created_at." in str(
        adapt(bare_database_url, "--from", "runs").exception
    )
    assert "There is no table run along search_path." in str(adapt(bare_database_url, "--from", "run").exception)


def test_a_view_that_would_replace_the_table_that_it_reads_is_refused(database_url: str) -> None:
    logs, agents = ["--from", "agent_execution_logs"], ["--agents", "agent_registry"]
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("CREATE VIEW runs AS SELECT * FROM agent_execution_logs")
    for options, named in ((logs, "agent_execution_logs"), (["--from", "runs", *agents], "agent_registry")):
        refused = adapt(database_url, *options, "--schema", "public")
        assert str(refused.exception) == (
            f"{named} is in schema public, where the view of this name would replace it. Choose another schema for the "
            "views: --schema."
        )
    beside = adapt(database_url, "--from", "runs", "--schema", "public")
    assert 'FROM "public"."runs"' in beside.output
