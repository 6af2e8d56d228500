"""`report` and `users forget`: the same rows in three formats, and what is said where a distribution is missing."""

import csv
import io
import json
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from metrics_pipeline.cli import app
from metrics_pipeline.metrics.windows import day_window
from metrics_pipeline.postgres.database import Database
from metrics_pipeline_tests.days import Log, aggregate, execute, store_agents, store_logs

FIRST = date(2025, 7, 30)
DAYS = [FIRST + timedelta(days=number) for number in range(3)]
PERIOD = ("--from", "2025-07-30", "--to", "2025-08-01")


@pytest.fixture
def command(database: Database, database_url: str, tmp_path: Path) -> Callable[..., Result]:
    """Runs a command on three days of the agents a and [b], with one user u."""
    store_agents(database, dict.fromkeys(("a", "[b]"), "active"))
    for number, day in enumerate(DAYS):
        at = day_window(day, "UTC").start
        user = '{"user_id": "u"}'
        store_logs(
            database,
            [
                Log("a", "success", 10 * (number + 1), cost_usd="0.5", metadata=user, timestamp=at),
                Log("[b]", "failed", 7, error_type="x", metadata=user, timestamp=at),
            ],
        )
        aggregate(database, day_window(day, "UTC"))
    environment = {"METRICS_DATABASE_URL": database_url, "METRICS_PIPELINE_HOME": str(tmp_path), "COLUMNS": "60"}

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(app, list(arguments), env=environment, catch_exceptions=False)

    return run


def test_the_formats_hold_the_same_rows_with_every_digit(command: Callable[..., Result]) -> None:
    by = ("--by", "month", "--by", "agent")
    rows = json.loads(command("report", *PERIOD, *by, "--format", "json").stdout)
    assert [(row["month"], row["agent_id"], row["total_executions"]) for row in rows] == [
        ("2025-07-01", "[b]", 2), ("2025-07-01", "a", 2), ("2025-08-01", "[b]", 1), ("2025-08-01", "a", 1)
    ]  # fmt: skip
    assert rows[0]["error_distribution"] == {"x": 2}
    assert (rows[1]["p50_latency_ms"], rows[1]["unique_users"], rows[1]["is_exact"]) == (15, 1, True)
    printed = command("report", *PERIOD, *by, "--format", "csv").stdout
    listed = list(csv.DictReader(io.StringIO(printed)))
    assert list(listed[0]) == list(rows[0])
    assert [row["total_cost_usd"] for row in listed] == ["0.000000000", "1.000000000", "0.000000000", "0.500000000"]
    assert '"total_cost_usd": 1.000000000' in command("report", *PERIOD, *by, "--format", "json").stdout
    table = command("report", *PERIOD, "--agent", "[b]").stdout
    assert table.rstrip().splitlines()[-1].split() == [
        "3", "0.00%", "7", "7", "7", "1", "0.00", "0.00%", "yes"
    ]  # fmt: skip


def test_what_the_logs_do_not_have_is_unknown_and_not_zero_unless_it_was_measured(
    command: Callable[..., Result], database: Database
) -> None:
    execute(database, "ALTER TABLE agent_execution_logs DROP cost_usd, DROP metadata")
    for _ in range(2):
        aggregate(database, day_window(DAYS[2], "UTC"), accept_deleted=True)
    rows = json.loads(command("report", *PERIOD, "--by", "agent", "--format", "json").stdout)
    lacked = {"cost_usd": 1, "user_id": 1, "human_intervention": 1}
    assert [(row["total_cost_usd"], row["avg_cost_per_execution"], row["days_without_column"]) for row in rows] == [
        (0, 0, lacked), (1.0, 0.5, lacked)
    ]  # fmt: skip
    newest = ("--from", "2025-08-01", "--to", "2025-08-01")
    (day,) = json.loads(command("report", *newest, "--format", "json").stdout)
    unknown = ("total_cost_usd", "human_interventions", "cost_per_unassisted_success", "unique_users")
    assert {day[name] for name in unknown} == {None}
    printed = " ".join(command("report", *PERIOD).stdout.split())
    assert printed.endswith(
        "The logs did not have cost_usd on 2025-08-01; user_id on 2025-08-01; human_intervention on 2025-08-01. "
        "Figures that need these columns are those of the other days."
    )


def test_a_missing_distribution_and_an_empty_window_are_said(
    command: Callable[..., Result], database: Database
) -> None:
    execute(database, "DELETE FROM agent_day_distributions WHERE metric_date = '2025-07-31'")
    printed = command("report", *PERIOD, "--by", "week").stdout
    assert printed.endswith("store them: metrics-pipeline backfill --from 2025-07-31 --to 2025-07-31\n")
    said = command("report", "--from", "2020-01-01", "--to", "2020-01-02").stdout
    assert said.startswith("No day from 2020-01-01 to 2020-01-02 is stored in database ")


def test_a_person_is_forgotten(command: Callable[..., Result]) -> None:
    said = "Removed from 3 days: 2025-07-30, 2025-07-31, 2025-08-01.\n"
    assert command("users", "forget", "u").stdout == said
    again = command("users", "forget", "u")
    assert (again.exit_code, again.stdout) == (0, "Removed from 0 days.\n")
