"""`metrics-pipeline logs`: what it prints, what it stores, and what it refuses."""

import os
import re
import subprocess
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text
from typer.testing import CliRunner

from metrics_pipeline.cli import app as metrics_pipeline
from metrics_pipeline.cli.logs import app
from metrics_pipeline.errors import LogFileError, PermanentError, SettingsError
from metrics_pipeline_tests.processes import CLI


@pytest.fixture
def logs(database_url, monkeypatch):
    """Runs `logs` with arguments on the test's database and returns its result; errors of ours are raised."""
    monkeypatch.setenv("METRICS_DATABASE_URL", database_url)
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments):
        return CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)

    return run


def days_and_agents(database):
    with database.engine.connect() as connection:
        days = connection.execute(
            text('SELECT "timestamp"::date, count(*) FROM agent_execution_logs GROUP BY 1 ORDER BY 1')
        )
        agents = connection.execute(text("SELECT count(*) FROM agent_registry")).scalar()
        return {str(day): count for day, count in days}, agents


GENERATE = ("generate", "--days", 2, "--logs-per-day", 100, "--agents", 3, "--until", "2025-09-18", "--yes")


def test_generate_stores_the_days_and_says_how_to_aggregate_them(logs, database):
    result = logs(*GENERATE)

    assert result.exit_code == 0
    assert "Generated 200 logs of 3 agents from 2025-09-17 to 2025-09-18" in result.stdout
    assert "New: 200, stored already: 0." in result.stdout
    assert "metrics-pipeline backfill --from 2025-09-17 --to 2025-09-18" in result.stdout
    assert days_and_agents(database) == ({"2025-09-17": 100, "2025-09-18": 100}, 3)


def test_generate_again_adds_nothing_and_another_seed_adds_its_logs(logs, database):
    logs(*GENERATE)
    assert "New: 0, stored already: 200." in logs(*GENERATE).stdout
    assert "New: 200," in logs(*GENERATE, "--seed", 2).stdout
    assert days_and_agents(database)[0] == {"2025-09-17": 200, "2025-09-18": 200}


def test_generate_ends_by_default_with_yesterday_in_the_configured_zone(logs, database, monkeypatch):
    monkeypatch.setenv("METRICS_TIME_ZONE", "Etc/GMT-14")
    before = (datetime.now(UTC) + timedelta(hours=14)).date()
    printed = logs("generate", "--days", 1, "--logs-per-day", 10, "--yes").stdout
    after = (datetime.now(UTC) + timedelta(hours=14)).date()

    yesterdays = {str(day - timedelta(days=1)) for day in (before, after)}
    assert re.search(r"--from (\S+) --to \1", printed)[1] in yesterdays


def test_generate_refuses_a_database_of_others_without_yes(logs, database):
    with pytest.raises(PermanentError, match=r"METRICS_DATABASE_URL names database test_.* add --yes"):
        logs(*GENERATE[:-1])
    assert days_and_agents(database) == ({}, 0)


@pytest.mark.parametrize("arguments", [("--until", "1970-01-03"), ("--until", "9999-12-31", "--days", 1)])
def test_generate_refuses_days_at_the_ends_of_the_calendar(logs, arguments):
    with pytest.raises(PermanentError, match="do not lie between 1970-01-02 and 9998-12-30"):
        logs("generate", "--yes", *arguments)


@pytest.mark.parametrize("option", [("--days", 0), ("--agents", 0), ("--logs-per-day", -1), ("--until", "18.9.2025")])
def test_a_senseless_option_is_named(logs, option):
    result = logs("generate", "--yes", *option)
    assert result.exit_code == 2
    assert f"Invalid value for '{option[0]}'" in result.stderr


def test_load_says_what_it_stored(logs, database, tmp_path):
    path = tmp_path / "logs.csv"
    path.write_text("agent_id,timestamp,status\na,2025-01-01T23:30:00Z,success\nb,2025-01-02T00:30:00Z,failed\n")
    result = logs("load", path, "--register-agents")

    assert result.exit_code == 0
    assert f"{path}: 2 logs loaded into database test_" in result.stdout
    assert "Agents registered: a, b" in result.stdout
    assert re.search(r"Days in UTC:\n  2025-01-01 +1 log\n  2025-01-02 +1 log\n", result.stdout)
    assert "metrics-pipeline backfill --from 2025-01-01 --to 2025-01-02" in result.stdout
    assert days_and_agents(database) == ({"2025-01-01": 1, "2025-01-02": 1}, 2)

    again = logs("load", path, "--skip-existing").stdout
    assert f"{path}: 0 logs loaded" in again
    assert "Left out, because they are stored with the same values: 2" in again
    assert "backfill" not in again


def test_load_advises_a_command_that_is_accepted_as_it_is_printed(logs, tmp_path, monkeypatch):
    path = tmp_path / "logs.csv"

    def load(*days):
        path.write_text("agent_id,timestamp,status\n" + "".join(f"a,{day}T12:00Z,success\n" for day in days))
        return logs("load", path, "--register-agents").stdout

    # METRICS_START_DATE is 2025-01-01 by default.
    command = "metrics-pipeline backfill --from 2024-12-31 --to 2025-01-02"
    assert f"Aggregate them with: METRICS_START_DATE=2024-12-31 {command}\n" in load("2024-12-31", "2025-01-02")
    arguments = [*command.split()[1:], "--preview"]
    assert isinstance(CliRunner().invoke(metrics_pipeline, arguments).exception, PermanentError)
    monkeypatch.setenv("METRICS_START_DATE", "2024-12-31")
    assert CliRunner().invoke(metrics_pipeline, arguments, catch_exceptions=False).exit_code == 0

    yesterday = datetime.now(UTC).date() - timedelta(days=1)
    said = load("2025-01-03", "2200-01-01")
    assert f"metrics-pipeline backfill --from 2025-01-03 --to {yesterday}\n" in said
    said = load("2200-01-02")
    assert "backfill" not in said

    monkeypatch.setenv("METRICS_LOGS_URL", "parquet:///lake/*.parquet")
    assert load("2025-01-04").endswith(
        "METRICS_LOGS_URL names where logs are read from, so these are not aggregated.\n"
    )
    assert f"Days after {yesterday} have not ended in UTC" in said


