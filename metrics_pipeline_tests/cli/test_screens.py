"""What every command that prints a table prints, on terminals, into a pipe and as CSV: the files in screens/.

After a change that is meant, write them again and read the difference:
`pytest metrics_pipeline_tests/cli/test_screens.py --renew-screens`
"""

import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import date, timedelta
from pathlib import Path

import psycopg
import pytest

from metrics_pipeline.cli import demo, history, main, retention
from metrics_pipeline.metrics.dimensions import parse_dimensions
from metrics_pipeline.metrics.windows import day_window, days_between
from metrics_pipeline.orchestration import in_process
from metrics_pipeline.orchestration.in_process import DaysOutcome, Report
from metrics_pipeline.orchestration.reports import day_metadata
from metrics_pipeline.pipeline.aggregation import AggregatedDay, AggregationOptions, compute_day, store_day
from metrics_pipeline.pipeline.opening import open_logs
from metrics_pipeline.postgres.database import Database
from metrics_pipeline.postgres.urls import DatabaseUrl
from metrics_pipeline.store.publishing import Reason
from metrics_pipeline.store.reads import metrics_of_day
from metrics_pipeline_tests.adapters.installations import INSTALLATIONS
from metrics_pipeline_tests.api.alerts import store_alerts
from metrics_pipeline_tests.cli.test_history import Noon
from metrics_pipeline_tests.databases import scratch_database
from metrics_pipeline_tests.days import Log, execute, store_agents, store_logs

SCREENS = Path(__file__).parent / "screens"
WIDTHS = (80, 120, 200)

FINE, OUTDATED, MISSING, DIRTY, SEALED, SHRUNK, OTHER_ZONE, QUIET = DAYS = days_between(
    date(2025, 7, 6), date(2025, 7, 13)
)
#: Raw logs are kept for 30 days. Of these the first was aggregated, the second was not.
OLD, HELD_BACK = date(2025, 6, 1), date(2025, 6, 2)

UNNAMED = "a41c7e0e-7d4c-4f0e-8b8e-5f2f4f0c9d11"
RUN_IDS = ("0f3c9a52-51de-4f6e-9a37-b0a1d2c3e4f5", "c82b11d0-6f7e-4a57-8d21-98fd0b6a7e33")

WINDOW = (f"--from={FINE}", f"--to={QUIET}")
COMMANDS = {
    "status": ("status",),
    "restatements": ("restatements",),
    "report": ("report", *WINDOW),
    "report-by-agent": ("report", *WINDOW, "--by=agent"),
    "report-by-day-and-model": ("report", *WINDOW, "--by=day", "--by=model"),
    "agents-list": ("agents", "list"),
    "alerts-list": ("alerts", "list", "--state=all"),
    "aggregate": ("aggregate", f"--date={FINE}"),
    "backfill-preview": ("backfill", f"--from={MISSING}", f"--to={OTHER_ZONE}", "--preview"),
    "retention": ("retention", "--dry-run"),
    "db-adapt-detect": ("db", "adapt", "--detect"),
}

Screen = Callable[..., str]


@dataclass(frozen=True)
class Prepared:
    """The database, and what a run reported of the day FINE."""

    url: str
    report: Report


def logs_of(day: date, scale: int = 1) -> list[Log]:
    """A busy agent that sometimes fails, one whose id nobody can read, and one that was retired."""
    at = day_window(day, "UTC").start + timedelta(hours=5)
    busy = [
        Log("support-triage", "success", 840 + 7 * number, 1200, "0.0123", None, about("large-4", number % 9), at)
        for number in range(40 * scale)
    ]
    failed = [
        Log("support-triage", "failed", 30_000, 90, "0.001", "timeout", about("small-2", number), at)
        for number in range(3)
    ]
    unnamed = [Log(UNNAMED, latency_ms=95, token_count=310, cost_usd="1.75", timestamp=at)] * 2 * scale
    return [*busy, *failed, *unnamed, Log("sql-assistant", cost_usd="0.000000001", timestamp=at)]


def about(model: str, user: int) -> str:
    return f'{{"model": "{model}", "user_id": "user-{user}"}}'


def aggregate(database: Database, day: date, run_id: str, reason: Reason = Reason.BACKFILL) -> AggregatedDay:
    logs = open_logs(database, parse_dimensions("model"))
    computed = compute_day(database, logs, day_window(day, "UTC"), AggregationOptions())
    return store_day(database, computed, run_id=run_id, reason=reason)


@pytest.fixture(scope="module")
def prepared(server_uri: str, _template: str, _server_connection: psycopg.Connection) -> Iterator[Prepared]:
    """A day in each state, stored values that were replaced, and the tables of another product."""
    with scratch_database(server_uri, _template, _server_connection) as url:
        database = Database(DatabaseUrl.parse(url))
        store_agents(database, {"support-triage": "active", UNNAMED: "active", "sql-assistant": "inactive"})
        for day in (OLD, HELD_BACK, *DAYS):
            if day != QUIET:
                store_logs(database, logs_of(day, 30 if day == FINE else 1))
            if day not in (HELD_BACK, MISSING):
                aggregate(database, day, RUN_IDS[0])
        late = Log("support-triage", "failed", 61_000, 400_000, "861.09", "rate_limit")
        store_logs(database, [replace(late, timestamp=day_window(FINE, "UTC").start)] * 12)
        metadata = day_metadata(aggregate(database, FINE, RUN_IDS[1], Reason.LATE_LOGS))
        change_days(database)
        store_alerts(database)
        report = {key: value.value for key, value in metadata.items() if not key.startswith("seconds_")}
        yield Prepared(url, report | {"seconds_read": 0.31, "seconds_stored": 0.04})


