"""The roles of `db grants`, with real logins: each has enough privileges for its purpose."""

import shlex
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import quote

import dagster as dg
import pytest
from psycopg import sql
from typer.testing import CliRunner, Result

from metrics_pipeline.cli import app
from metrics_pipeline.definitions import build_defs
from metrics_pipeline.errors import ContractError, PermanentError
from metrics_pipeline.names import ALERTS_TABLE, SCHEDULED_AT_TAG
from metrics_pipeline.pipeline.delivery import deliver
from metrics_pipeline.pipeline.opening import open_logs, require_ready
from metrics_pipeline.pipeline.reconciling import finished_days
from metrics_pipeline.postgres.database import Database
from metrics_pipeline.postgres.privileges import Purpose
from metrics_pipeline.postgres.urls import DatabaseUrl
from metrics_pipeline.settings import Settings
from metrics_pipeline.store.answers.restatements import restatements_page
from metrics_pipeline.store.ledger import ledger_rows
from metrics_pipeline.store.reads import metrics_of_day
from metrics_pipeline_tests.days import (
    DAY,
    WINDOW,
    Log,
    aggregate,
    assert_exact,
    execute,
    query,
    store_agents,
    store_logs,
)
from metrics_pipeline_tests.orchestration.nights import Nights, asked

from .roles import Role, apply, printed
from .roles import roles as roles

NOW = datetime.now(UTC)
NIGHT = "2025-03-05T02:00:00+00:00"
NOON = "2025-03-05T12:00:00+00:00"


def store_day(database: Database) -> None:
    store_agents(database, {"a": "active", "b": "active", "c": "inactive"})
    store_logs(
        database,
        [
            Log("a", "success", 10, 20, "0.1", metadata='{"user_id": "u"}'),
            Log("a", "failed", 30, 40, "0.0000000001", "timeout"),
            Log("b", "success", None, None, "NaN"),
            Log("c", "success", 1, 1, "1"),
        ],
    )


def test_the_pipelines_role_heals_a_day_by_schedule_and_sensor(
    database: Database, roles: dict[str, Role], tmp_path: Path
) -> None:
    store_day(database)
    # No check and no tick needs a second one either.
    execute(database, f"ALTER ROLE {identifier(roles['pipeline'].name)} CONNECTION LIMIT 1")
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        nights = Nights(roles["pipeline"].database, instance, {"start_date": DAY, "lookback_days": 1})
        tick = nights.schedule(NIGHT)
        assert asked(tick) == [DAY.isoformat()]
        assert [result.success for result in nights.launch(*tick.run_requests)] == [True]
        assert_exact(database)
        store_logs(database, [Log("a", "failed", 5, 6, "7.00000000001")])
        tick = nights.sensor(NOON)
        assert [result.success for result in nights.launch(*tick.run_requests)] == [True]
    assert_exact(database)
    assert query(database, "SELECT agent_id, reason FROM metric_restatements") == [("a", "late logs")]


def test_the_readers_role_reads_metrics_ledger_restatements_and_the_state_of_days(
    database: Database, roles: dict[str, Role]
) -> None:
    store_day(database)
    aggregate(database)
    reader = roles["reader"].database
    logs = open_logs(reader)
    with reader.engine.connect() as connection:
        assert metrics_of_day(connection, DAY)["agent_id"].to_list() == ["a", "b"]
        assert ledger_rows(connection, DAY, DAY)[DAY].source_logs == 4
        assert restatements_page(connection, DAY, DAY, agent_id=None, limit=1, offset=0).rows == []
        assert finished_days(connection, logs, [WINDOW]) == {DAY}
    with pytest.raises(ContractError, match="the privilege SELECT on table alert_history is missing"):
        require_ready(reader, [ALERTS_TABLE])


PARTITIONED = (
    "CREATE SCHEMA parts",
    "ALTER TABLE agent_execution_logs RENAME TO plain",
    "CREATE TABLE agent_execution_logs (LIKE plain INCLUDING DEFAULTS) PARTITION BY RANGE (timestamp)",
    "CREATE TABLE parts.y2025 PARTITION OF agent_execution_logs FOR VALUES FROM ('2025-01-01') TO ('2026-01-01')",
    "CREATE TABLE rest PARTITION OF agent_execution_logs DEFAULT",
)


