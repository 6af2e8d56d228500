import pytest
from sqlalchemy import text

from metrics_pipeline.errors import ContractError
from metrics_pipeline.logs.contract import UpstreamContract, check_contract
from metrics_pipeline.postgres.database import Database
from metrics_pipeline.postgres.upgrading import upgrade
from metrics_pipeline.postgres.urls import DatabaseUrl
from metrics_pipeline_tests.examples import variants


def check(database: Database, *statements: str) -> UpstreamContract:
    with database.engine.connect() as connection:
        for statement in statements:
            connection.execute(text(statement))
        return check_contract(connection)


def problems(database: Database, *statements: str) -> str:
    with pytest.raises(ContractError) as caught:
        check(database, *statements)
    return str(caught.value)


def test_the_tables_that_we_make_ourselves_keep_the_contract(database: Database) -> None:
    contract = check(database)
    assert (contract.timestamp_is_naive, contract.metadata_is_json, contract.warnings) == (False, False, ())


def test_one_error_names_every_missing_table_and_column_and_every_wrong_type(database: Database) -> None:
    message = problems(
        database,
        "DROP TABLE alert_history",
        "ALTER TABLE agent_registry DROP COLUMN status",
        "ALTER TABLE agent_execution_logs ALTER COLUMN cost_usd TYPE money",
        "ALTER TABLE agent_execution_logs ALTER COLUMN latency_ms TYPE interval USING NULL",
        "ALTER TABLE agent_execution_logs DROP COLUMN status",
    )
    for part in (
        "role postgres, search_path {public}",
        "table alert_history is missing",
        "column agent_registry.status is missing",
        "column agent_execution_logs.cost_usd has type money, accepted: numeric, double precision, real",
        (
            "column agent_execution_logs.latency_ms has type interval, accepted: smallint, integer, bigint, numeric, "
            "double precision, real"
        ),
        "column agent_execution_logs.status is missing",
        "have them created, changed or granted there",
    ):
        assert part in message
    assert "token_count" not in message


def test_optional_columns_may_be_missing_and_their_figures_are_named(database: Database) -> None:
    drop = "ALTER TABLE agent_execution_logs DROP cost_usd, DROP metadata"
    (warning,) = check(database, drop).warnings
    assert warning == (
        "agent_execution_logs does not have cost_usd, user_id, human_intervention, so these are unknown, also where "
        "they say 0: total_cost_usd, avg_cost_per_execution, cost_per_unassisted_success, unique_users, "
        "human_interventions, human_intervention_rate. Rules of alerts that need these columns do not judge days "
        "without them."
    )
    add = "ALTER TABLE agent_execution_logs ADD user_id bigint, ADD human_intervention boolean"
    (warning,) = check(database, drop, add).warnings
    assert "does not have cost_usd, so" in warning
    # Beside metadata, such a column is the platform's own business.
    odd = "ALTER TABLE agent_execution_logs ADD user_id money"
    assert check(database, odd).warnings == ()
    assert "column agent_execution_logs.user_id has type money" in problems(database, drop, odd)
    (warning,) = check(database, "ALTER TABLE agent_execution_logs DROP error_type").warnings
    assert warning.startswith("agent_execution_logs does not have error_type, it is NULL. Rules of alerts")


def test_a_database_without_any_table_is_told_of_all_three(bare_database_url: str) -> None:
    message = problems(Database(DatabaseUrl.parse(bare_database_url)))
    for table in ("agent_registry", "agent_execution_logs", "alert_history"):
        assert f"table {table} is missing" in message


@pytest.mark.parametrize(
    ("table", "column", "type_"),
    variants(
        [
            ("agent_registry", "id", "uuid"),
            ("agent_registry", "status", "mood"),
            ("agent_execution_logs", "id", "text"),
            ("agent_execution_logs", "agent_id", "varchar(40)"),
            ("agent_execution_logs", "agent_id", "uuid"),
            ("agent_execution_logs", "agent_id", "short_name"),
            ("agent_execution_logs", "status", "known_mood"),
            ("agent_execution_logs", "status", "mood"),
            ("agent_execution_logs", "latency_ms", "smallint"),
            ("agent_execution_logs", "latency_ms", "numeric(12,3)"),
            ("agent_execution_logs", "token_count", "bigint"),
            ("agent_execution_logs", "cost_usd", "real"),
            ("agent_execution_logs", "cost_usd", "numeric(12,6)"),
            ("agent_execution_logs", "metadata", "json"),
            ("alert_history", "agent_id", "uuid"),
            ("alert_history", "resolved_at", "timestamp"),
        ]
    ),
)
def test_every_accepted_type_is_accepted(table: str, column: str, type_: str, database: Database) -> None:
    check(
        database,
        "CREATE TYPE mood AS ENUM ('active', 'success', 'failed')",
        "CREATE DOMAIN known_mood AS mood NOT NULL",
        "CREATE DOMAIN name_of_agent AS varchar(40) CHECK (value <> '')",
        "CREATE DOMAIN short_name AS name_of_agent CHECK (length(value) < 20)",
        f"ALTER TABLE {table} ALTER COLUMN {column} DROP DEFAULT, ALTER COLUMN {column} TYPE {type_} USING NULL",
    )


