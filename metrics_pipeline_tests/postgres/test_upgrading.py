import logging
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime
from decimal import Decimal

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, inspect, text

from metrics_pipeline.errors import ContractError, PermanentError
from metrics_pipeline.postgres.database import Database
from metrics_pipeline.postgres.tables import agent_performance_metrics, metadata
from metrics_pipeline.postgres.upgrading import (
    VERSION_TABLE,
    Upgrade,
    current_revision,
    head_revision,
    require_current,
    upgrade,
)
from metrics_pipeline.postgres.urls import DatabaseUrl

KEYS = "agent_id text, metric_date date"
COUNTS = "total_executions bigint, successful_executions bigint, failed_executions bigint"
UPSERT = """
    INSERT INTO agent_performance_metrics (agent_id, metric_date, total_executions, successful_executions,
        failed_executions, success_rate, avg_latency_ms, p50_latency_ms, p95_latency_ms, p99_latency_ms, total_tokens,
        total_cost_usd, avg_cost_per_execution, error_distribution, human_interventions, unique_users)
    VALUES ('a', '2025-06-01', 5000000000, 0, 0, 0, 0, 0, 0, 0, 0, 99999999999.123456789, 0, '{}', 0, 0)
    ON CONFLICT (agent_id, metric_date) DO UPDATE SET total_executions = EXCLUDED.total_executions
"""


@pytest.fixture
def empty(bare_database_url: str) -> Database:
    return Database(DatabaseUrl.parse(bare_database_url))


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


def adopted(empty: Database) -> list[dict[str, object]]:
    """The rows after an upgrade that left nothing of ours missing; what the table had besides may stay."""
    upgrade(empty)
    with empty.connect() as connection:
        lacking = differences(connection, compare_server_default=False)
        assert [one for one in lacking if not str(one[0]).startswith("remove_")] == []
        rows = connection.execute(agent_performance_metrics.select().order_by("agent_id", "metric_date"))
        return [dict(row._mapping) for row in rows]


def test_an_upgrade_makes_exactly_the_tables_that_the_code_declares(empty: Database) -> None:
    assert upgrade(empty) == Upgrade(before=None, after=head_revision())
    with empty.connect() as connection:
        assert differences(connection, compare_server_default=True) == []
        assert current_revision(connection) == head_revision()
    assert set(inspect(empty.engine).get_table_names()) == {*metadata.tables, VERSION_TABLE}


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


def test_a_table_of_narrower_types_is_widened_and_keeps_its_rows(empty: Database) -> None:
    execute(
        empty,
        """
        CREATE TABLE agent_performance_metrics (
            agent_id uuid, metric_date date, total_executions integer NOT NULL DEFAULT 0,
            successful_executions smallint, failed_executions integer, success_rate numeric(5,4),
            avg_latency_ms double precision, p50_latency_ms double precision, p95_latency_ms real,
            p99_latency_ms numeric(12,2), total_tokens integer, total_cost_usd numeric(10,4),
            avg_cost_per_execution double precision, error_distribution json, human_interventions integer,
            unique_users integer, created_at timestamp DEFAULT now(), updated_at timestamp,
            PRIMARY KEY (agent_id, metric_date))
        """,
        """
        INSERT INTO agent_performance_metrics VALUES ('0b2a8c9e-0000-4000-8000-00000000000a', '2025-06-01', 3, 2, 1,
            0.6667, 12.5, 12.5, 90, 99.5, 700, 1.2345, 0.4115, '{"timeout": 1}', 1, 2, '2025-06-02 02:00', NULL)
        """,
    )
    assert adopted(empty) == [
        {
            "agent_id": "0b2a8c9e-0000-4000-8000-00000000000a",
            "metric_date": date(2025, 6, 1),
            "total_executions": 3,
            "successful_executions": 2,
            "failed_executions": 1,
            "success_rate": Decimal("0.666700"),
            "avg_latency_ms": 12,  # double to bigint rounds half to even
            "p50_latency_ms": 12,
            "p95_latency_ms": 90,
            "p99_latency_ms": 100,
            "total_tokens": 700,
            "total_cost_usd": Decimal("1.234500000"),
            "avg_cost_per_execution": Decimal("0.411500000"),
            "error_distribution": {"timeout": 1},
            "human_interventions": 1,
            "unique_users": 2,
            "created_at": datetime(2025, 6, 2, 2, tzinfo=UTC),
            "updated_at": None,
        }
    ]
    execute(empty, UPSERT, UPSERT)


def test_what_an_old_row_lacks_is_derived_or_that_of_a_day_without_data_and_is_said(
    empty: Database, caplog: pytest.LogCaptureFixture
) -> None:
    execute(
        empty,
        f"CREATE TABLE agent_performance_metrics ({KEYS}, {COUNTS}, total_cost_usd numeric, updated_at timestamptz)",
        "INSERT INTO agent_performance_metrics VALUES ('a', '2025-06-01', 7, 2, 3, 0.1, '2025-06-02 00:00+00')",
        "INSERT INTO agent_performance_metrics VALUES ('b', '2025-06-01', NULL, 2, 1)",
        "INSERT INTO agent_performance_metrics VALUES ('c', '2025-06-01')",
    )
    with caplog.at_level(logging.WARNING):
        a, b, c = adopted(empty)
    assert a["success_rate"] == Decimal("0.285714")
    assert a["avg_cost_per_execution"] == Decimal("0.014285714")
    assert a["error_distribution"] == {"unknown": 3}
    assert a["created_at"] == datetime(2025, 6, 2, tzinfo=UTC)
    assert (b["total_executions"], b["success_rate"], b["total_cost_usd"]) == (3, Decimal("0.666667"), 0)
    assert (c["total_executions"], c["success_rate"], c["error_distribution"]) == (0, 1, {})
    assert {c[name] for name in ("avg_latency_ms", "p99_latency_ms", "total_tokens", "unique_users")} == {0}
    (record,) = caplog.records
    assert "total_executions in 2 rows" in record.getMessage()
    assert "success_rate in 3 rows" in record.getMessage()


