"""Trigger, waiting, backfill and Dagster's absence, against a real webserver with its daemon."""

import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import httpx2
import pytest

from metrics_pipeline.postgres.database import Database
from metrics_pipeline_tests.cli.ui import free_port, running_ui
from metrics_pipeline_tests.homes import has_ended
from metrics_pipeline_tests.orchestration.runs import DAYS, assert_equal_to_oracle, execute, ledger
from metrics_pipeline_tests.processes import HANGING_SECONDS, processes, wait_until

from .serving import Serve

TRIGGER = "/api/v1/metrics/aggregate/trigger"
#: Yesterday is the last of DAYS.
NOW = datetime(2025, 7, 14, 9, tzinfo=UTC)


def polled(ask: Callable[[], httpx2.Response]) -> dict[str, object]:
    """The answer as soon as it says that the run or backfill is finished."""
    deadline = time.monotonic() + HANGING_SECONDS
    while not (answer := ask()).json().get("is_finished"):
        assert answer.status_code == 200
        assert time.monotonic() < deadline, answer.text
        time.sleep(0.5)
    return answer.json()


@pytest.mark.end_to_end
@pytest.mark.long
def test_runs_and_backfills_end_equal_to_the_oracle_and_a_webserver_that_is_killed_leaves_no_process(
    home: Path, serve: Serve, logs: None, database: Database, database_url: str
) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    api = serve(now=NOW, dagster_webserver_url=url)
    away = api.post(TRIGGER)
    assert away.status_code == 503
    assert f"The Dagster webserver at {url} cannot be reached" in away.json()["detail"]
    assert "metrics_pipeline_dagster_up 0.0" in api.get("/metrics").text

    with running_ui(home, port=port, METRICS_DATABASE_URL=database_url) as ui:
        run_id = runs_and_backfills_start(api, database)
        # However `dev` ends, none of its processes is left.
        ui.process.kill()
        wait_until(lambda: has_ended(home) and not processes(home))
    assert api.get(f"/api/v1/runs/{run_id}").status_code == 503


def runs_and_backfills_start(api: httpx2.Client, database: Database) -> str:
    """The id of a run that has ended."""
    completed = api.post(TRIGGER, params={"target_date": DAYS[0].isoformat(), "wait": "true"})
    assert completed.status_code == 200, completed.text
    run_id = completed.json()["run_id"]
    assert ledger(database)[DAYS[0]] == run_id
    assert_equal_to_oracle(database, DAYS[0])
    (agents,) = api.get("/api/v1/coverage", params={"end_date": DAYS[0].isoformat()}).json()[:1]
    assert completed.json()["status"] == "completed"
    assert completed.json()["agents_processed"] == agents["agents"] == 8
    run = api.get(f"/api/v1/runs/{run_id}").json()
    assert (run["status"], run["job"], run["error"]) == ("success", "daily_metrics_job", None)
    assert (run["start_date"], run["end_date"]) == (DAYS[0].isoformat(),) * 2
    gauges = api.get("/metrics").text
    assert "metrics_pipeline_dagster_up 1.0" in gauges
    assert "metrics_pipeline_run_duration_seconds " in gauges

    started = api.post("/api/v1/metrics/aggregate/backfill", params={"start_date": DAYS[1].isoformat()})
    assert started.status_code == 202, started.text
    again = api.post("/api/v1/metrics/aggregate/backfill", params={"start_date": DAYS[2].isoformat()})
    assert (again.status_code, again.json()["type"]) == (409, "urn:metrics-pipeline:problem:already-running")
    backfill = polled(lambda: api.get(started.headers["Location"]))
    assert (backfill["status"], backfill["error"]) == ("completed_success", None)
    assert (backfill["start_date"], backfill["end_date"]) == (DAYS[1].isoformat(), DAYS[2].isoformat())
    (its_run,) = backfill["run_ids"]
    # The sensor may have asked for yesterday meanwhile.
    stored = ledger(database)
    assert [stored[day] for day in DAYS] == [run_id, its_run, its_run]
    assert_equal_to_oracle(database, *DAYS)

    # The client that waits gets the message with which the run refused the day.
    execute(database, "DELETE FROM agent_execution_logs WHERE timestamp < '2025-07-12'")
    refused = api.post(TRIGGER, params={"target_date": DAYS[0].isoformat(), "wait": "true"})
    assert refused.status_code == 502
    assert f"{DAYS[0]} has shrunk: " in refused.json()["detail"]
    assert api.get(f"/api/v1/runs/{refused.json()['run_id']}").json()["error"] in refused.json()["detail"]

    for unknown in ("/api/v1/runs/x", "/api/v1/runs/00000000-0000-4000-8000-000000000000", "/api/v1/backfills/x"):
        assert api.get(unknown).status_code == 404
    return run_id
