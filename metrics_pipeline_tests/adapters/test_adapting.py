"""`db adapt` over the tables of products: what the views say, and what is recognised and listed."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date

import psycopg
import pytest
from psycopg import sql
from typer.testing import CliRunner, Result

from metrics_pipeline.adapters.product import Installed
from metrics_pipeline.adapters.products import PRODUCTS
from metrics_pipeline.adapters.views import product_queries
from metrics_pipeline.cli import app
from metrics_pipeline.logs.contract import check_contract
from metrics_pipeline.metrics.reconciliation import DayState
from metrics_pipeline.metrics.windows import day_window
from metrics_pipeline.postgres.database import Database
from metrics_pipeline.postgres.upgrading import upgrade
from metrics_pipeline.postgres.urls import DatabaseUrl
from metrics_pipeline_tests.adapters.installations import INSTALLATIONS
from metrics_pipeline_tests.adapters.rows import ROWS, rows_of
from metrics_pipeline_tests.databases import scratch_database
from metrics_pipeline_tests.days import aggregate, assert_exact, assert_exact_twice, judged, query
from metrics_pipeline_tests.retention.runs import prune
from metrics_pipeline_tests.roles import Role, apply, new_role

# A column that a view does not have is the one of `absent`.
LOGS = """
SELECT given.*
  FROM (SELECT NULL AS latency_ms, NULL AS token_count, NULL AS cost_usd, NULL AS error_type, NULL AS user_id) AS absent
 CROSS JOIN LATERAL (
    SELECT id::text, agent_id::text, "timestamp"::timestamptz::text, status::text, latency_ms::text, token_count::text,
           cost_usd::text, error_type::text, user_id::text
      FROM {}.agent_execution_logs) AS given
 ORDER BY 1"""


@dataclass(frozen=True)
class Adapted:
    """A database with every product in a schema of its own, and the role of the pipeline."""

    url: str
    role: Role


def adapt(url: str, *options: str) -> Result:
    return CliRunner().invoke(app, ["db", "adapt", *options], env={"METRICS_DATABASE_URL": url, "COLUMNS": "200"})


def rows(connection: psycopg.Connection, query: str, schema: str) -> list[tuple[str | None, ...]]:
    statement = sql.SQL(query).format(sql.Identifier(schema))  # type: ignore[arg-type]
    return connection.execute(statement).fetchall()


def install(connection: psycopg.Connection, name: str, schema: str) -> None:
    connection.execute(sql.SQL("CREATE SCHEMA {0}; SET search_path = {0}").format(sql.Identifier(schema)))
    connection.execute(INSTALLATIONS[name].statements)  # type: ignore[call-overload]
    connection.execute("RESET search_path")


@pytest.fixture(scope="module")
def adapted(server_uri: str) -> Iterator[Adapted]:
    with scratch_database(server_uri, "template0") as url, psycopg.connect(url, autocommit=True) as connection:
        for name in INSTALLATIONS:
            install(connection, name, f"its {name}")
        with new_role(connection, url, "pipeline") as role:
            yield Adapted(url, role)


@pytest.mark.parametrize("name", PRODUCTS)
def test_the_views_say_what_the_products_rows_mean(adapted: Adapted, name: str) -> None:
    printed = adapt(adapted.url, name, "--schema", f"views of {name}", "--role", adapted.role.name)
    for _ in range(2):
        apply(printed.output, adapted.url)
    # As the role, which may read nothing of the product but these views, and finds them by itself.
    with psycopg.connect(adapted.role.url, options="-c TimeZone=UTC") as connection:
        registry = "SELECT id::text, name::text, status::text FROM {}.agent_registry ORDER BY 1"
        assert rows(connection, registry, f"views of {name}") == INSTALLATIONS[name].agents
        logs = [
            (*row[:2], row[2] and row[2].removesuffix("+00"), *row[3:])
            for row in rows(connection, LOGS, f"views of {name}")
        ]
        assert logs == INSTALLATIONS[name].logs
    with adapted.role.database.connect() as connection:
        check_contract(connection, ("agent_registry", "agent_execution_logs"))


@pytest.mark.ci
@pytest.mark.parametrize("name", ROWS)
def test_a_day_of_300_000_executions_of_a_product_is_exact_and_db_check_finds_nothing_wrong(
    bare_database_url: str, name: str
) -> None:
    # Walking the traces of spans takes fifty times as long as reading another product.
    executions = 20_000 if name == "otel" else 300_000
    with (
        psycopg.connect(bare_database_url, autocommit=True) as connection,
        new_role(connection, bare_database_url, "pipeline") as role,
    ):
        connection.execute(INSTALLATIONS[name].statements)  # type: ignore[call-overload]
        connection.execute(rows_of(name, executions))  # type: ignore[call-overload]
        connection.execute("ANALYZE")
        apply(adapt(bare_database_url, name, "--role", role.name).output, bare_database_url)
        upgrade(role.database)
        checked = CliRunner().invoke(app, ["db", "check"], env={"METRICS_DATABASE_URL": role.url})
        assert checked.exit_code == 0, checked.exception
        window = day_window(date(2026, 11, 18), "UTC")
        day = aggregate(role.database, window)
        metrics = day.computed.metrics
        assert metrics.aggregated_logs + metrics.skipped_logs >= executions * 0.099
        assert_exact(role.database, window)


def test_a_day_of_an_adapted_product_is_exact_and_our_tables_are_beside_the_views(adapted: Adapted) -> None:
    apply(adapt(adapted.url, "dify", "--schema", "beside", "--role", adapted.role.name).output, adapted.url)
    database = adapted.role.database
    upgrade(database)
    day = assert_exact_twice(database, day_window(date(2026, 11, 20), "UTC"))
    # The workflow's app is archived.
    assert (day.computed.metrics.aggregated_logs, day.computed.metrics.skipped_logs) == (2, 3)
    with database.connect() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM beside.metric_day_ledger").scalar() == 1


def test_what_the_product_deletes_leaves_its_day_shrunk_until_it_is_sealed_and_retention_deletes_nothing_of_it(
    adapted: Adapted,
) -> None:
    apply(adapt(adapted.url, "openwebui", "--schema", "kept", "--role", adapted.role.name).output, adapted.url)
    database, day = adapted.role.database, date(2025, 11, 20)
    upgrade(database)
    aggregate(database, day_window(day, "UTC"))
    stored = query(database, "TABLE agent_performance_metrics")
    # Of such a view PostgreSQL would delete the table's rows, for a role that may. No role needs to.
    url = f"{adapted.url}&schema=kept"
    report = prune(Database(DatabaseUrl.parse(url)), "2026-02-01T03:30:00+00:00")
    assert (report.pruned_logs, [each.logs for each in report.held_back]) == ({}, [3])
    granted = CliRunner().invoke(app, ["db", "grants", "--retention", "r"], env={"METRICS_DATABASE_URL": url}).output
    assert "GRANT SELECT ON TABLE kept.agent_execution_logs" in granted
    checked = CliRunner().invoke(app, ["db", "check"], env={"METRICS_DATABASE_URL": adapted.role.url})
    assert "Ready for retention" in checked.output
    with psycopg.connect(adapted.url) as connection:
        connection.execute("""DELETE FROM "its openwebui".chat_message WHERE id = 'c1'""")
    [verdict] = judged(database, day)
    assert verdict.state == DayState.SHRUNK
    sealed = CliRunner().invoke(app, ["seal", "--date", str(day)], env={"METRICS_DATABASE_URL": adapted.role.url})
    assert sealed.output == f"{day} is sealed: its metrics are final. 1 of its logs is gone, 2 left.\n"
    assert query(database, "TABLE agent_performance_metrics") == stored


def test_a_version_without_newer_columns_gets_views_without_them(bare_database_url: str) -> None:
    with psycopg.connect(bare_database_url, autocommit=True, options="-c TimeZone=UTC") as connection:
        install(connection, "litellm", "old")
        for column in ("status", "agent_id", "request_duration_ms"):
            connection.execute(f'ALTER TABLE old."LiteLLM_SpendLogs" DROP COLUMN {column}')
        with new_role(connection, bare_database_url, "pipeline") as role:
            apply(adapt(bare_database_url, "litellm", "--role", role.name).output, bare_database_url)
            found = [(row[1], row[3], row[4]) for row in rows(connection, LOGS, "metrics")]
    assert found == [("k2", "success", "2500"), ("k2", "success", "400"), ("k2", "failed", "1000")]


def test_an_execution_of_n8n_counts_once_also_where_no_index_forbids_a_second_value_of_a_key(
    bare_database_url: str,
) -> None:
    with psycopg.connect(bare_database_url, autocommit=True, options="-c TimeZone=UTC") as connection:
        install(connection, "n8n", "old")
        connection.execute("INSERT INTO old.execution_metadata VALUES (1, 'user_id', 'u0')")
        with new_role(connection, bare_database_url, "pipeline") as role:
            found = []
            for unique in (False, True):
                if unique:
                    connection.execute("DELETE FROM old.execution_metadata WHERE value = 'u0'")
                    connection.execute("""ALTER TABLE old.execution_metadata ADD UNIQUE (key, "executionId")""")
                printed = adapt(bare_database_url, "n8n", "--role", role.name).output
                assert ("max(value)" in printed) != unique
                apply(printed, bare_database_url)
                found.append([(row[0], row[-1]) for row in rows(connection, LOGS, "metrics")])
    assert found == [[("1", "u1"), ("2", None), ("4", None)]] * 2


def test_a_text_that_is_not_json_costs_its_day_on_servers_that_cannot_ask_and_one_value_on_others(
    adapted: Adapted,
) -> None:
    with psycopg.connect(adapted.url, autocommit=True) as connection:
        columns = {"execution": frozenset(PRODUCTS["flowise"].required["execution"].split())}
        newer, older = (
            product_queries(PRODUCTS["flowise"], Installed("its flowise", columns, version))["agent_execution_logs"]
            for version in (16, 15)
        )
        tokens = "SELECT token_count FROM ({}) AS logs ORDER BY id"
        assert connection.execute(tokens.format(newer)).fetchall() == [(11,), (None,), (None,)]  # type: ignore[call-overload]
        with pytest.raises(psycopg.errors.InvalidTextRepresentation):
            connection.execute(tokens.format(older))  # type: ignore[call-overload]
        connection.execute(f"CREATE TEMP VIEW valid AS {older} WHERE e.id <> 2")  # type: ignore[call-overload]
        assert connection.execute("SELECT token_count FROM valid ORDER BY id").fetchall() == [(11,), (None,)]


def test_products_are_detected_with_their_schema_and_the_columns_and_newest_migration_of_their_version(
    adapted: Adapted,
) -> None:
    with psycopg.connect(adapted.url, autocommit=True) as connection:
        connection.execute(
            """
            CREATE TABLE "its litellm"._prisma_migrations (migration_name text, finished_at timestamptz);
            INSERT INTO "its litellm"._prisma_migrations
            VALUES ('20250806_b', '2025-08-07'), ('20250805_a', '2025-08-06'), ('20250907_failed', NULL);
            CREATE TABLE "its mlflow".alembic_version (version_num varchar(32));
            INSERT INTO "its mlflow".alembic_version VALUES ('bf29a5ff90ea');
            CREATE TABLE "its n8n".migrations (id int, "timestamp" bigint, name varchar);
            INSERT INTO "its n8n".migrations VALUES (9, 1, 'B'), (10, 2, 'C'), (8, 0, 'A')"""
        )
    found = json.loads(adapt(adapted.url, "--detect", "--format", "json").output)
    assert [(row["name"], row["schema"]) for row in found] == [(name, f"its {name}") for name in PRODUCTS]
    assert {row["name"]: row["newest_migration"] for row in found if row["newest_migration"] is not None} == {
        "litellm": "20250806_b",
        "mlflow": "bf29a5ff90ea",
        "n8n": "C",
    }
    litellm = found[0]
    assert litellm["has"].split(", ")[:2] == ["LiteLLM_SpendLogs.status", "LiteLLM_SpendLogs.agent_id"]
    dify = next(row for row in found if row["name"] == "dify")
    assert (dify["has"], dify["lacks"]) == ("messages.invoke_from", "")


def test_what_is_not_there_is_named(adapted: Adapted, bare_database_url: str) -> None:
    assert "No product is recognised" in str(adapt(bare_database_url, "--detect").exception)
    assert "There is no table of n8n in this database: looked for workflow_entity, execution_entity, " in str(
        adapt(bare_database_url, "n8n").exception
    )
    # Phoenix and Langfuse both call a table `traces`.
    assert "schema its langfuse2 lacks column traces.project_rowid, table spans, table span_costs" in str(
        adapt(adapted.url, "phoenix", "--source", "its langfuse2").exception
    )
    with psycopg.connect(bare_database_url, autocommit=True) as connection:
        install(connection, "n8n", "one")
        install(connection, "n8n", "two")
    assert "n8n is in several schemas: one, two. Name one: --source." in str(adapt(bare_database_url, "n8n").exception)
    assert adapt(bare_database_url, "n8n", "--source", "two").exit_code == 0
    for wrong in ((), ("n8n", "--list"), ("unknown",)):
        assert adapt(bare_database_url, *wrong).exit_code == 2


def test_the_list_says_of_each_product_what_is_what() -> None:
    listed = adapt("postgresql://nobody@127.0.0.1:1/none", "--list").output
    for product in PRODUCTS.values():
        assert f"{product.name} ({product.title})\n  agent: " in listed
    known = json.loads(adapt("postgresql://nobody@127.0.0.1:1/none", "--list", "--format", "json").output)
    assert [row["name"] for row in known] == list(PRODUCTS)
    assert all(len(row) == len(known[0]) and all(row.values()) for row in known)