def test_a_surrogate_key_and_columns_with_defaults_stay(empty: Database) -> None:
    execute(
        empty,
        f"""
        CREATE TABLE agent_performance_metrics (id bigserial PRIMARY KEY, {KEYS}, {COUNTS}, note text,
            source text NOT NULL DEFAULT 'cron', UNIQUE (metric_date, agent_id) INCLUDE (note))
        """,
    )
    adopted(empty)
    execute(empty, UPSERT, UPSERT)
    with empty.connect() as connection:
        row = connection.execute(text("SELECT id, note, source FROM agent_performance_metrics")).one()
    assert tuple(row) == (1, None, "cron")
    assert inspect(empty.engine).get_pk_constraint("agent_performance_metrics")["constrained_columns"] == ["id"]
    assert len(inspect(empty.engine).get_unique_constraints("agent_performance_metrics")) == 1


@pytest.mark.parametrize(
    "key",
    [
        "CREATE INDEX ON agent_performance_metrics (agent_id, metric_date)",
        "CREATE UNIQUE INDEX ON agent_performance_metrics (agent_id, metric_date) WHERE total_executions > 0",
        "CREATE UNIQUE INDEX ON agent_performance_metrics (agent_id, metric_date, total_executions)",
        "ALTER TABLE agent_performance_metrics ADD id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY",
    ],
)
def test_a_table_whose_indexes_do_not_serve_the_upsert_gets_a_key(key: str, empty: Database) -> None:
    execute(empty, f"CREATE TABLE agent_performance_metrics ({KEYS}, {COUNTS})", key)
    adopted(empty)
    execute(empty, UPSERT, UPSERT)


def test_a_partitioned_table_is_adopted(empty: Database) -> None:
    execute(
        empty,
        f"CREATE TABLE agent_performance_metrics ({KEYS}, {COUNTS}) PARTITION BY RANGE (metric_date)",
        "CREATE TABLE y2025 PARTITION OF agent_performance_metrics FOR VALUES FROM ('2025-01-01') TO ('2026-01-01')",
    )
    upgrade(empty)
    execute(empty, UPSERT, UPSERT)


@pytest.mark.parametrize(
    ("statements", "reason"),
    [
        (["CREATE VIEW agent_performance_metrics AS SELECT 1 AS x"], "it is not a table"),
        (["CREATE TABLE agent_performance_metrics (agent_id text)"], "column metric_date is missing"),
        ([f"CREATE TABLE agent_performance_metrics ({KEYS}, total_tokens text)"], "column total_tokens has type text"),
        ([f"CREATE TABLE agent_performance_metrics ({KEYS}, x text NOT NULL)"], "column x, which is not ours"),
        (
            [f"CREATE TABLE agent_performance_metrics ({KEYS}, unique_users int GENERATED ALWAYS AS (1) STORED)"],
            "column unique_users is generated",
        ),
        (
            [
                f"CREATE TABLE agent_performance_metrics ({KEYS}, success_rate double precision)",
                "INSERT INTO agent_performance_metrics VALUES ('a', '2025-06-01', 97.5)",
            ],
            "column success_rate: numeric field overflow",
        ),
        (
            [
                f"CREATE TABLE agent_performance_metrics ({KEYS})",
                "INSERT INTO agent_performance_metrics VALUES (NULL, '2025-06-01')",
            ],
            "column agent_id: column .agent_id.* contains null values",
        ),
        (
            [
                f"CREATE TABLE agent_performance_metrics ({KEYS})",
                "INSERT INTO agent_performance_metrics VALUES ('a', '2025-06-01'), ('a', '2025-06-01')",
            ],
            r"the key \(agent_id, metric_date\): could not create unique index",
        ),
        (
            [
                f"CREATE TABLE agent_performance_metrics ({KEYS})",
                "ALTER TABLE agent_performance_metrics ADD CONSTRAINT k UNIQUE (metric_date, agent_id) DEFERRABLE",
            ],
            "its key k is DEFERRABLE",
        ),
        (
            [
                f"CREATE TABLE agent_performance_metrics ({KEYS}, unique_users int)",
                "CREATE VIEW v AS SELECT unique_users FROM agent_performance_metrics",
            ],
            "column unique_users: cannot alter type of a column used by a view",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_adopted_is_named_and_nothing_changes(statements, reason: str, empty: Database) -> None:
    execute(empty, *statements)
    before = inspect(empty.engine).get_columns("agent_performance_metrics")
    with pytest.raises(ContractError, match=rf"(?s)cannot be adopted, and nothing was changed: .*{reason}.*rename it"):
        upgrade(empty)
    assert [str(column) for column in inspect(empty.engine).get_columns("agent_performance_metrics")] == [
        str(column) for column in before
    ]
    assert not inspect(empty.engine).has_table("metric_day_ledger")


def test_all_that_stands_in_the_way_is_named_at_once(empty: Database) -> None:
    execute(empty, "CREATE TABLE agent_performance_metrics (agent_id integer, total_tokens text, x int NOT NULL)")
    with pytest.raises(ContractError) as caught:
        upgrade(empty)
    for part in ("agent_id has type integer", "metric_date is missing", "total_tokens has type text", "column x"):
        assert part in str(caught.value)
