"""A table agent_performance_metrics that was there before: what is adopted, and what is refused."""

import logging
from contextlib import ExitStack
from datetime import UTC, date, datetime
from decimal import Decimal

import pytest
from sqlalchemy import inspect, text

from metrics_pipeline.errors import ContractError, TransientError
from metrics_pipeline.postgres import upgrading
from metrics_pipeline.postgres.database import Database
from metrics_pipeline.postgres.tables import agent_performance_metrics
from metrics_pipeline.postgres.upgrading import Upgrade, head_revision, upgrade
from metrics_pipeline_tests.examples import variants
from metrics_pipeline_tests.postgres.test_upgrading import UPSERT, differences, execute

KEYS = "agent_id text, metric_date date"
COUNTS = "total_executions bigint, successful_executions bigint, failed_executions bigint"
TABLE = f"CREATE TABLE agent_performance_metrics ({KEYS})"


def trigger(body: str) -> str:
    """A trigger on each row that is inserted or updated."""
    return f"""
        CREATE FUNCTION t() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body}; END $$;
        CREATE TRIGGER t BEFORE INSERT OR UPDATE ON agent_performance_metrics FOR EACH ROW EXECUTE FUNCTION t()"""


def adopted(empty: Database) -> list[dict[str, object]]:
    """The rows after an upgrade that left nothing of ours missing; what the table had besides may stay."""
    upgrade(empty)
    with empty.connect() as connection:
        lacking = differences(connection, compare_server_default=False)
        assert [one for one in lacking if not str(one[0]).startswith("remove_")] == []
        rows = connection.execute(agent_performance_metrics.select().order_by("agent_id", "metric_date"))
        return [dict(row._mapping) for row in rows]


def test_a_table_of_narrower_types_is_rewritten_once_and_keeps_its_rows(empty: Database) -> None:
    execute(
        empty,
        "CREATE TABLE rewrites (of regclass)",
        """CREATE FUNCTION count_rewrite() RETURNS event_trigger LANGUAGE plpgsql AS $$
           BEGIN INSERT INTO rewrites VALUES (pg_event_trigger_table_rewrite_oid()); END $$""",
        "CREATE EVENT TRIGGER count_rewrite ON table_rewrite EXECUTE FUNCTION count_rewrite()",
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
    with empty.connect() as connection:
        rewrites = "SELECT count(*) FROM rewrites WHERE of = 'agent_performance_metrics'::regclass"
        assert connection.scalar(text(rewrites)) == 1
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
        row = connection.execute(text("SELECT id > 0, note, source FROM agent_performance_metrics")).one()
    assert tuple(row) == (True, None, "cron")
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
    variants([
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
                f"CREATE TABLE agent_performance_metrics ({KEYS})",
                "INSERT INTO agent_performance_metrics VALUES (NULL, '2025-06-01')",
            ],
            r"agent_id is NULL in 1 of 1 rows \(for example agent , 2025-06-01: NULL\)",
        ),
        (
            [
                f"CREATE TABLE agent_performance_metrics ({KEYS})",
                "INSERT INTO agent_performance_metrics VALUES ('a', '2025-06-01'), ('a', '2025-06-01')",
            ],
            r"could not create unique index .* Key \(agent_id, metric_date\)=\(a, 2025-06-01\) is duplicated",
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
                "CREATE MATERIALIZED VIEW w AS SELECT * FROM v",
                "CREATE VIEW unaffected AS SELECT agent_id FROM agent_performance_metrics",
            ],
            r"views depend on columns that change \(v, w\): .*--table=v --table=w`, drop them",
        ),
        (
            [
                f"CREATE TABLE agent_performance_metrics ({KEYS}, {COUNTS}, success_rate real)",
                "INSERT INTO agent_performance_metrics VALUES ('a', '2025-06-01', 3, 5, 0)",
            ],
            r"success_rate is not between 0 and 1 .* \(for example agent a, 2025-06-01: 1.666667\)",
        ),
        (
            [TABLE, "CREATE TABLE june () INHERITS (agent_performance_metrics)"],
            r"tables inherit from it \(june\).*NO INHERIT",
        ),
        (
            [f"CREATE TABLE parent ({KEYS})", "CREATE TABLE agent_performance_metrics () INHERITS (parent)"],
            "it belongs to parent by inheritance",
        ),
        (
            [TABLE, "CREATE RULE quiet AS ON INSERT TO agent_performance_metrics DO INSTEAD NOTHING"],
            r"rules rewrite what is written \(quiet\)",
        ),
        (
            [TABLE.replace(")", ", total_tokens int CONSTRAINT busy CHECK (total_tokens > 0))")],
            "it refuses a row of ours: .* violates check constraint .busy.",
        ),
        (
            [TABLE, trigger("RETURN NULL")],
            r"not store a row of ours as it was written \(its triggers: t\): the row of 0 executions is missing",
        ),
        (
            [
                TABLE,
                "INSERT INTO agent_performance_metrics VALUES ('a', '2025-06-01')",
                trigger("NEW.total_cost_usd = round(NEW.total_cost_usd, 2); RETURN NEW"),
            ],
            r"\(its triggers: t\): total_cost_usd is 99999999999.120000000 instead of 99999999999.123456789",
        ),
        ([TABLE, trigger("RAISE 'closed'")], r"it refuses a row of ours \(its triggers: t\): closed"),
    ]),
)  # fmt: skip
def test_what_cannot_be_adopted_is_named_and_nothing_changes(
    statements: list[str], reason: str, empty: Database, caplog: pytest.LogCaptureFixture
) -> None:
    execute(empty, *statements)
    before = inspect(empty.engine).get_columns("agent_performance_metrics")
    with pytest.raises(
        ContractError, match=rf"cannot be adopted, and nothing was changed: .*{reason}.*rename it"
    ) as it:
        upgrade(empty)
    assert ".." not in str(it.value)
    assert caplog.records == []
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


