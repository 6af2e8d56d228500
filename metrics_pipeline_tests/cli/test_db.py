import pytest
from sqlalchemy import text
from typer.testing import CliRunner, Result

from metrics_pipeline.cli.db import app
from metrics_pipeline.errors import ContractError, PermanentError, SettingsError, TransientError
from metrics_pipeline.postgres.database import Database
from metrics_pipeline.postgres.upgrading import VERSION_TABLE, head_revision
from metrics_pipeline.postgres.urls import DatabaseUrl


def run(command: str, url: str) -> Result:
    return CliRunner().invoke(app, [command], env={"METRICS_DATABASE_URL": url})


def execute(url: str, statement: str) -> None:
    with Database(DatabaseUrl.parse(url)).engine.begin() as connection:
        connection.execute(text(statement))


def test_upgrade_says_from_what_to_what_and_where(bare_database_url: str) -> None:
    where = DatabaseUrl.parse(bare_database_url).description
    first, second = run("upgrade", bare_database_url), run("upgrade", bare_database_url)
    assert first.output == f"Upgraded our tables in {where} from none to revision {head_revision()}.\n"
    assert second.output == f"Our tables in {where} are at revision {head_revision()} already.\n"
    assert (first.exit_code, second.exit_code) == (0, 0)


def test_check_of_a_database_that_has_everything_says_so(database_url: str) -> None:
    result = run("check", database_url)
    assert result.exit_code == 0
    assert f"Checking {DatabaseUrl.parse(database_url).description}" in result.output
    assert f"Our tables: revision {head_revision()}, newest {head_revision()}" in result.output
    assert "all columns, types and privileges are there" in result.output
    assert "Warning" not in result.output


def test_check_shows_warnings(database_url: str) -> None:
    execute(database_url, "DROP INDEX agent_execution_logs_timestamp")
    result = run("check", database_url)
    assert result.exit_code == 0
    assert "Warning: No index of agent_execution_logs leads with timestamp" in result.output


def test_check_fails_when_upstream_tables_are_missing_and_still_tells_our_own_revision(bare_database_url: str) -> None:
    run("upgrade", bare_database_url)
    result = run("check", bare_database_url)
    assert isinstance(result.exception, ContractError)
    assert f"Our tables: revision {head_revision()}" in result.output


def test_check_fails_when_our_tables_are_missing(database_url: str) -> None:
    execute(database_url, f"DROP TABLE {VERSION_TABLE}")
    result = run("check", database_url)
    assert isinstance(result.exception, PermanentError)
    assert "metrics-pipeline db upgrade" in str(result.exception)
    assert "Our tables: missing" in result.output


@pytest.mark.parametrize("command", ["check", "upgrade"])
def test_a_url_or_server_that_cannot_be_used_is_one_error_without_a_password(command: str, tmp_path) -> None:
    unreachable = run(command, f"postgresql://alice:s3cret@/m?host={tmp_path}")
    malformed = run(command, "postgresql://alice:s3cret/x@h/m")
    assert isinstance(unreachable.exception, TransientError)
    assert isinstance(malformed.exception, SettingsError)
    for result in (unreachable, malformed):
        assert "s3cret" not in f"{result.exception} {result.output}"