@pytest.mark.parametrize(
    "layout", [pytest.param((), id="plain"), pytest.param(PARTITIONED, id="partitioned", marks=pytest.mark.ci)]
)
def test_retentions_role_prunes_logs_then_metrics_and_alerts(
    layout: tuple[str, ...], database: Database, database_url: str, roles: dict[str, Role], tmp_path: Path
) -> None:
    execute(database, *layout)
    apply(printed(database_url, f"--retention={roles['retention'].name}"), database_url)
    store_day(database)
    store_logs(database, [Log("a", timestamp=NOW)])
    aggregate(database)
    execute(database, "UPDATE agent_execution_logs SET latency_ms = 11 WHERE latency_ms = 10")
    aggregate(database)
    execute(
        database,
        "INSERT INTO alert_history (agent_id, alert_type, severity, message, triggered_at, resolved_at) "
        "VALUES ('a', 't', 's', 'm', '2025-01-01', '2025-01-02'), ('a', 't', 's', 'm', '2025-01-01', NULL)",
    )
    job = build_defs(start_date=DAY).resolve_job_def("data_retention_job")

    def prune(at: datetime) -> None:
        tags = {SCHEDULED_AT_TAG: at.isoformat()}
        assert job.execute_in_process(
            instance=instance,
            run_config={"ops": {"data_retention": {"config": {"dry_run": False}}}},
            resources={"database": roles["retention"].database},
            tags=tags,
        ).success

    counts = (
        "SELECT (SELECT count(*) FROM agent_execution_logs), (SELECT count(*) FROM agent_performance_metrics), "
        "(SELECT count(*) FROM metric_restatements), (SELECT count(*) FROM alert_history)"
    )
    assert query(database, counts) == [(5, 2, 1, 2)]
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        prune(WINDOW.end + timedelta(days=40))
        assert query(database, counts) == [(1, 2, 1, 1)]
        prune(NOW)
    assert query(database, counts) == [(1, 0, 0, 1)]


def test_check_names_the_privileges_that_a_role_lacks_for_each_purpose(
    database: Database, roles: dict[str, Role]
) -> None:
    def check(role: Role, *purposes: Purpose) -> Result:
        options = [f"--for={purpose}" for purpose in purposes]
        return CliRunner().invoke(app, ["db", "check", *options], env={"METRICS_DATABASE_URL": role.url})

    pipeline, reader = roles["pipeline"], roles["reader"]
    for purpose in Purpose:
        assert check(roles[purpose], purpose).exit_code == 0
    nightly = check(pipeline)
    assert "Ready for pipeline" in nightly.output
    assert "Not ready for retention: The database does not hold what" in str(nightly.exception)
    assert "the privilege SELECT on table alert_history is missing" in str(nightly.exception)
    execute(database, f"GRANT SELECT ON alert_history TO {identifier(pipeline.name)}")
    assert "lacks what the retention needs: DELETE on agent_execution_logs, DELETE on alert_history" in str(
        check(pipeline).exception
    )
    lacking = check(reader, Purpose.PIPELINE)
    assert isinstance(lacking.exception, PermanentError)
    message = str(lacking.exception)
    assert message.startswith(
        f"Not ready for pipeline: Role {reader.name} lacks what the pipeline needs: INSERT on "
        "agent_performance_metrics, UPDATE on agent_performance_metrics, INSERT on agent_dimension_metrics, "
        "UPDATE on agent_dimension_metrics, DELETE on agent_dimension_metrics, INSERT on agent_day_distributions, "
        "DELETE on agent_day_distributions, INSERT on agent_dimension_distributions, "
        "DELETE on agent_dimension_distributions, SELECT on metric_user_key, INSERT on metric_day_ledger, "
        "UPDATE on metric_day_ledger, INSERT on metric_day_verifications, UPDATE on metric_day_verifications, "
        "INSERT on metric_restatements, INSERT on metric_alerts, DELETE on metric_alerts, "
        "INSERT on metric_alert_transitions, INSERT on metric_alert_rules, UPDATE on metric_alert_rules, "
        "INSERT on metric_alert_deliveries, UPDATE on metric_alert_deliveries, SELECT on metric_log_changes, "
        "DELETE on metric_log_changes, SELECT on metric_log_feed, UPDATE on metric_log_feed, "
        "SELECT on metric_log_watermark, UPDATE on metric_log_watermark, "
        "SELECT on metric_log_failures. "
    )
    assert message.endswith(f"metrics-pipeline db grants --pipeline {shlex.quote(reader.name)}")


