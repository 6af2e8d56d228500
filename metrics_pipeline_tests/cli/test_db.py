import re

import psycopg
import pytest
from sqlalchemy import text
from typer.testing import CliRunner, Result

from metrics_pipeline import __version__
from metrics_pipeline.cli import app as commands
from metrics_pipeline.cli.db import app
from metrics_pipeline.errors import PermanentError, SettingsError, TransientError
from metrics_pipeline.postgres.database import Database
from metrics_pipeline.postgres.upgrading import VERSION_TABLE, head_revision
from metrics_pipeline.postgres.urls import DatabaseUrl


def run(command: str, url: str, *options: str) -> Result:
    return CliRunner().invoke(app, [command, *options], env={"METRICS_DATABASE_URL": url})


def execute(url: str, *statements: str) -> None:
    with Database(DatabaseUrl.parse(url)).engine.begin() as connection:
        for statement in statements:
            connection.execute(text(statement))


def test_upgrade_says_from_what_to_what_and_where(bare_database_url: str) -> None:
    where = DatabaseUrl.parse(bare_database_url).description
    first, second = run("upgrade", bare_database_url), run("upgrade", bare_database_url)
    assert first.output == f"Upgraded our tables in {where} from none to revision {head_revision()}.\n"
    assert second.output == f"Our tables in {where} are at revision {head_revision()} already.\n"
    assert (first.exit_code, second.exit_code) == (0, 0)


def test_upgrade_proposes_the_day_of_the_first_log_as_the_start_to_whoever_can_read_the_logs(database_url: str) -> None:
    log = "INSERT INTO agent_execution_logs (agent_id, timestamp, status) VALUES ('bot', '2025-06-01 12:00', 'success')"
    done = run("upgrade", database_url).output
    assert done.endswith(" already.\n")
    execute(database_url, log)
    proposal = (
        "METRICS_START_DATE is 2025-01-01, and the first log is of 2025-06-01: set METRICS_START_DATE=2025-06-01, so "
        "that the days before are not shown as missing.\n"
    )
    assert run("upgrade", database_url).output == done + proposal
    assert proposal in run("check", database_url).output
    settled = {"METRICS_DATABASE_URL": database_url, "METRICS_START_DATE": "2025-05-01"}
    assert CliRunner().invoke(app, ["upgrade"], env=settled).output == done
    execute(database_url, "ALTER TABLE agent_execution_logs RENAME COLUMN timestamp TO at")
    unreadable = run("upgrade", database_url)
    assert (unreadable.exit_code, unreadable.output) == (0, done)


def test_a_plan_names_revisions_changes_and_obstacles_and_changes_nothing(bare_database_url: str) -> None:
    execute(
        bare_database_url,
        "CREATE TABLE agent_performance_metrics (agent_id text, metric_date date, total_tokens int)",
        "INSERT INTO agent_performance_metrics VALUES ('a', '2025-06-01'), ('b', '2025-06-01')",
        "ANALYZE agent_performance_metrics",
    )
    output = run("upgrade", bare_database_url, "--plan").output
    assert "at revision none." in output
    assert "0001: Creates our tables, or adopts an existing agent_performance_metrics.\n0002: " in output
    assert f"\n{head_revision()}: " in output
    assert "An existing agent_performance_metrics would be adopted: about 2 rows, " in output
    assert "ALTER TABLE agent_performance_metrics ADD COLUMN total_executions bigint, " in output
    assert ", ALTER COLUMN total_tokens TYPE bigint USING coalesce(total_tokens::bigint, 0), " in output
    assert "total_tokens would get a value in 2 rows that have none" in output
    execute(bare_database_url, "CREATE VIEW dashboard AS SELECT total_tokens FROM agent_performance_metrics")
    refused = run("upgrade", bare_database_url, "--plan")
    assert "would be refused: views depend on columns that change (dashboard)" in str(refused.exception)
    assert run("upgrade", bare_database_url, "--plan").exit_code == 1
    execute(bare_database_url, "DROP VIEW dashboard")
    assert "from none to revision" in run("upgrade", bare_database_url).output
    finished = run("upgrade", bare_database_url, "--plan")
    assert finished.output.endswith(f"are at revision {head_revision()} already.\n")


def test_check_of_a_database_that_has_everything_says_so(database_url: str) -> None:
    result = run("check", database_url)
    assert result.exit_code == 0
    assert f"Checking {DatabaseUrl.parse(database_url).description}" in result.output
    assert f"Our tables: revision {head_revision()}, newest {head_revision()}" in result.output
    for purpose in ("pipeline", "retention"):
        assert f"Ready for {purpose}: all tables, columns, types and privileges are there" in result.output
    assert "Warning: None of the agents (1)" not in result.output


def test_check_shows_warnings(database_url: str) -> None:
    execute(database_url, "DROP INDEX agent_execution_logs_timestamp")
    result = run("check", database_url)
    assert result.exit_code == 0
    assert "Warning: No index of agent_execution_logs leads with timestamp" in result.output


def test_check_fails_when_upstream_tables_are_missing_and_still_tells_our_own_revision(bare_database_url: str) -> None:
    run("upgrade", bare_database_url)
    result = run("check", bare_database_url)
    assert "Not ready for pipeline: " in str(result.exception)
    assert "Not ready for retention: " in str(result.exception)
    assert f"Our tables: revision {head_revision()}" in result.output


def test_check_fails_when_our_tables_are_missing(database_url: str) -> None:
    execute(database_url, f"DROP TABLE {VERSION_TABLE}")
    result = run("check", database_url)
    assert isinstance(result.exception, PermanentError)
    assert "metrics-pipeline db upgrade" in str(result.exception)
    assert "Our tables: missing" in result.output


