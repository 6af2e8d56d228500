"""`metrics-pipeline retention`, as a process."""

import sys
from datetime import UTC, datetime, timedelta

import pytest
import typer
from typer.testing import CliRunner

from metrics_pipeline.cli import app, main
from metrics_pipeline.metrics.windows import day_window, last_complete_day
from metrics_pipeline.postgres.database import Database
from metrics_pipeline_tests.days import Log, aggregate, store_agents, store_logs
from metrics_pipeline_tests.processes import HANGING_SECONDS, Start
from metrics_pipeline_tests.retention.runs import contents, logs_by_day


@pytest.mark.end_to_end
def test_a_dry_run_prints_what_the_real_run_then_does(start: Start, database: Database, database_url: str) -> None:
    yesterday = last_complete_day(datetime.now(UTC), "UTC")
    old, older = yesterday - timedelta(days=40), yesterday - timedelta(days=41)
    store_agents(database, {"a": "active"})
    for day in (old, older):
        store_logs(database, [Log(timestamp=day_window(day, "UTC").start)] * 1234)
    aggregate(database, day_window(older, "UTC"))

    def retention(*options: str) -> str:
        process = start("retention", *options, METRICS_DATABASE_URL=database_url)
        stdout, stderr = process.communicate(timeout=HANGING_SECONDS)
        assert (process.returncode, stderr) == (0, "")
        return stdout

    before = contents(database)
    dry = retention("--dry-run")
    assert contents(database) == before
    real = retention("--pause-ms", "0", "--batch-rows", "1000")
    assert logs_by_day(database) == {old: 1234}
    for printed, words in ((dry, "would be deleted"), (real, "deleted")):
        assert f"logs {words}" in printed
        [pruned] = [line.split() for line in printed.splitlines() if line.strip().startswith(str(older))]
        assert pruned == [str(older), "1,234", "0", "0"]
        [held_back] = [line.split(maxsplit=4) for line in printed.splitlines() if line.strip().startswith(str(old))]
        assert held_back[:4] == [str(old), "0", "0", "1,234"]
        assert held_back[4].strip() == "never aggregated: backfill the day"
        [total] = [line.split() for line in printed.splitlines() if line.strip().startswith("agent_execution_logs")]
        assert total == ["agent_execution_logs", "1,234", "1,234"]


def test_days_that_could_lose_a_number_are_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], database_url: str
) -> None:
    monkeypatch.setenv("METRICS_DATABASE_URL", database_url)

    def refused(*options: str) -> str:
        monkeypatch.setattr(sys, "argv", ["metrics-pipeline", "retention", *options])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 1
        return capsys.readouterr().err

    assert refused("--raw-log-days", "400").startswith("Error: raw_log_days is 400, more than metric_days, 365")
    monkeypatch.setenv("METRICS_RETENTION_RAW_LOG_DAYS", "soon")
    assert refused("--dry-run") == (
        "Error: METRICS_RETENTION_RAW_LOG_DAYS is 'soon', which cannot be used. "
        "Set a whole number of days from 1 to 36,600, or never.\n"
    )


def test_every_limit_is_an_option_that_says_its_default() -> None:
    command = typer.main.get_command(app).commands["retention"]
    options = {option.opts[0]: option for option in command.params}
    assert options.keys() == {
        "--dry-run", "--format", "--raw-log-days", "--metric-days", "--alert-days", "--batch-rows", "--pause-ms",
        "--time-budget-minutes",
    }  # fmt: skip
    assert options["--metric-days"].default is None
    assert options["--metric-days"].help == (
        "Keep the metrics of this many days before today. `never` keeps them forever. "
        "Default: METRICS_RETENTION_METRIC_DAYS, else 365."
    )
    assert (options["--batch-rows"].default, options["--batch-rows"].help) == (
        10_000,
        "Rows per DELETE, about; a day is one transaction of many.",
    )


def test_a_limit_that_is_not_a_number_is_refused_with_what_is_accepted() -> None:
    result = CliRunner().invoke(app, ["retention", "--metric-days", "a year"], env={"COLUMNS": "200"})
    assert result.exit_code == 2
    assert "'--metric-days': 'a year' is not a number of days; use a whole number, or never" in result.stderr