def test_load_counts_days_in_the_configured_zone(logs, tmp_path, monkeypatch):
    monkeypatch.setenv("METRICS_TIME_ZONE", "Asia/Tokyo")
    path = tmp_path / "logs.csv"
    path.write_text("agent_id,timestamp,status\na,2025-01-01T23:30:00Z,success\n")
    assert re.search(r"Days in Asia/Tokyo:\n  2025-01-02 +1 log\n", logs("load", path, "--register-agents").stdout)


def test_load_renames_and_leaves_out_columns_and_keeps_its_limits(logs, database, tmp_path):
    path = tmp_path / "logs.csv"
    path.write_text("model,when,status,host\na,2025-01-01T23:30:00Z,success,h\n")
    columns = ("--column", "agent_id=model", "--column", "timestamp=when", "--skip-column", "host", "--register-agents")
    with pytest.raises(LogFileError, match="more than 1 lines or rows"):
        logs("load", path, *columns, "--max-rows", 1)
    assert logs("load", path, *columns).exit_code == 0
    assert days_and_agents(database) == ({"2025-01-01": 1}, 1)
    for wrong in ("agent_id", "agent=model", "agent_id="):
        refused = logs("load", path, "--column", wrong)
        assert refused.exit_code == 2
        assert f"'{wrong}' is not COLUMN=NAME" in refused.stderr


def test_load_refuses_a_bad_file_and_an_unknown_agent(logs, database, tmp_path):
    path = tmp_path / "logs.csv"
    path.write_text("agent_id,timestamp,status\na,soon,success\n")
    with pytest.raises(LogFileError, match="line 2, timestamp: 'soon'"):
        logs("load", path)
    path.write_text("agent_id,timestamp,status\na,2025-01-01T00:00:00Z,success\n")
    with pytest.raises(LogFileError, match="not in agent_registry: 'a'"):
        logs("load", path)
    assert days_and_agents(database) == ({}, 0)


def test_a_wrong_url_is_refused_before_anything_else(logs, tmp_path, monkeypatch):
    monkeypatch.setenv("METRICS_DATABASE_URL", "mysql://u:secret@h/d")
    with pytest.raises(SettingsError, match="METRICS_DATABASE_URL") as caught:
        logs("load", tmp_path / "logs.csv")
    assert "secret" not in str(caught.value)


def test_help_names_the_commands_and_gives_examples(logs):
    assert {"generate", "load"} <= set(re.findall(r"\w+", logs("--help").stdout))
    assert "metrics-pipeline logs generate --days 30" in logs("generate", "--help").stdout
    assert "metrics-pipeline logs load executions.csv --register-agents" in logs("load", "--help").stdout


HOSTILE_FILE = os.fsdecode(b"caf\xe9\n\x1b[31m.csv")


def test_a_name_of_a_file_and_of_an_agent_stay_on_their_line_and_command_nothing(logs, tmp_path):
    path = tmp_path / HOSTILE_FILE
    path.write_text('agent_id,timestamp,status\n"\x1b[2Ja\nb\u202e",2025-01-01T23:30:00Z,success\n')
    said = logs("load", path, "--register-agents").stdout
    assert f"{tmp_path}/caf\\udce9\\n\\x1b[31m.csv: 1 log loaded into database test_" in said
    assert "Agents registered: \\x1b[2Ja\\nb\\u202e\n" in said


@pytest.mark.parametrize(
    "encoding", ["ascii", *(pytest.param(each, marks=pytest.mark.ci) for each in ("utf-8", "latin-1"))]
)
@pytest.mark.parametrize("content", ["\u65e5\u672c,2025-01-01T00:00:00Z,success\n", "a,\x1b[31m,\u65e5\u672c\n"])
def test_what_a_terminal_cannot_show_costs_no_traceback(database_url, tmp_path, encoding, content):
    path = tmp_path / HOSTILE_FILE
    path.write_text("agent_id,timestamp,status\n" + content)
    ended = subprocess.run(
        [*CLI, "logs", "load", path, "--register-agents"],
        env={"PATH": os.environ["PATH"], "METRICS_DATABASE_URL": database_url, "PYTHONIOENCODING": encoding},
        capture_output=True,
        check=False,
    )
    said = (ended.stdout + ended.stderr).decode(errors="replace")
    is_good = "success" in content
    assert ended.returncode == (0 if is_good else 1)
    assert "Traceback" not in said
    assert "\x1b" not in said
    reported = ": 1 log loaded" if is_good else "', line 2, timestamp"
    assert f"caf\\udce9\\n\\x1b[31m.csv{reported}" in said


@pytest.mark.parametrize("name", ["x" * 300 + ".csv", "loop.csv", "none/logs.csv", "", "\x00.csv"])
def test_a_path_that_leads_to_no_file_is_one_sentence(logs, database, tmp_path, name):
    (tmp_path / "loop.csv").symlink_to(tmp_path / "loop.csv")
    if "\0" in name:
        assert logs("load", tmp_path / name).exit_code == 2
    else:
        with pytest.raises(LogFileError, match=r"cannot be opened: .*\.$|has no ending of a known format"):
            logs("load", tmp_path / name)
    assert days_and_agents(database) == ({}, 0)