def test_check_says_what_retention_alone_lacks_and_that_it_does_without_alerts(database_url: str) -> None:
    execute(database_url, "ALTER TABLE alert_history DROP resolved_at")
    result = run("check", database_url)
    assert result.exit_code == 1
    assert "Ready for pipeline: " in result.output
    assert "Not ready for retention: " in str(result.exception)
    assert "column alert_history.resolved_at is missing" in str(result.exception)
    execute(database_url, "DROP TABLE alert_history")
    output = run("check", database_url).output
    assert "Ready for retention: " in output
    assert "alert_history does not exist, so no alert is deleted" in output
    assert "alert_history" not in run("grants", database_url).output


def test_check_shows_statuses_and_agents_and_warns_if_none_of_them_counts(database_url: str) -> None:
    logs = """INSERT INTO agent_execution_logs (agent_id, timestamp, status)
              SELECT 'bot', now() - n * interval '1 minute', CASE WHEN n % 4 = 0 THEN 'ERROR' ELSE 'OK' END
              FROM generate_series(1, 12) AS n"""
    execute(database_url, "INSERT INTO agent_registry VALUES ('Bot', 'Bot', 'ACTIVE'), ('b', 'B', 'retired')", logs)
    output = run("check", database_url).output
    assert "Agents: 0 of 2 are active\n" in output
    assert "Statuses of the newest 12 logs: OK 9, ERROR 3\n" in output
    assert "Of these, 0 count as success or failed, and the agents of 0 are registered\n" in output
    assert "Warning: None of the agents (2) is active" in output
    assert "Warning: None of the newest logs (12) has an agent that is registered" in output
    assert "Warning: None of the newest logs (12) has the status 'success' or 'failed'" in output
    execute(
        database_url,
        "UPDATE agent_registry SET id = 'bot', status = 'active' WHERE id = 'Bot'",
        "UPDATE agent_execution_logs SET status = 'failed' WHERE status = 'ERROR'",
        "ALTER TABLE agent_execution_logs ALTER cost_usd TYPE real",
    )
    output = run("check", database_url).output
    assert "agent_execution_logs.cost_usd has type real: a cost is read as its shortest decimal text" in output
    assert "latency_ms has type" not in output
    assert "Agents: 1 of 2 are active\n" in output
    assert "Of these, 3 count as success or failed, and the agents of 12 are registered\n" in output
    assert "Warning" not in output


def test_check_warns_of_a_large_table_that_each_day_reads_through_a_view(database_url: str) -> None:
    execute(
        database_url,
        "ALTER TABLE agent_execution_logs RENAME TO old",
        "CREATE TABLE runs AS SELECT n AS id, 1700000000 + n AS seconds FROM generate_series(1, 100000) AS n",
        "CREATE INDEX ON runs (id)",
        """CREATE VIEW agent_execution_logs AS
           SELECT runs.id, 'a' AS agent_id, to_timestamp(seconds) AS timestamp, 'success' AS status, latency_ms,
                  token_count, cost_usd, error_type, metadata
           FROM runs LEFT JOIN old ON old.id = gen_random_uuid()""",
        "ANALYZE runs",
    )
    warned = " ".join(run("check", database_url).output.split())
    assert "Warning: Each day reads all 100,000 rows of runs, because no index" in warned
    (printed,) = re.findall(r"Have its owner apply: (CREATE INDEX CONCURRENTLY ON .*?\)) ?(?:Warning|$)", warned)
    execute(database_url, printed.replace("CONCURRENTLY ", ""))
    now_read = " ".join(run("check", database_url).output.split())
    assert "Each day reads" not in now_read
    assert "A day is read through the view agent_execution_logs by the indexes runs_to_timestamp_idx" in now_read


def test_check_says_that_a_standby_cannot_be_written(database_url: str) -> None:
    execute(
        database_url,
        "CREATE FUNCTION pg_is_in_recovery() RETURNS boolean RETURN true",
        f"ALTER DATABASE {DatabaseUrl.parse(database_url).description.split()[1]} SET search_path = public, pg_catalog",
    )
    assert "Not ready for pipeline and retention: The server is a standby" in str(run("check", database_url).exception)


@pytest.mark.parametrize("command", ["check", "upgrade"])
def test_a_url_or_server_that_cannot_be_used_is_one_error_without_a_password(command: str, tmp_path) -> None:
    unreachable = run(command, f"postgresql://alice:s3cret@/m?host={tmp_path}")
    malformed = run(command, "postgresql://alice:s3cret/x@h/m")
    assert isinstance(unreachable.exception, TransientError)
    assert isinstance(malformed.exception, SettingsError)
    for result in (unreachable, malformed):
        assert "s3cret" not in f"{result.exception} {result.output}"


def test_the_database_can_be_opened_in_psql_and_named_to_other_programs_without_its_password(
    database_url: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("METRICS_DATABASE_URL", database_url)
    shell = CliRunner().invoke(commands, ["db", "shell", "--csv", "-c", "SELECT current_database() AS name, 1 AS n"])
    assert (shell.exit_code, capfd.readouterr().out.splitlines()[0]) == (0, "name,n")
    assert CliRunner().invoke(commands, ["db", "shell", "-c", "SELECT nonsense"]).exit_code == 1
    printed = CliRunner().invoke(commands, ["db", "url"]).stdout.strip()
    with psycopg.connect(printed) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
    monkeypatch.setenv("METRICS_DATABASE_URL", "postgresql://alice:s3cr%40t@db.example:5433/m?sslmode=require")
    printed = CliRunner().invoke(commands, ["db", "url"]).stdout
    assert printed == "postgresql://alice@/m?host=db.example&port=5433&sslmode=require\n"


def test_the_version_is_printed() -> None:
    assert CliRunner().invoke(commands, ["--version"]).stdout == f"metrics-pipeline {__version__}\n"
