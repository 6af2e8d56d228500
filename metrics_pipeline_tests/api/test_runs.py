"""Starting runs: what is refused, what is not started twice, and the answers while Dagster is unusable."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx2
import pytest
from sqlalchemy import text

from metrics_pipeline.api.dagster_runs import DagsterRuns
from metrics_pipeline.names import API_RUNS_LOCK
from metrics_pipeline.postgres.database import Database
from metrics_pipeline_tests.days import DAY, aggregate, execute, store_agents
from metrics_pipeline_tests.processes import HANGING_SECONDS, wait_until

from .serving import Serve
from .webserver import Webserver, graphql_run

#: The address that the UI has in a browser.
UI = "https://dagster.example"
TRIGGER = "/api/v1/metrics/aggregate/trigger"
BACKFILL = "/api/v1/metrics/aggregate/backfill"
FEBRUARY = {"asset_partition_range_start": "2025-02-01", "asset_partition_range_end": "2025-02-28"}


@pytest.fixture
def api(serve: Serve, webserver: Webserver) -> httpx2.Client:
    return serve(dagster_webserver_url=webserver.url, dagster_url=UI)


def test_a_trigger_starts_a_run_of_yesterday_or_of_the_day_that_is_named(
    api: httpx2.Client, webserver: Webserver
) -> None:
    response = api.post(TRIGGER)
    assert response.status_code == 202
    assert response.headers["Location"] == "/api/v1/runs/new"
    assert response.json() == {
        "status": "started",
        "run_id": "new",
        "status_url": "/api/v1/runs/new",
        "ui_url": f"{UI}/runs/new",
    }
    assert api.post(TRIGGER, params={"target_date": "2025-01-01"}).status_code == 202
    first, second = webserver.launched()
    assert first == {
        "selector": {
            "repositoryName": "__repository__",
            "repositoryLocationName": "metrics_pipeline",
            "pipelineName": "daily_metrics_job",
        },
        "runConfigData": {},
        "executionMetadata": {
            "tags": [
                {"key": "dagster/partition", "value": "2025-03-04"},
                {"key": "reason", "value": "manual"},
            ]
        },
    }
    assert second["executionMetadata"]["tags"][0]["value"] == "2025-01-01"


def test_a_backfill_covers_every_day_of_its_range(api: httpx2.Client, webserver: Webserver) -> None:
    response = api.post(BACKFILL, params={"start_date": "2025-02-27", "end_date": "2025-03-01"})
    assert response.status_code == 202
    assert response.json() == {
        "status": "started",
        "backfill_id": "abc",
        "status_url": "/api/v1/backfills/abc",
        "ui_url": f"{UI}/runs/b/abc",
    }
    api.post(BACKFILL, params={"start_date": "2025-03-03"})
    first, second = webserver.launched()
    assert first["assetSelection"] == [{"path": ["agent_performance_metrics"]}]
    assert first["partitionNames"] == ["2025-02-27", "2025-02-28", "2025-03-01"]
    assert second["partitionNames"] == ["2025-03-03", "2025-03-04"]


def test_days_that_have_not_ended_or_lie_before_the_first_are_a_422(api: httpx2.Client, webserver: Webserver) -> None:
    for path, field in {
        f"{TRIGGER}?target_date=2025-03-05": "target_date",
        f"{TRIGGER}?target_date=2024-12-31": "target_date",
        f"{TRIGGER}?target_date=tomorrow": "target_date",
        f"{TRIGGER}?wait=perhaps": "wait",
        f"{BACKFILL}?start_date=2025-03-04&end_date=2025-03-05": "end_date",
        f"{BACKFILL}?start_date=2024-12-31&end_date=2025-03-04": "start_date",
        f"{BACKFILL}?start_date=2025-03-04&end_date=2025-03-03": "start_date",
        BACKFILL: "start_date",
    }.items():
        response = api.post(path)
        assert (response.status_code, response.json()["errors"][0]["field"]) == (422, field)
    assert webserver.asked == []


def test_a_sealed_day_and_one_of_another_zone_are_a_409_before_dagster_is_asked(
    database: Database, api: httpx2.Client, webserver: Webserver
) -> None:
    store_agents(database, {"a": "active"})
    aggregate(database)
    a_range = f"{BACKFILL}?start_date=2025-03-01"
    for change, kind, paths in [
        (
            "UPDATE metric_day_ledger SET time_zone = 'Asia/Tokyo', window_end = window_end - interval '9 h'",
            "other-time-zone",
            [TRIGGER, a_range],
        ),
        ("UPDATE metric_day_ledger SET raw_pruned_at = '2025-03-05'", "day-sealed", [TRIGGER]),
    ]:
        execute(database, change)
        for path in paths:
            response = api.post(path)
            assert (response.status_code, response.json()["type"]) == (409, f"urn:metrics-pipeline:problem:{kind}")
            assert str(DAY) in response.json()["detail"]
    assert webserver.asked == []
    assert api.post(TRIGGER, params={"target_date": "2025-03-03"}).status_code == 202
    # The run leaves out the sealed day and stores the others.
    assert api.post(a_range).status_code == 202


def test_a_day_that_a_run_is_about_to_write_is_not_started_twice(api: httpx2.Client, webserver: Webserver) -> None:
    webserver.answers["runsOrError"]["results"] = [
        graphql_run("other", "STARTED", partition="2025-03-04") | {"repositoryOrigin": {"repositoryLocationName": "x"}},
        graphql_run("asset", "STARTED", partition="2025-03-04") | {"assetSelection": [{"path": ["data_retention"]}]},
        graphql_run("elsewhen", "STARTED", partition="2025-03-03"),
        graphql_run("typed by hand", "QUEUED", partition="yesterday"),
        graphql_run("half a range", "QUEUED", asset_partition_range_start="2025-03-01"),
        graphql_run("single", "QUEUED", partition="2025-03-04"),
        graphql_run("range", "STARTED", **FEBRUARY),
    ]  # fmt: skip
    response = api.post(TRIGGER)
    assert response.status_code == 202
    assert (response.json()["status"], response.json()["run_id"]) == ("already_running", "single")
    assert api.post(TRIGGER, params={"target_date": "2025-02-28"}).json()["run_id"] == "range"
    for start, end, run_id in [("2025-02-28", "2025-03-02", "range"), ("2025-03-04", "2025-03-04", "single")]:
        refused = api.post(BACKFILL, params={"start_date": start, "end_date": end})
        assert (refused.status_code, refused.json()["run_id"]) == (409, run_id)
        assert refused.json()["ui_url"] == f"{UI}/runs/{run_id}"
    assert webserver.launched() == []
    assert api.post(BACKFILL, params={"start_date": "2025-03-01", "end_date": "2025-03-02"}).status_code == 202


def test_a_backfill_that_has_no_run_yet_holds_its_days(api: httpx2.Client, webserver: Webserver) -> None:
    asset = [{"path": ["agent_performance_metrics"]}]
    webserver.answers["partitionBackfillsOrError"]["results"] = [
        {"id": "mine", "assetSelection": asset, "partitionNames": ["2025-03-03", "2025-03-04"]},
        {"id": "other", "assetSelection": [{"path": ["x"]}], "partitionNames": ["2025-03-02"]},
    ]
    for path in (TRIGGER, f"{BACKFILL}?start_date=2025-03-02"):
        response = api.post(path)
        assert (response.status_code, response.json()["type"]) == (409, "urn:metrics-pipeline:problem:already-running")
        assert response.json()["ui_url"] == f"{UI}/runs/b/mine"
    assert api.post(TRIGGER, params={"target_date": "2025-03-02"}).status_code == 202
    # Once it has one, that is the run to wait for.
    webserver.answers["runsOrError"]["results"] = [graphql_run("its", "STARTED", partition="2025-03-04")]
    assert api.post(TRIGGER).json()["run_id"] == "its"


def test_a_request_that_is_repeated_with_its_key_starts_nothing_twice(api: httpx2.Client, webserver: Webserver) -> None:
    key = {"Idempotency-Key": "8e03978e"}
    runs, backfills = (webserver.answers[f"{name}OrError"] for name in ("runs", "partitionBackfills"))
    first = api.post(TRIGGER, headers=key)
    tags = webserver.launched()[0]["executionMetadata"]["tags"][2:]
    assert [tag["key"] for tag in tags] == [
        "metrics_pipeline/idempotency_key",
        "metrics_pipeline/idempotent_request",
    ]
    # The run has ended since, and failed and was repeated: the newest comes first.
    again, run = graphql_run("again", "SUCCESS"), graphql_run("new", "FAILURE")
    runs["results"] = [{**each, "tags": tags} for each in (again, run)]
    second = api.post(TRIGGER, headers=key)
    assert (second.status_code, second.json()) == (202, first.json())
    assert webserver.asked[-1][1]["runs"]["tags"] == tags[:1]
    # Another request with the same key is none, and wait is no part of what is asked for.
    for path in (f"{TRIGGER}?target_date=2025-03-04", f"{BACKFILL}?start_date=2025-03-04"):
        refused = api.post(path, headers=key)
        assert refused.status_code == 422
        assert refused.json()["type"] == "urn:metrics-pipeline:problem:idempotency-key"
        assert refused.json()["errors"][0]["location"] == "header"
    webserver.answers["runOrError"] = graphql_run("new", "FAILURE") | {
        "eventConnection": {"cursor": "1", "hasMore": False, "events": []}
    }
    assert api.post(f"{TRIGGER}?wait=true", headers=key).json()["run_id"] == "new"
    assert len(webserver.launched()) == 1

    # A backfill has no run at first, and then runs that have its tags.
    runs["results"] = []
    started = api.post(f"{BACKFILL}?start_date=2025-03-01", headers=key)
    tags = webserver.launched()[1]["tags"]
    backfills["results"] = [{"id": "other", "tags": []}, {"id": "abc", "tags": tags}]
    assert api.post(f"{BACKFILL}?start_date=2025-03-01", headers=key).json() == started.json()
    backfills["results"] = []
    runs["results"] = [{**graphql_run("one", "STARTED"), "tags": [*tags, {"key": "dagster/backfill", "value": "abc"}]}]
    assert api.post(f"{BACKFILL}?start_date=2025-03-01", headers=key).json() == started.json()
    assert len(webserver.launched()) == 2
    twice = api.post(TRIGGER, headers=[("Idempotency-Key", "a"), ("Idempotency-Key", "a")])
    assert twice.status_code == api.post(TRIGGER, headers={"Idempotency-Key": "x" * 256}).status_code == 422


def test_of_two_servers_that_are_asked_at_once_one_starts_the_run(serve: Serve, webserver: Webserver) -> None:
    clients = [serve(dagster_webserver_url=webserver.url) for _ in range(2)]
    for client in clients:
        # FastAPI builds a server's routes at its first request and mutes a warning meanwhile for the whole process:
        # two servers that do so at once in one process undo each other's muting.
        assert client.get(TRIGGER).status_code == 405
    launch = webserver.answers["launchRun"]

    class Launching(dict[str, Any]):
        """Once its launch is sent, the run is among those under way."""

        def items(self) -> Any:
            webserver.answers["runsOrError"]["results"] = [graphql_run("new", "QUEUED", partition="2025-03-04")]
            return super().items()

    webserver.answers["launchRun"] = Launching(launch)
    webserver.meeting = threading.Barrier(2)
    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(lambda client: client.post(TRIGGER).json()["status"], clients))
    assert sorted(answers) == ["already_running", "started"]
    assert webserver.meeting.broken
    assert len(webserver.launched()) == 1


def test_waiting_answers_with_the_agents_of_the_day_and_gives_up_in_time(
    database: Database, serve: Serve, webserver: Webserver, monkeypatch: pytest.MonkeyPatch
) -> None:
    store_agents(database, {"a": "active", "b": "active"})
    aggregate(database, run_id="new")
    webserver.answers["runOrError"] = graphql_run("new", "SUCCESS", partition="2025-03-04")
    done = serve(dagster_webserver_url=webserver.url).post(TRIGGER, params={"wait": "true"})
    assert done.status_code == 200
    assert done.json() == {
        "status": "completed",
        "agents_processed": 2,
        "run_id": "new",
        "ui_url": f"{webserver.url}/runs/new",
    }
    # A replica that lags shows the day as an earlier run stored it.
    monkeypatch.setattr("metrics_pipeline.api.routes.runs._REPLICA_SECONDS", 0)
    execute(database, "UPDATE metric_day_ledger SET run_id = 'old', aggregated_at = '2025-03-05'")
    lagging = serve(dagster_webserver_url=webserver.url).post(TRIGGER, params={"wait": "true"})
    assert (lagging.status_code, lagging.json()["status"], lagging.json()["run_id"]) == (202, "not_visible_yet", "new")
    execute(database, "DELETE FROM metric_day_ledger")
    unstored = serve(dagster_webserver_url=webserver.url).post(TRIGGER, params={"wait": "true"})
    assert (unstored.status_code, unstored.json()["status"]) == (202, "not_visible_yet")
    webserver.answers["runOrError"] = graphql_run("new", "STARTED", partition="2025-03-04")
    impatient = serve(dagster=DagsterRuns(webserver.url, wait_seconds=0.6))
    late = impatient.post(TRIGGER, params={"wait": "true"})
    assert (late.status_code, late.json()["status"]) == (202, "started")


def test_a_trigger_that_waits_is_answered_with_its_run_when_the_server_is_told_to_stop(
    serve: Serve, webserver: Webserver
) -> None:
    webserver.answers["runOrError"] = graphql_run("new", "STARTED", partition="2025-03-04")
    stop: list[Callable[[], None]] = []
    api = serve(dagster_webserver_url=webserver.url, told=stop)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(api.post, TRIGGER, params={"wait": "true"})
        wait_until(lambda: "runOrError" in dict(webserver.asked))
        stop[0]()
        answer = waiting.result(HANGING_SECONDS)
    assert (answer.status_code, answer.json()["status"], answer.json()["run_id"]) == (202, "started", "new")
    assert answer.headers["Location"] == "/api/v1/runs/new"


def test_a_run_that_was_waited_for_and_failed_says_why(api: httpx2.Client, webserver: Webserver) -> None:
    error = {"message": "dagster._core.errors.DagsterExecutionStepExecutionError: step\n", "errorChain": [
        {"error": {"message": "metrics_pipeline.errors.TransientError: The server is gone.\n"}}]}  # fmt: skip
    webserver.answers["runOrError"] = graphql_run("new", "FAILURE", partition="2025-03-04") | {
        "eventConnection": {
            "cursor": "1",
            "hasMore": False,
            "events": [
                {"__typename": "RunStartEvent"},
                {"__typename": "ExecutionStepFailureEvent", "error": error, "failureMetadata": None},
                {"__typename": "RunFailureEvent", "message": "Steps failed."},
            ],
        }
    }
    failed = api.post(TRIGGER, params={"wait": "true"})
    assert failed.status_code == 502
    problem = failed.json()
    assert problem["type"] == "urn:metrics-pipeline:problem:run-failed"
    assert problem["detail"] == "Run new ended as failure. The server is gone."
    assert (problem["run_id"], problem["ui_url"]) == ("new", f"{UI}/runs/new")
    state = api.get("/api/v1/runs/new").json()
    assert (state["status"], state["is_finished"], state["error"]) == ("failure", True, "The server is gone.")
    events = webserver.answers["runOrError"]["eventConnection"]["events"]
    events[1]["failureMetadata"] = {"description": "2025-03-04 is sealed."}
    assert api.get("/api/v1/runs/new").json()["error"] == "2025-03-04 is sealed."
    del events[1]
    assert api.get("/api/v1/runs/new").json()["error"] == "Steps failed."


def test_a_run_and_a_backfill_tell_their_state(api: httpx2.Client, webserver: Webserver) -> None:
    webserver.answers["runOrError"] = graphql_run("r", "STARTED", **FEBRUARY)
    created = datetime.fromtimestamp(1741160000, UTC)
    run = api.get("/api/v1/runs/r").json()
    assert datetime.fromisoformat(run.pop("created_at")) == created
    assert datetime.fromisoformat(run.pop("started_at")) == created + timedelta(seconds=1.5)
    assert run == {
        "run_id": "r",
        "job": "daily_metrics_job",
        "status": "started",
        "is_finished": False,
        "start_date": "2025-02-01",
        "end_date": "2025-02-28",
        "ended_at": None,
        "error": None,
        "ui_url": f"{UI}/runs/r",
    }
    webserver.answers["partitionBackfillOrError"] = {
        "__typename": "PartitionBackfill",
        "id": "b",
        "status": "COMPLETED_FAILED",
        "creationTime": 1741160000.0,
        "endTimestamp": 1741160060.0,
        "assetSelection": [{"path": ["agent_performance_metrics"]}],
        "partitionNames": ["2025-03-02", "2025-03-01"],
        "error": {"message": "It broke.\n"},
        "runs": [{"runId": "r"}],
    }
    backfill = api.get("/api/v1/backfills/b").json()
    assert datetime.fromisoformat(backfill.pop("ended_at")) - datetime.fromisoformat(
        backfill.pop("created_at")
    ) == timedelta(minutes=1)
    assert backfill == {
        "backfill_id": "b",
        "status": "completed_failed",
        "is_finished": True,
        "start_date": "2025-03-01",
        "end_date": "2025-03-02",
        "run_ids": ["r"],
        "error": "It broke.",
        "ui_url": f"{UI}/runs/b/b",
    }


def test_what_dagster_does_not_know_or_has_from_others_is_a_404(api: httpx2.Client, webserver: Webserver) -> None:
    webserver.answers["runOrError"] = {"__typename": "RunNotFoundError", "message": "no"}
    webserver.answers["partitionBackfillOrError"] = {"__typename": "BackfillNotFoundError", "message": "no"}
    assert api.get("/api/v1/runs/r").json()["type"] == "urn:metrics-pipeline:problem:unknown-run"
    assert api.get("/api/v1/backfills/b").json()["type"] == "urn:metrics-pipeline:problem:unknown-backfill"
    others = graphql_run("r", "STARTED") | {"repositoryOrigin": {"repositoryLocationName": "others"}}
    webserver.answers["runOrError"] = others
    assert api.get("/api/v1/runs/r").status_code == 404
    # A command starts its runs without an origin.
    webserver.answers["runOrError"] = others | {"repositoryOrigin": None}
    assert api.get("/api/v1/runs/r").status_code == 200
    webserver.answers["runOrError"] = others | {"repositoryOrigin": None, "jobName": "another_job"}
    assert api.get("/api/v1/runs/r").status_code == 404


REFUSALS: list[tuple[int, bytes]] = [
    (500, b"oops"),
    (404, b""),
    (200, b"<html>"),
    (200, b"[]"),
    (200, b"{}"),
    (200, b'{"errors": [{"message": "Cannot query field"}]}'),
    (200, b'{"data": {"runsOrError": {"__typename": "PythonError", "message": "storage is away"}}}'),
]


def test_a_webserver_that_gives_no_usable_answer_is_a_503_that_says_so(
    api: httpx2.Client, webserver: Webserver
) -> None:
    for webserver.raw in REFUSALS:
        response = api.post(TRIGGER)
        assert response.status_code == 503
        assert response.json()["type"] == "urn:metrics-pipeline:problem:dagster-unavailable"
        assert response.headers["Retry-After"] == "10"
    assert "storage is away" in response.json()["detail"]
    webserver.raw = None
    webserver.answers["launchRun"] = {"__typename": "PipelineNotFoundError", "message": "Could not find Pipeline"}
    refused = api.post(TRIGGER)
    assert refused.status_code == 503
    assert "Could not find Pipeline" in refused.json()["detail"]
    assert "code location metrics_pipeline is loaded" in refused.json()["detail"]


def test_requests_that_wait_behind_those_that_dagster_does_not_answer_name_dagster(
    api: httpx2.Client, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("metrics_pipeline.api.context._START_SECONDS", 0.2)
    with database.connect() as connection, ThreadPoolExecutor(2) as threads:
        # Of another server, whose request waits for Dagster.
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": API_RUNS_LOCK})
        for answer in threads.map(lambda _: api.post(TRIGGER), range(2)):
            assert answer.status_code == 503
            assert answer.json()["type"] == "urn:metrics-pipeline:problem:dagster-unavailable"
    assert api.post(TRIGGER).status_code == 202