def change_days(database: Database) -> None:
    """Brings each day into its state, and every time to a value that does not depend on the clock."""
    store_logs(database, logs_of(DIRTY)[:5])
    execute(
        database,
        "UPDATE metric_day_ledger SET aggregated_at = metric_date + interval '26 h 3 min 59 s'",
        "UPDATE metric_restatements SET replaced_at = metric_date + interval '50 h 1 min 2.9 s'",
        """UPDATE metric_day_ledger SET raw_pruned_at = '2025-07-13 03:30Z', raw_pruned_logs = source_logs
            WHERE metric_date = :sealed""",
        """DELETE FROM agent_execution_logs WHERE "timestamp"::date = :sealed""",
        """DELETE FROM agent_execution_logs WHERE "timestamp"::date = :shrunk AND status = 'failed'""",
        "UPDATE metric_day_ledger SET definition_version = '0' WHERE metric_date = :outdated",
        """UPDATE metric_day_ledger SET time_zone = 'Asia/Tokyo', window_start = window_start - interval '9 h',
                  window_end = window_end - interval '9 h' WHERE metric_date = :other_zone""",
        """INSERT INTO metric_acknowledged_agents (agent_id, reason, acknowledged_at) VALUES
             ('sql-assistant', 'Retired in May; one client of the finance team still calls it', '2025-06-02 09:00Z'),
             ('[old] planner', 'Renamed', '2025-01-02 09:00Z')""",
        INSTALLATIONS["litellm"].statements.replace(":", "\\:"),
        sealed=SEALED, shrunk=SHRUNK, outdated=OUTDATED, other_zone=OTHER_ZONE,
    )  # fmt: skip


@pytest.fixture
def screen(
    prepared: Prepared, home: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Screen:
    """What a command prints on a terminal of so many columns; with 0, into a pipe."""
    for module in (history, retention):
        monkeypatch.setattr(module, "datetime", Noon)
    parse = DatabaseUrl.parse
    described = "database platform on db.example:5432 (user metrics)"
    monkeypatch.setattr(
        DatabaseUrl, "parse", lambda *given, **more: replace(parse(*given, **more), description=described)
    )
    monkeypatch.setattr(in_process, "run_days", lambda *_, **__: DaysOutcome(RUN_IDS[1], days={FINE: prepared.report}))
    environment = {
        "METRICS_DATABASE_URL": prepared.url,
        "METRICS_PIPELINE_HOME": str(home),
        "METRICS_LOOKBACK_DAYS": "8",
        "METRICS_DIMENSIONS": "model",
        "TERM": "xterm-256color",
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    def printed(*arguments: str, columns: int = 0) -> str:
        monkeypatch.setenv("COLUMNS", str(columns or 20))
        monkeypatch.setenv("FORCE_COLOR", "1" if columns else "")
        monkeypatch.setattr(sys, "argv", ["metrics-pipeline", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        assert not ended.value.code
        return steady(capfd.readouterr().out)

    return printed


_THIS_YEAR = r"20(?:2[6-9]|[3-9]\d)-\d\d-\d\d"


def steady(text: str) -> str:
    """Without styles, trailing blanks and the time at which the test looked, of which the server decides."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", text)
    text = re.sub(rf"{_THIS_YEAR}T[:.\d]+\+00:00", "NOW", text)
    text = re.sub(rf"{_THIS_YEAR}(\s)\d\d:\d\dZ", r"YYYY-MM-DD\1hh:mmZ", text)
    return "".join(f"{line.rstrip()}\n" for line in text.splitlines())


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_prints_what_its_file_shows(name: str, screen: Screen, request: pytest.FixtureRequest) -> None:
    arguments = COMMANDS[name]
    parts = {f"{columns} columns": screen(*arguments, columns=columns) for columns in WIDTHS}
    parts |= {"pipe": screen(*arguments), "--format csv": screen(*arguments, "--format=csv")}
    compare(name, f"metrics-pipeline {' '.join(arguments)}", parts, request.config)
    for columns, part in zip(WIDTHS, parts.values(), strict=False):
        # A command in one line can be copied.
        lines = [line for line in part.splitlines() if not line.startswith("  metrics-pipeline ")]
        assert max(map(len, lines)) <= columns


def test_the_demo_prints_what_its_file_shows(
    prepared: Prepared,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    request: pytest.FixtureRequest,
) -> None:
    parts = {}
    with Database(DatabaseUrl.parse(prepared.url)).connect() as connection:
        metrics = metrics_of_day(connection, FINE)
    monkeypatch.setenv("TERM", "xterm-256color")
    for columns in WIDTHS:
        monkeypatch.setenv("COLUMNS", str(columns))
        monkeypatch.setenv("FORCE_COLOR", "1")
        demo._print_agents(metrics, FINE)
        parts[f"{columns} columns"] = steady(capsys.readouterr().out)
    compare("demo", "metrics-pipeline demo: its table", parts, request.config)


def compare(name: str, heading: str, parts: dict[str, str], config: pytest.Config) -> None:
    shown = "\n".join([f"$ {heading}\n", *(f"── {part} ──\n{text}" for part, text in parts.items())])
    path = SCREENS / f"{name}.txt"
    if config.getoption("renew_screens"):
        path.write_text(shown, encoding="utf-8")
    assert shown == path.read_text(encoding="utf-8")
