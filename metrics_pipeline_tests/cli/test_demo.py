"""`demo`: a newcomer's first command shows four weeks, changes nothing the second time, and leaves nothing behind."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from metrics_pipeline.embedded import release
from metrics_pipeline.metrics.anomalies import days_of_interest, unusual_values
from metrics_pipeline.metrics.dimensions import definitions
from metrics_pipeline.metrics.windows import days_between
from metrics_pipeline.pipeline.opening import open_database
from metrics_pipeline.settings import Settings
from metrics_pipeline.store.audit import agent_history
from metrics_pipeline_tests.days import query
from metrics_pipeline_tests.homes import has_ended, scratch_home
from metrics_pipeline_tests.orchestration.runs import assert_equal_to_oracle
from metrics_pipeline_tests.processes import Start, processes, wait_until

DIMENSIONS = "model=metadata.model,version=metadata.version"

_UNREACHABLE = "postgresql://alice:s3cret@127.0.0.1:1/m"


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    """A newcomer's empty home."""
    with scratch_home(has_cluster=False) as home:
        yield home


def rows(stdout: str) -> dict[str, list[str]]:
    return {line.split()[0]: line.split()[1:] for line in stdout.splitlines() if re.match(r"\d{4}-\d\d-\d\d ", line)}


@pytest.mark.end_to_end
@pytest.mark.long
def test_the_demo_shows_four_weeks_and_an_outage_and_the_second_time_changes_nothing(start: Start, home: Path) -> None:
    today = datetime.now(UTC).date()
    first = start("demo", METRICS_DATABASE_URL=_UNREACHABLE)
    stdout, stderr = first.communicate()
    assert (first.returncode, stderr) == (0, "")
    assert "ignores METRICS_DATABASE_URL" in stdout
    assert "s3cret" not in stdout
    shown = rows(stdout)
    last = max(shown)
    # The days that were the last ones when it started: midnight may have passed since then.
    assert last in {str(today - timedelta(days=1)), str(today)}
    assert len(shown) == 28
    assert all(cells[3:] and cells[4:7] == ["18", "0", "0"] for cells in shown.values())
    assert f"agent_performance_metrics on {last}" in stdout
    assert "pricing-advisor" in stdout
    assert "metrics-pipeline dev" in stdout
    assert "page        http://127.0.0.1:8000\n" in stdout
    # The first partition is the first day, so the UI shows 28 of 28.
    environment = {"METRICS_PIPELINE_HOME": str(home)}
    assert str(Settings.from_environment(environment).start_date) == min(shown)
    assert definitions(Settings.from_environment(environment).dimensions) == DIMENSIONS
    chosen = Settings.from_environment(environment | {"METRICS_START_DATE": "2025-03-01"})
    assert str(chosen.start_date) == "2025-03-01"

    second = start("demo")
    stdout, _ = second.communicate()
    assert second.returncode == 0
    assert "METRICS_DATABASE_URL" not in stdout
    if max(rows(stdout)) == last:
        assert "of which 0 are new" in stdout
        assert {tuple(cells[4:7]) for cells in rows(stdout).values()} == {("0", "0", "18")}

    # The second demo was the last user of the server, so the server ends with it.
    wait_until(lambda: has_ended(home) and not processes(home))

    days = [datetime.fromisoformat(day).date() for day in shown]
    assert days == days_between(min(days), max(days))
    database = open_database(Settings(home=home))
    assert_equal_to_oracle(database, *days[-7:])
    # The outage is the newest day's most unusual change, and its alert is open.
    with database.connect() as connection:
        unusual = unusual_values(agent_history(connection, days_of_interest(days[-1])), days[-1])
    assert unusual.agents_with_history == 18
    assert unusual.values.row(0)[:2] == ("invoice-extraction", "success_rate")
    opened = query(database, "SELECT DISTINCT agent_id FROM alert_history WHERE resolved_at IS NULL")
    assert opened == [("invoice-extraction",)]
    # Retention has alerts to delete.
    old = query(database, "SELECT count(*) FROM alert_history WHERE resolved_at < now() - interval '92 days'")
    assert old[0][0] > 0
    assert query(database, "SELECT DISTINCT dimensions FROM metric_day_ledger") == [(DIMENSIONS,)]
    release(home)


@pytest.mark.end_to_end
def test_the_demo_before_the_first_day_has_ended_says_so(start: Start) -> None:
    tomorrow = datetime.now(UTC).date() + timedelta(days=1)
    process = start("demo", METRICS_START_DATE=str(tomorrow))
    _, stderr = process.communicate()
    assert process.returncode == 1
    assert re.fullmatch(rf"Error: METRICS_START_DATE is {tomorrow}, .*\n", stderr)
