"""`backfill --preview`: numbers by hand of what would change, the days that would fail, and that nothing is written."""

import re
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from metrics_pipeline.cli import app
from metrics_pipeline.metrics.windows import day_window, days_between
from metrics_pipeline.postgres.database import Database
from metrics_pipeline_tests.days import Log, aggregate, execute, query, store_agents, store_logs, written_rows

NEW, SAME, CHANGED, SEALED, VANISHED, DEAR = DAYS = days_between(date(2025, 7, 8), date(2025, 7, 13))
HOSTILE = "[red]b[/red]\n2025-07-09"

Preview = Callable[..., Result]


def log_of(day: date, agent: str, cost: str, tokens: int = 10) -> Log:
    return Log(agent, "success", 100, tokens, cost, timestamp=day_window(day, "UTC").start + timedelta(hours=5))


@pytest.fixture
def preview(database_url: str, tmp_path: Path) -> Preview:
    """Previews the days from `first` to `last`."""

    def run(first: date, last: date, *arguments: str) -> Result:
        environment = {"METRICS_DATABASE_URL": database_url, "METRICS_PIPELINE_HOME": str(tmp_path), "COLUMNS": "60"}
        days = ["--from", first.isoformat(), "--to", last.isoformat()]
        command = ["backfill", "--preview", *days, *arguments]
        return CliRunner().invoke(app, command, env=environment, catch_exceptions=False)

    return run


def rows(result: Result) -> list[list[str]]:
    return [
        re.split(r"\s{2,}", line.strip()) for line in result.stdout.split("\n") if re.match(r"2\d{3}-\d\d-\d\d  ", line)
    ]


@pytest.fixture
def stored(database: Database) -> None:
    """Two agents and a retired one. All DAYS but the new one are stored, and only SAME still equals its logs."""
    store_agents(database, {"a": "active", HOSTILE: "active", "retired": "inactive"})
    for day in DAYS:
        store_logs(database, [log_of(day, "a", "1.5"), log_of(day, HOSTILE, "0.25", 7), log_of(day, "retired", "9", 1)])
        if day != NEW:
            aggregate(database, day_window(day, "UTC"))
    execute(
        database,
        """UPDATE agent_execution_logs SET cost_usd = 0.000000001, token_count = 5
            WHERE "timestamp"::date = :day AND agent_id = :agent""",
        day=CHANGED,
        agent=HOSTILE,
    )
    execute(
        database,
        "UPDATE metric_day_ledger SET raw_pruned_at = now(), raw_pruned_logs = 3 WHERE metric_date = :day",
        day=SEALED,
    )
    execute(database, """DELETE FROM agent_execution_logs WHERE "timestamp"::date = :day""", day=VANISHED)
    store_logs(database, [log_of(DEAR, "a", "1e11")])


def test_a_preview_says_of_each_day_what_would_change_or_why_it_would_fail_and_writes_nothing(
    stored: None, preview: Preview, database: Database, tmp_path: Path
) -> None:
    before = written_rows(database)
    result = preview(NEW, DEAR)
    assert result.exit_code == 0
    assert rows(result) == [
        ["2025-07-08", "2", "0", "0", "+2", "+17", "+1.750000000"],
        ["2025-07-09", "0", "0", "2", "0", "0", "0"],
        ["2025-07-10", "0", "1", "1", "0", "-2", "-0.249999999", r"[red]b[/red]\n2025-07-09"],
    ]
    sealed, vanished, dear = result.stdout.splitlines()[-3:]
    assert sealed.startswith("Would fail and stay as it is: 2025-07-11 is sealed: 3 of its raw logs")
    assert vanished.startswith("Would fail and stay as it is: 2025-07-12 has shrunk: 2 of 2 aggregated logs are gone")
    assert dear.startswith("Would fail and stay as it is: The costs of 2025-07-13 add up to 10^11 USD")
    assert written_rows(database) == before
    assert list(tmp_path.iterdir()) == []  # no run, no instance


def test_what_a_preview_promises_is_what_the_backfill_does(stored: None, preview: Preview, database: Database) -> None:
    promised = {row[0]: [int(count) for count in row[1:4]] for row in rows(preview(NEW, CHANGED))}
    for day in (NEW, SAME, CHANGED):
        published = aggregate(database, day_window(day, "UTC")).published
        assert [published.inserted, published.changed, published.unchanged] == promised[day.isoformat()]
    assert {tuple(row[1:4]) for row in rows(preview(NEW, CHANGED))} == {("0", "0", "2")}


def test_a_preview_counts_inactive_agents_on_request_only(stored: None, preview: Preview) -> None:
    assert rows(preview(NEW, NEW, "--include-inactive-agents")) == [
        ["2025-07-08", "3", "0", "0", "+3", "+18", "+10.750000000"]
    ]


def test_a_preview_names_five_agents_and_counts_the_others(database: Database, preview: Preview) -> None:
    agents = [f"agent {letter}" for letter in "gfedcba"]
    store_agents(database, dict.fromkeys(agents, "active"))
    store_logs(database, [log_of(NEW, agent, "1") for agent in agents])
    aggregate(database, day_window(NEW, "UTC"))
    execute(database, "UPDATE agent_execution_logs SET token_count = 1000010")
    (row,) = rows(preview(NEW, NEW))
    assert row[1:] == [
        "0", "7", "0", "0", "+7,000,000", "0", "agent a, agent b, agent c, agent d, agent e and 2 more",
    ]  # fmt: skip


def test_a_preview_needs_no_right_to_write(stored: None, preview: Preview, database: Database) -> None:
    ((name,),) = query(database, "SELECT current_database()")
    execute(database, f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')
    assert len(rows(preview(NEW, CHANGED))) == 3
