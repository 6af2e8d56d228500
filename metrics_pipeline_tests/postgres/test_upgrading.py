"""Upgrades of our tables by migrations, and the rows that they keep out."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, inspect, text
from sqlalchemy.exc import IntegrityError

from metrics_pipeline.errors import ContractError, PermanentError
from metrics_pipeline.postgres.database import Database
from metrics_pipeline.postgres.tables import metadata
from metrics_pipeline.postgres.upgrading import (
    VERSION_TABLE,
    Upgrade,
    current_revision,
    head_revision,
    require_current,
    upgrade,
)
from metrics_pipeline_tests.examples import variants

UPSERT = """
    INSERT INTO agent_performance_metrics (agent_id, metric_date, total_executions, successful_executions,
        failed_executions, success_rate, avg_latency_ms, p50_latency_ms, p95_latency_ms, p99_latency_ms, total_tokens,
        total_cost_usd, avg_cost_per_execution, error_distribution, human_interventions, unique_users)
    VALUES ('a', '2025-06-01', 5000000000, 0, 0, 0, 0, 0, 0, 0, 0, 99999999999.123456789, 0, '{}', 0, 0)
    ON CONFLICT (agent_id, metric_date) DO UPDATE SET total_executions = EXCLUDED.total_executions
"""


def execute(database: Database, *statements: str) -> None:
    with database.engine.begin() as connection:
        for statement in statements:
            connection.execute(text(statement))


def differences(connection: Connection, *, compare_server_default: bool) -> list[tuple[object, ...]]:
    def is_ours(name: str | None, kind: str, parents: object) -> bool:
        return kind != "table" or name in metadata.tables

    options = {
        "version_table": VERSION_TABLE,
        "include_name": is_ours,
        "compare_server_default": compare_server_default,
    }
    return compare_metadata(MigrationContext.configure(connection, opts=options), metadata)


def test_an_upgrade_makes_exactly_the_tables_that_the_code_declares(empty: Database) -> None:
    assert upgrade(empty) == Upgrade(before=None, after=head_revision())
    with empty.connect() as connection:
        assert differences(connection, compare_server_default=True) == []
        assert current_revision(connection) == head_revision()
    assert set(inspect(empty.engine).get_table_names()) == {*metadata.tables, VERSION_TABLE}


def test_postgresql_tries_to_compress_only_what_becomes_smaller_of_distributions(empty: Database) -> None:
    upgrade(empty)
    with empty.connect() as connection:
        found = connection.execute(
            text("""
SELECT attrelid::regclass::text, array_agg(attname::text ORDER BY attnum) FROM pg_attribute
WHERE attrelid::regclass::text LIKE '%distributions' AND attnum > 0 AND attstorage = 'x' AND atttypid <> 'text'::regtype
GROUP BY attrelid ORDER BY 1""")
        ).all()
    tables = ("agent_day_distributions", "agent_dimension_distributions")
    assert [tuple(row) for row in found] == [(table, ["latency_executions", "digest"]) for table in tables]


def test_a_second_upgrade_changes_nothing(empty: Database) -> None:
    upgrade(empty)
    assert upgrade(empty) == Upgrade(before=head_revision(), after=head_revision())


def test_of_upgrades_at_once_one_does_the_work_and_the_others_find_it_done(empty: Database) -> None:
    with empty.begin() as connection:
        name = connection.scalar(text("SELECT current_database()"))
        connection.execute(text(f"ALTER DATABASE {name} SET default_transaction_isolation = 'repeatable read'"))
    with ThreadPoolExecutor(6) as pool:
        done = list(pool.map(upgrade, [empty] * 6))
    assert sorted(done, key=lambda one: one.before or "") == [
        Upgrade(None, head_revision()),
        *[Upgrade(head_revision(), head_revision())] * 5,
    ]


def test_the_platforms_own_alembic_is_left_alone(empty: Database) -> None:
    execute(empty, "CREATE TABLE alembic_version (version_num text)", "INSERT INTO alembic_version VALUES ('theirs')")
    upgrade(empty)
    with empty.connect() as connection:
        assert connection.scalar(text("SELECT version_num FROM alembic_version")) == "theirs"


def test_a_database_without_our_tables_is_told_to_upgrade(empty: Database) -> None:
    with empty.connect() as connection, pytest.raises(PermanentError, match=r"missing.*`metrics-pipeline db upgrade`"):
        require_current(connection)


def test_a_database_at_our_revision_is_current(database: Database) -> None:
    with database.engine.connect() as connection:
        require_current(connection)


def test_a_database_newer_than_the_package_is_neither_used_nor_upgraded(database: Database) -> None:
    execute(database, f"UPDATE {VERSION_TABLE} SET version_num = '9999'")
    with database.engine.connect() as connection, pytest.raises(PermanentError, match=r"9999.*Install the version"):
        require_current(connection)
    with pytest.raises(PermanentError, match=r"9999.*Install the version"):
        upgrade(database)


@pytest.mark.parametrize(
    "wrong",
    variants(
        [
            "metric_date = 'infinity'",
            "metric_date = '10000-01-01'",
            "total_executions = -1",
            "successful_executions = 1000000000000000",
            "failed_executions = -1",
            "success_rate = 'NaN'",
            "success_rate = 1.000001",
            "total_cost_usd = 'NaN'",
            "avg_cost_per_execution = 'NaN'",
            "error_distribution = '[]'",
            """error_distribution = '"timeout"'""",
            """error_distribution = '{"timeout": "2"}'""",
            """error_distribution = '{"timeout": 2, "other": 2.0}'""",
            """error_distribution = '{"timeout": [2]}'""",
            """error_distribution = '{"timeout": null}'""",
            "human_interventions = -1",
            "unique_users = -1",
            "created_at = '-infinity'",
            "updated_at = 'infinity'",
        ]
    ),
)
def test_nobody_can_store_a_row_that_readers_cannot_read(wrong: str, database: Database) -> None:
    right = (
        """error_distribution = '{"a, 1": 2, "": 0, "[": 999999999999999}', total_tokens = -1, avg_latency_ms = -1"""
    )
    execute(database, UPSERT, f"UPDATE agent_performance_metrics SET {right}")
    with pytest.raises(IntegrityError, match=f"agent_performance_metrics_{wrong.split()[0]}_check"):
        execute(database, f"UPDATE agent_performance_metrics SET {wrong}")


def test_rows_that_an_older_version_let_in_are_named_before_an_upgrade_keeps_such_rows_out(database: Database) -> None:
    execute(
        database,
        "ALTER TABLE agent_performance_metrics DROP CONSTRAINT agent_performance_metrics_total_cost_usd_check",
        UPSERT,
        "UPDATE agent_performance_metrics SET total_cost_usd = 'NaN'",
        f"UPDATE {VERSION_TABLE} SET version_num = '0004'",
    )
    with pytest.raises(
        ContractError, match=r"total_cost_usd is NaN.* in 1 of 1 rows \(for example agent a, 2025-06-01"
    ):
        upgrade(database)