@pytest.mark.parametrize(
    ("table", "column", "type_"),
    variants(
        [
            ("agent_registry", "id", "integer"),
            ("agent_registry", "name", "integer"),
            ("agent_execution_logs", "agent_id", "bigint"),
            ("agent_execution_logs", "agent_id", "number_of_agent"),
            ("agent_execution_logs", "timestamp", "date"),
            ("agent_execution_logs", "status", "boolean"),
            ("agent_execution_logs", "token_count", "numeric"),
            ("agent_execution_logs", "cost_usd", "money"),
            ("agent_execution_logs", "error_type", "integer"),
            ("agent_execution_logs", "metadata", "text"),
            ("alert_history", "triggered_at", "text"),
        ]
    ),
)
def test_every_other_type_is_refused(table: str, column: str, type_: str, database: Database) -> None:
    message = problems(
        database,
        "CREATE DOMAIN number AS bigint",
        "CREATE DOMAIN number_of_agent AS number",
        f"ALTER TABLE {table} ALTER COLUMN {column} TYPE {type_} USING NULL",
    )
    assert f"column {table}.{column} has type" in message


def test_a_timestamp_without_zone_is_accepted_and_reported(database: Database) -> None:
    assert check(database, "ALTER TABLE agent_execution_logs ALTER timestamp TYPE timestamp").timestamp_is_naive


def test_metadata_of_json_is_accepted_and_reported(database: Database) -> None:
    assert check(database, "ALTER TABLE agent_execution_logs ALTER metadata TYPE json").metadata_is_json


def test_tables_are_found_along_the_search_path(database: Database) -> None:
    moved = ["CREATE SCHEMA logs", "ALTER TABLE agent_execution_logs SET SCHEMA logs"]
    assert "table agent_execution_logs is missing" in problems(database, *moved)
    assert check(database, *moved, "SET search_path = public, logs").warnings == ()


def test_views_keep_the_contract_as_tables_do(database: Database) -> None:
    contract = check(
        database,
        "ALTER TABLE agent_execution_logs RENAME TO raw",
        "CREATE VIEW agent_execution_logs AS SELECT * FROM raw",
    )
    assert contract.warnings == ()


PARTITIONED = (
    "ALTER TABLE agent_execution_logs RENAME TO old",
    "CREATE TABLE agent_execution_logs (LIKE old) PARTITION BY RANGE (timestamp)",
    "CREATE TABLE y2025 PARTITION OF agent_execution_logs FOR VALUES FROM ('2025-01-01') TO ('2026-01-01')",
    "CREATE TABLE y2026 PARTITION OF agent_execution_logs FOR VALUES FROM ('2026-01-01') TO ('2027-01-01')",
)


@pytest.mark.parametrize(
    "indexes",
    [
        ["CREATE INDEX ON agent_execution_logs (timestamp, agent_id)"],
        ["CREATE INDEX ON y2025 (timestamp)", "CREATE INDEX ON y2026 USING brin (timestamp)"],
    ],
)
def test_a_partitioned_table_whose_partitions_are_indexed_raises_no_warning(indexes, database: Database) -> None:
    assert check(database, *PARTITIONED, *indexes).warnings == ()


def test_a_parent_without_rows_needs_no_index_and_a_child_does(database: Database) -> None:
    inherited = ["CREATE TABLE june (CHECK (timestamp > '2025-06-01')) INHERITS (agent_execution_logs)"]
    without = ["DROP INDEX agent_execution_logs_timestamp", *inherited]
    (warning,) = check(database, *without).warnings
    assert warning.startswith("No index of june leads with timestamp")
    assert check(database, *without, "CREATE INDEX ON june (timestamp)").warnings == ()