def test_values_that_no_reader_can_read_are_refused_with_their_number_and_an_example(empty: Database) -> None:
    execute(
        empty,
        f"""
        CREATE TABLE agent_performance_metrics ({KEYS}, total_executions float8, success_rate float8,
            p95_latency_ms float8, total_cost_usd float8, avg_cost_per_execution numeric,
            error_distribution json, created_at timestamp)""",
        """
        INSERT INTO agent_performance_metrics VALUES
            ('a', '2025-06-01', 1, 1, 1, 1, 1, '{"timeout": 2}', '2025-06-02'),
            ('b', '2025-06-01', -1, 97.5, 'Infinity', 'NaN', 'NaN', '[{"type": "timeout", "count": 2}]', 'infinity'),
            ('c', 'infinity', 'NaN', 'NaN', 'NaN', '-Infinity', 1e11, '{"timeout": 2.5}', '-infinity'),
            ('d', '2025-06-01', 1e15, -0.1, 1e19, 1e11, -1e11, '{"timeout": -2}', '20000-01-01'),
            ('e', '2025-06-01', NULL, NULL, NULL, NULL, NULL, 'null', NULL)""",
    )
    with pytest.raises(ContractError) as caught:
        upgrade(empty)
    for part in (
        "metric_date is NULL, infinite, or not in the years 1 to 9999 in 1 of 5 rows (for example agent c, infinity: ",
        "total_executions is NaN, negative, or 10^15 or more in 3 of 5 rows (for example agent b, 2025-06-01: -1)",
        "success_rate is not between 0 and 1 (divide percentages by 100) in 3 of 5 rows (for example agent b, 2025-06",
        "p95_latency_ms is NaN, infinite, or too large for bigint in 3 of 5 rows",
        "total_cost_usd is NaN, infinite, or 10^11 or more in 3 of 5 rows (for example agent b, 2025-06-01: NaN)",
        "avg_cost_per_execution is NaN, infinite, or 10^11 or more in 3 of 5 rows",
        'error_distribution is not an object of whole counts such as {"timeout": 2} in 4 of 5 rows',
        "created_at is infinite, or not in the years 1 to 9999 in 3 of 5 rows",
    ):
        assert part in str(caught.value)


def test_a_trigger_that_only_sets_updated_at_stays_and_is_named(
    empty: Database, caplog: pytest.LogCaptureFixture
) -> None:
    execute(empty, f"CREATE TABLE agent_performance_metrics ({KEYS}, updated_at timestamptz)")
    execute(empty, trigger("NEW.updated_at = now(); RETURN NEW"))
    upgrade(empty)
    (record,) = caplog.records
    assert "agent_performance_metrics keeps the triggers t" in record.getMessage()


def test_who_uses_a_table_that_has_to_change_is_named(empty: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upgrading, "_LOCK_TIMEOUT_MS", 50)
    monkeypatch.setattr(upgrading, "_PAUSES_SECONDS", (0.01,))
    execute(empty, TABLE)
    with empty.engine.begin() as dashboard:
        dashboard.execute(text("SET application_name = 'dashboard'"))
        dashboard.execute(text("SELECT FROM agent_performance_metrics"))
        pid = dashboard.scalar(text("SELECT pg_backend_pid()"))
        with pytest.raises(
            TransientError,
            match=rf"Nothing was changed. agent_performance_metrics is used by process {pid} "
            r"\(dashboard, role postgres\) in a transaction of \d+ s",
        ):
            upgrade(empty)
    upgrade(empty)


def test_a_table_that_becomes_free_is_upgraded_by_a_later_attempt(
    empty: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upgrading, "_LOCK_TIMEOUT_MS", 20)
    execute(empty, TABLE)
    with ExitStack() as stack:
        dashboard = stack.enter_context(empty.engine.begin())
        dashboard.execute(text("SELECT FROM agent_performance_metrics"))
        monkeypatch.setattr(upgrading.time, "sleep", lambda seconds: stack.close())
        assert upgrade(empty) == Upgrade(None, head_revision())


def test_a_table_whose_agents_and_days_are_limited_is_adopted(empty: Database) -> None:
    execute(
        empty,
        "CREATE TABLE agents (id text PRIMARY KEY)",
        """CREATE TABLE agent_performance_metrics (agent_id text REFERENCES agents, metric_date date)
           PARTITION BY RANGE (metric_date)""",
        "CREATE TABLE y2024 PARTITION OF agent_performance_metrics FOR VALUES FROM ('2024-01-01') TO ('2025-01-01')",
    )
    upgrade(empty)
    execute(empty, "INSERT INTO agents VALUES ('a')", UPSERT.replace("2025", "2024"))