def test_alert_history_is_written_under_the_pipelines_role_once_it_has_the_grants_of_alerts(
    database: Database, database_url: str, roles: dict[str, Role]
) -> None:
    execute(
        database,
        """INSERT INTO metric_alert_transitions (rule, scope, agent_id, opened_on, transition, metric_date, severity,
               evidence, is_quiet)
           VALUES ('silence', 'agent', 'a', '2025-03-04', 'opened', '2025-03-04', 'warning', '{}', false)""",
    )
    pipeline = roles["pipeline"]
    settings = Settings(Path("/nowhere"), alerts_to=ALERTS_TABLE)
    with pytest.raises(PermanentError, match="lacks what the alerts needs: INSERT on alert_history, UPDATE") as raised:
        deliver(pipeline.database, settings, datetime.now(UTC), seconds=35)
    assert str(raised.value).endswith(f"metrics-pipeline db grants --alerts {shlex.quote(pipeline.name)}")
    apply(printed(database_url, f"--alerts={pipeline.name}"), database_url)
    (outcome,) = deliver(pipeline.database, settings, datetime.now(UTC), seconds=35)
    assert outcome.error is None
    assert query(database, "SELECT alert_type FROM alert_history") == [("metrics_pipeline.silence",)]


def test_check_opens_the_views_that_it_calls_readable(database: Database, roles: dict[str, Role]) -> None:
    execute(
        database,
        """ALTER TABLE agent_registry RENAME TO agents;
           CREATE VIEW agent_registry WITH (security_invoker) AS SELECT * FROM agents""",
    )
    execute(database, f"GRANT SELECT ON agent_registry TO {identifier(roles['pipeline'].name)}")
    execute(database, f"REVOKE ALL ON agents FROM {identifier(roles['pipeline'].name)}")
    result = CliRunner().invoke(app, ["db", "check"], env={"METRICS_DATABASE_URL": roles["pipeline"].url})
    assert "These tables cannot be read: agent_registry (permission denied for table agents)" in str(result.exception)


def test_tables_are_granted_where_search_path_finds_them_with_their_serials(
    database: Database, database_url: str, roles: dict[str, Role]
) -> None:
    execute(
        database,
        'CREATE SCHEMA "the platform\'s"',
        'ALTER TABLE agent_execution_logs SET SCHEMA "the platform\'s"',
        "ALTER TABLE agent_performance_metrics ADD COLUMN number serial",
    )
    path = quote('-csearch_path=public,"the\\ platform\'s"')
    pipeline = roles["pipeline"]
    apply(printed(f"{database_url}&options={path}", f"--pipeline={pipeline.name}"), database_url)
    store_day(Database(DatabaseUrl.parse(f"{database_url}&options={path}")))
    aggregate(Database(DatabaseUrl.parse(f"{pipeline.url}&options={path}")))
    assert query(database, "SELECT agent_id, number FROM agent_performance_metrics") == [("a", 1), ("b", 2)]


def test_the_same_role_may_serve_every_purpose_and_only_named_purposes_are_granted(database_url: str) -> None:
    everything = printed(database_url, "--pipeline=r", "--retention=r", "--reader=r")
    assert everything.count('TO "r"') == everything.count("GRANT")
    journals = "public.metric_restatements, public.metric_alert_transitions"
    assert f'GRANT SELECT, INSERT ON TABLE {journals} TO "r";' in everything
    only = printed(database_url, "--reader=r")
    assert "INSERT" not in only
    assert "DELETE" not in only
    assert only.startswith("BEGIN;\n")
    assert only.endswith("COMMIT;\n")
    defaults = printed(database_url)
    assert {f'TO "metrics_{purpose}";' in defaults for purpose in ("pipeline", "retention", "reader")} == {True}


@pytest.mark.parametrize("name", ["", "é" * 32, "caf\udce9", "a\0b"])
def test_a_name_that_postgresql_would_take_for_another_is_refused(name: str, database_url: str) -> None:
    arguments = ["db", "grants", "--reader", name]
    result = CliRunner().invoke(app, arguments, env={"METRICS_DATABASE_URL": database_url})
    assert isinstance(result.exception, PermanentError)
    assert f"{name!r} cannot be the name of a role" in str(result.exception)


def test_missing_tables_are_named_with_the_remedy(bare_database_url: str) -> None:
    result = CliRunner().invoke(app, ["db", "grants"], env={"METRICS_DATABASE_URL": bare_database_url})
    assert isinstance(result.exception, PermanentError)
    assert (
        "nothing to grant on agent_day_distributions, agent_dimension_distributions, agent_dimension_metrics, "
        in str(result.exception)
    )
    assert "metrics-pipeline db upgrade" in str(result.exception)


def identifier(name: str) -> str:
    return sql.Identifier(name).as_string().replace(":", "\\:")
