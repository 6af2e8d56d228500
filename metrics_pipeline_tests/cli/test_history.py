"""`status` and `restatements`: every state of a day, every filter, and names with markup or control characters."""

import json
import re
from collections.abc import Callable
from datetime import date, datetime, timedelta, tzinfo
from pathlib import Path

import dagster as dg
import pytest
from typer.testing import CliRunner

from metrics_pipeline.cli import app, history
from metrics_pipeline.metrics.windows import day_window, days_between
from metrics_pipeline.postgres.database import Database
from metrics_pipeline.store.publishing import Reason
from metrics_pipeline_tests.days import Log, aggregate, execute, store_agents, store_logs
from metrics_pipeline_tests.examples import variants
from metrics_pipeline_tests.orchestration.nights import waiting_run

FINE, OUTDATED, MISSING, DIRTY, SEALED, RUNNING, OTHER_ZONE = DAYS = days_between(date(2025, 7, 7), date(2025, 7, 13))
RUN_ID = "0123456789abcdef"

Rows = list[list[str]]


class Noon(datetime):
    """A clock that has stopped."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> datetime:
        return datetime(2025, 7, 14, 12, tzinfo=tz)


@pytest.fixture
def command(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Rows, str]]:
    """Runs a command at noon of 2025-07-14 and returns the cells of each row below the headings, and all of stdout."""
    monkeypatch.setattr(history, "datetime", Noon)
    (tmp_path / "dagster").mkdir(exist_ok=True)
    environment = {
        "METRICS_DATABASE_URL": database_url,
        "METRICS_PIPELINE_HOME": str(tmp_path / "home"),
        "DAGSTER_HOME": str(tmp_path / "dagster"),
        "METRICS_LOOKBACK_DAYS": "7",
        "COLUMNS": "60",
    }

    def run(*arguments: object, **more: str) -> tuple[Rows, str]:
        result = CliRunner().invoke(app, list(map(str, arguments)), env=environment | more, catch_exceptions=False)
        assert result.exit_code == 0, result.output
        rows = result.stdout.split("\n")[2:]
        return [re.split(r"\s{2,}", line.strip()) for line in rows if line.strip()], result.stdout

    return run


def log_of(day: date, agent: str = "a", cost: str = "1", status: str = "success") -> Log:
    return Log(agent, status, 100, 10, cost, timestamp=day_window(day, "UTC").start + timedelta(hours=5))


@pytest.fixture
def states(database: Database, tmp_path: Path) -> None:
    """DAYS, one in each state, each with two logs of agent a and one of an unknown agent."""
    store_agents(database, {"a": "active", "b": "active"})
    for day in DAYS:
        store_logs(database, [log_of(day), log_of(day), log_of(day, "unknown")])
        if day != MISSING:
            aggregate(database, day_window(day, "UTC"), run_id=RUN_ID)
    execute(database, "UPDATE metric_day_ledger SET aggregated_at = metric_date + interval '26 h 3 min 59 s'")
    execute(
        database,
        """UPDATE metric_day_ledger SET raw_pruned_at = '2025-07-13 03:30Z', raw_pruned_logs = 3
            WHERE metric_date = :day""",
        """DELETE FROM agent_execution_logs WHERE "timestamp"::date = :day""",
        day=SEALED,
    )
    execute(database, "UPDATE metric_day_ledger SET definition_version = '0' WHERE metric_date = :day", day=OUTDATED)
    move = """UPDATE metric_day_ledger SET time_zone = 'Asia/Tokyo', window_start = window_start - interval '9 h',
                     window_end = window_end - interval '9 h' WHERE metric_date = :day"""
    execute(database, move, day=OTHER_ZONE)
    store_logs(database, [log_of(DIRTY, "b", "0.000000001", "failed")] * 1234)
    (tmp_path / "dagster").mkdir(exist_ok=True)
    with dg.DagsterInstance.from_config(str(tmp_path / "dagster")) as instance:
        waiting_run(instance, dg.DagsterRunStatus.QUEUED, {"dagster/partition": RUNNING.isoformat()})


def test_status_shows_each_state_of_a_day_and_what_was_stored_of_it(
    states: None, command: Callable[..., tuple[Rows, str]], database: Database
) -> None:
    rows, stdout = command("status")
    stored = ["3", "2", "1", "2"]
    assert rows[:-2] == [
        ["2025-07-07", "aggregated", "equal to its logs", *stored, "2025-07-08 02:03", "01234567", "1"],
        ["2025-07-08", "aggregated", "equal to its logs", *stored, "2025-07-09 02:03", "01234567", "0 (old)"],
        ["2025-07-09", "missing", "never aggregated, 3 logs"],
        [
            "2025-07-10",
            "dirty",
            "logs +1,234, failed +1,234, latency +123,400 ms, tokens +12,340, cost +0.000001234 USD",
            *stored,
            "2025-07-11 02:03",
            "01234567",
            "1",
        ],
        ["2025-07-11", "sealed", "raw logs pruned 2025-07-13", *stored, "2025-07-12 02:03", "01234567", "1"],
        ["2025-07-12", "running", "a run is writing it", *stored, "2025-07-13 02:03", "01234567", "1"],
        ["2025-07-13", "other zone", "stored as a day of Asia/Tokyo", *stored, "2025-07-14 02:03", "01234567", "1"],
    ]
    assert stdout.startswith(f"{database.description}, days in UTC")
    found, judged = stdout.splitlines()[-2].split(" Compared with the logs: ")
    assert judged.startswith("6 by content, 1 not since they were stored; the oldest reading")
    assert found == (
        "7 days: 2 aggregated, 1 missing, 1 dirty, 1 sealed, 1 running, 1 other zone; "
        "1 stored under an older definition, the first 2025-07-08: a backfill renews them."
    )


def test_status_shows_the_metrics_where_dagsters_database_is_away_and_says_what_it_does_not_know(
    states: None, command: Callable[..., tuple[Rows, str]], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "dagster" / "dagster.yaml").write_text(
        "storage: {postgres: {postgres_url: {env: DAGSTER_POSTGRES_URL}}}", encoding="utf-8"
    )
    rows, _ = command("status")
    assert [row[:2] for row in rows[:2]] == [["2025-07-07", "aggregated"], ["2025-07-08", "aggregated"]]
    assert rows[5][1] == "aggregated"  # a run is writing it, and only Dagster knows


def test_status_looks_back_as_far_as_it_is_told_and_never_before_the_start_date(
    states: None, command: Callable[..., tuple[Rows, str]]
) -> None:
    def days(*arguments: object, **environment: str) -> list[str]:
        rows, _ = command("status", *arguments, **environment)
        return [row[0] for row in rows if re.fullmatch(r"2\d{3}-\d\d-\d\d", row[0])]

    assert days("--days", 2) == ["2025-07-12", "2025-07-13"]
    assert days(METRICS_LOOKBACK_DAYS="1") == ["2025-07-13"]
    assert days("--days", 3660, METRICS_START_DATE="2025-07-06") == ["2025-07-06", *map(str, DAYS)]
    assert days("--days", 1, METRICS_TIME_ZONE="Pacific/Kiritimati") == ["2025-07-14"]
    _, stdout = command("status", METRICS_START_DATE="2025-07-14")
    assert stdout.splitlines()[-1] == "No day has ended yet."


@pytest.fixture
def restated(database: Database) -> None:
    """Agent a restated on two days, agent b on one of them."""
    store_agents(database, {"a": "active", "b": "active"})
    first, second = DAYS[:2]
    for day in (first, second):
        store_logs(database, [log_of(day), log_of(day, "b")])
        aggregate(database, day_window(day, "UTC"), run_id="1")
    store_logs(database, [log_of(first, cost="0.000000001", status="failed"), log_of(first, "b", "2")])
    aggregate(database, day_window(first, "UTC"), run_id=RUN_ID, reason=Reason.LATE_LOGS)
    execute(database, "UPDATE agent_execution_logs SET token_count = 11 WHERE agent_id = 'a'")
    aggregate(database, day_window(second, "UTC"), run_id="fedcba9876543210", reason=Reason.BACKFILL)
    execute(
        database,
        "UPDATE metric_restatements SET replaced_at = metric_date + interval '50 h 1 min 2.9 s'",
    )


A_LATE = [
    "a",
    "2025-07-07",
    "2025-07-09 02:01:02",
    "late logs",
    "01234567",
    {
        "total_executions 1 → 2",
        "failed_executions 0 → 1",
        "success_rate 1.000000 → 0.500000",
        "total_tokens 10 → 20",
        "total_cost_usd 1.000000000 → 1.000000001",
        "avg_cost_per_execution 1.000000000 → 0.500000001",
        "error_distribution {} → {'unknown': 1}",
    },
]
B_LATE = [
    "b",
    "2025-07-07",
    "2025-07-09 02:01:02",
    "late logs",
    "01234567",
    {
        "total_executions 1 → 2",
        "successful_executions 1 → 2",
        "total_tokens 10 → 20",
        "total_cost_usd 1.000000000 → 3.000000000",
        "avg_cost_per_execution 1.000000000 → 1.500000000",
    },
]
A_BACKFILL = ["a", "2025-07-08", "2025-07-10 02:01:02", "backfill", "fedcba98", {"total_tokens 10 → 11"}]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    variants(
        [
            ((), [A_BACKFILL, A_LATE, B_LATE]),
            (("--agent", "a"), [A_BACKFILL, A_LATE]),
            (("--agent", "b"), [B_LATE]),
            (("--from", "2025-07-08"), [A_BACKFILL]),
            (("--to", "2025-07-07"), [A_LATE, B_LATE]),
            (("--agent", "a", "--from", "2025-07-07", "--to", "2025-07-07"), [A_LATE]),
            (("--limit", "1"), [A_BACKFILL]),
            (("--limit", "2"), [A_BACKFILL, A_LATE]),
        ]
    ),
)
def test_restatements_are_narrowed_and_shown_with_both_values(
    restated: None, command: Callable[..., tuple[Rows, str]], arguments: tuple[str, ...], expected: list[list[object]]
) -> None:
    rows, _ = command("restatements", *arguments)
    assert [[*cells, set(changes.split(", "))] for *cells, changes in rows] == expected


def test_without_restatements_it_says_so(restated: None, command: Callable[..., tuple[Rows, str]]) -> None:
    assert command("restatements", "--from", "2025-07-09")[1] == "No stored value was replaced.\n"


def test_restatements_of_an_agent_of_which_nothing_else_is_left_are_shown(
    restated: None, database: Database, command: Callable[..., tuple[Rows, str]]
) -> None:
    for table, key in (("agent_registry", "id"), ("agent_performance_metrics", "agent_id")):
        execute(database, f"DELETE FROM {table} WHERE {key} = 'b'")
    rows, _ = command("restatements", "--agent", "b")
    assert [row[:2] for row in rows] == [B_LATE[:2]]


@pytest.mark.parametrize("command", [("restatements",), ("report", "--from", "2025-07-07"), ("alerts", "list")])
@pytest.mark.parametrize("agent", ["A", ""])
def test_an_agent_that_nobody_knows_is_no_empty_answer(
    restated: None, database_url: str, tmp_path: Path, command: tuple[str, ...], agent: str
) -> None:
    environment = {"METRICS_DATABASE_URL": database_url, "METRICS_PIPELINE_HOME": str(tmp_path)}
    result = CliRunner().invoke(app, [*command, "--agent", agent, "--format", "csv"], env=environment)
    assert (result.exit_code, result.stdout) == (1, "")
    assert f"--agent {agent!r}: neither agent_registry nor the stored metrics know this id." in str(result.exception)


def test_a_hostile_agent_stays_in_its_row_and_is_found_by_its_name(
    database: Database, command: Callable[..., tuple[Rows, str]]
) -> None:
    hostile = "[red]x[/red]\n2025-07-08 :smile: \x1b[2J'; DROP TABLE metric_restatements; --"
    store_agents(database, {hostile: "active"})
    store_logs(database, [log_of(FINE, hostile, status="failed")])
    aggregate(database, day_window(FINE, "UTC"))
    execute(database, "UPDATE agent_execution_logs SET error_type = E'[bold]a\\nb[/bold]\\u0007'")
    aggregate(database, day_window(FINE, "UTC"))
    (row,), stdout = command("restatements", "--agent", hostile)
    assert row[0] == r"[red]x[/red]\n2025-07-08 :smile: \x1b[2J'; DROP TABLE metric_restatements; --"
    assert row[-1] == r"error_distribution {'unknown': 1} → {'[bold]a\nb[/bold]\x07': 1}"
    assert not {"\x1b", "\x07", "\r"} & set(stdout)


def test_an_agent_whose_bytes_are_no_utf_8_is_a_usage_error(database_url: str) -> None:
    result = CliRunner().invoke(
        app, ["restatements", "--agent", "caf\udce9"], env={"METRICS_DATABASE_URL": database_url, "COLUMNS": "200"}
    )
    assert result.exit_code == 2
    assert "Invalid value for '--agent': 'caf\\udce9' is not text in UTF-8" in result.stderr


def test_status_tells_cron_and_programs_whether_a_day_needs_attention(
    states: None, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "datetime", Noon)
    environment = {
        "METRICS_DATABASE_URL": database_url,
        "METRICS_PIPELINE_HOME": str(tmp_path / "home"),
        "DAGSTER_HOME": str(tmp_path / "dagster"),
    }

    def status(*options: str) -> tuple[int, list[dict[str, object]]]:
        result = CliRunner().invoke(app, ["status", "--format", "json", *options], env=environment)
        return result.exit_code, json.loads(result.stdout)

    code, rows = status("--days", "5", "--exit-code")
    assert code == 3
    assert [row["state"] for row in rows] == ["missing", "dirty", "sealed", "running", "other_zone"]
    assert (rows[1]["logs"], rows[0]["logs"]) == (3, None)
    assert status("--days", "5")[0] == 0
    assert status("--days", "3", "--exit-code")[0] == 0


def test_status_says_how_many_days_have_other_dimensions_than_declared(
    states: None, command: Callable[..., tuple[Rows, str]], database: Database
) -> None:
    stored = "UPDATE metric_day_ledger SET dimensions = 'task=metadata.task,model=metadata.model' WHERE metric_date = "
    execute(database, f"{stored}'{DIRTY}'")
    _, stdout = command("status", "--days", 5, METRICS_DIMENSIONS="model,task")
    assert (
        "3 days have other dimensions than METRICS_DIMENSIONS declares, of which 1 sealed, which keep theirs. "
        "Renew: metrics-pipeline backfill --from 2025-07-12 --to 2025-07-13 --renew-dimensions\n"
    ) in stdout


def test_status_names_an_old_hole_acknowledged_agents_and_a_better_first_day(
    states: None, command: Callable[..., tuple[Rows, str]], database: Database
) -> None:
    _, stdout = command("status", "--days", 2)
    hole, proposal = stdout.splitlines()[-2:]
    assert hole == (
        "Never aggregated before 2025-07-12, where no schedule looks: 1 day (2025-07-09). Aggregate them: "
        "metrics-pipeline backfill --from 2025-07-09 --to 2025-07-09"
    )
    assert proposal.startswith("METRICS_START_DATE is 2025-01-01, and the first log is of 2025-07-07: set")
    _, stdout = command("status", "--days", 2, METRICS_START_DATE="2025-07-10")
    assert stdout.splitlines()[-1].startswith("2 days: 1 running, 1 other zone. Compared")
    execute(database, "INSERT INTO metric_acknowledged_agents (agent_id, reason) VALUES ('b', 'x'), ('a\n', 'y')")
    _, stdout = command("status", "--days", 2, METRICS_START_DATE="2025-07-10")
    assert stdout.splitlines()[-1] == (
        "Acknowledged, so no check warns of them: a\\n, b. Why: metrics-pipeline agents list"
    )
