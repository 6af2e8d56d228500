"""Each command works under the role of its purpose, as `db grants` makes it."""

import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner

from metrics_pipeline.cli import app, main
from metrics_pipeline.postgres.database import Database
from metrics_pipeline_tests.days import Log, aggregate, query, store_agents, store_logs

from .roles import Role
from .roles import roles as roles


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a command under a role, and returns what it prints."""
    (tmp_path / "dagster").mkdir()
    monkeypatch.setenv("METRICS_PIPELINE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "dagster"))

    def run(role: Role, *command: str) -> str:
        monkeypatch.setenv("METRICS_DATABASE_URL", role.url)
        monkeypatch.setattr(sys, "argv", ["metrics-pipeline", *command])
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capfd.readouterr()
        assert (ended.value.code, printed.err.strip()) == (0, "")
        return printed.out

    return run


@pytest.mark.parametrize(
    ("purpose", "command"),
    [
        ("pipeline", "db check --for pipeline"),
        ("pipeline", "db grants"),
        ("pipeline", "backfill --from 2025-03-04 --to 2025-03-04 --preview"),
        ("pipeline", "status"),
        ("reader", "status"),
        ("reader", "restatements"),
        ("retention", "retention --dry-run"),
    ],
)
def test_a_command_that_only_reads_works_under_the_role_of_its_purpose(
    purpose: str, command: str, database: Database, roles: dict[str, Role], run: Callable[..., str]
) -> None:
    store_agents(database, {"a": "active"})
    store_logs(database, [Log("a"), Log("a", timestamp=datetime.now(UTC))])
    aggregate(database)
    assert run(roles[purpose], *command.split())


def test_an_operators_role_clears_a_day_and_the_pipelines_is_told_the_grant(
    database: Database, roles: dict[str, Role], run: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    store_agents(database, {"a": "active"})
    aggregate(database)
    env = {"METRICS_DATABASE_URL": roles["pipeline"].url}
    refused = CliRunner().invoke(app, ["clear", "--date", "2025-03-04", "--yes"], env=env)
    assert "lacks what the operator needs: DELETE on agent_performance_metrics, " in str(refused.exception)
    assert "metrics-pipeline db grants --operator " in str(refused.exception)
    assert "2025-03-04 is cleared: 1 row went" in run(roles["operator"], "clear", "--date", "2025-03-04", "--yes")


def test_a_role_that_reads_and_inserts_logs_and_agents_loads_them(
    database: Database, roles: dict[str, Role], tmp_path: Path, run: Callable[..., str]
) -> None:
    loader = roles["reader"]
    name = '"' + loader.name.replace('"', '""') + '"'
    with database.engine.begin() as connection:
        connection.exec_driver_sql(f"REVOKE ALL ON ALL TABLES IN SCHEMA public FROM {name}")
        connection.exec_driver_sql(f"GRANT SELECT, INSERT ON agent_execution_logs, agent_registry TO {name}")
    file = tmp_path / "logs.csv"
    file.write_text("agent_id,timestamp,status\nnew,2025-03-04T12:00:00Z,success\n")
    assert "1 log loaded" in run(loader, "logs", "load", str(file), "--register-agents")
    assert query(database, "SELECT agent_id, status FROM agent_execution_logs") == [("new", "success")]