def test_a_partition_without_an_index_is_named(database: Database) -> None:
    (warning,) = check(database, *PARTITIONED, "CREATE INDEX ON y2025 (timestamp)").warnings
    assert warning.startswith("No index of y2026 leads with timestamp")


@pytest.mark.parametrize(
    "index",
    [
        "(agent_id, timestamp)",
        "(timestamp) WHERE status = 'failed'",
        "((timestamp AT TIME ZONE 'UTC'))",
        "USING hash (timestamp)",
    ],
)
def test_an_index_that_a_range_of_time_cannot_use_does_not_count(index: str, database: Database) -> None:
    (warning,) = check(
        database, "DROP INDEX agent_execution_logs_timestamp", f"CREATE INDEX ON agent_execution_logs {index}"
    ).warnings
    assert warning.startswith("No index of agent_execution_logs leads with timestamp")
    assert "CREATE INDEX ON agent_execution_logs (timestamp)" in warning


def test_missing_privileges_are_named_with_the_role(database: Database) -> None:
    message = problems(
        database,
        "GRANT SELECT ON alert_history TO pg_monitor",
        "GRANT SELECT (id, name) ON agent_registry TO pg_monitor",
        "SET ROLE pg_monitor",
    )
    assert "role pg_monitor" in message
    assert "the privilege SELECT on agent_registry (status) is missing" in message
    assert "the privilege SELECT on table agent_execution_logs is missing" in message
    assert "alert_history" not in message


def test_privileges_on_just_the_columns_that_we_read_suffice(database: Database) -> None:
    check(
        database,
        "ALTER TABLE agent_registry ADD COLUMN salary numeric",
        "GRANT SELECT (id, name, status) ON agent_registry TO pg_monitor",
        "GRANT SELECT ON agent_execution_logs, alert_history TO pg_monitor",
        "SET ROLE pg_monitor",
    )


SECURED = (
    "GRANT SELECT ON ALL TABLES IN SCHEMA public TO pg_monitor",
    "INSERT INTO agent_registry VALUES ('a', 'A', 'active'), ('b', 'B', 'active')",
    "ALTER TABLE agent_registry ENABLE ROW LEVEL SECURITY",
)


def test_row_level_security_that_hides_some_agents_is_warned_of(database: Database) -> None:
    statements = [*SECURED, "CREATE POLICY b ON agent_registry USING (id = 'b')"]
    assert check(database, *statements).warnings == ()  # a superuser sees everything
    (warning,) = check(database, *statements, "SET ROLE pg_monitor").warnings
    assert "Row-level security hides rows of agent_registry" in warning


def test_row_level_security_that_hides_everything_is_refused(database: Database) -> None:
    message = problems(database, *SECURED, "SET ROLE pg_monitor")
    assert "row-level security is active for table agent_registry, and no row of it is visible" in message


def test_row_level_security_under_which_no_row_is_found_in_time_is_refused(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("metrics_pipeline.logs.contract.LOOK_SECONDS", 0.05)
    statements = [*SECURED, "CREATE POLICY slow ON agent_registry USING (id = 'b' AND pg_sleep(10) IS NULL)"]
    message = problems(database, *statements, "SET ROLE pg_monitor")
    assert "active for table agent_registry, and no visible row of it was found within 0.05 s" in message


def test_a_schema_that_the_role_may_not_use_is_named(database: Database) -> None:
    message = problems(
        database,
        "CREATE SCHEMA logs",
        "ALTER TABLE agent_execution_logs SET SCHEMA logs",
        """SET search_path = public, "logs" """,
        "GRANT SELECT ON ALL TABLES IN SCHEMA public, logs TO pg_monitor",
        "SET ROLE pg_monitor",
    )
    assert "table agent_execution_logs is missing; the privilege USAGE on schema logs, where they may be" in message


def test_a_database_of_another_encoding_is_refused(server_uri: str, bare_database_url: str) -> None:
    database = Database(DatabaseUrl.parse(bare_database_url))
    name = "latin_" + database.description.split()[1]
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text(f"CREATE DATABASE {name} ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0"))
        try:
            latin = Database(DatabaseUrl.parse(bare_database_url.replace(database.description.split()[1], name)))
            assert "the database's encoding is LATIN1, needed is UTF8" in problems(latin)
            with pytest.raises(ContractError, match="encoding is LATIN1, needed is UTF8"):
                upgrade(latin)
        finally:
            connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
