"""`dev`: the UI, the daemon and a run through them, and that nothing is left when it is told to stop."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from metrics_pipeline.cli import main
from metrics_pipeline.storage.database import Database
from metrics_pipeline_tests.orchestration.conftest import DAYS, assert_equal_to_oracle, ledger
from metrics_pipeline_tests.orchestration.conftest import logs as logs
from metrics_pipeline_tests.storage.embedded.conftest import has_ended, wait_until

from .conftest import Start, processes

_SELECTOR = {"repositoryName": "__repository__", "repositoryLocationName": "metrics_pipeline"}
_SCHEDULES = """query ($selector: RepositorySelector!) {
    schedulesOrError(repositorySelector: $selector) {
        ... on Schedules { results { name cronSchedule executionTimezone scheduleState { status } } }
    }
}"""
_DAEMON = '{ instance { daemonHealth { daemonStatus(daemonType: "SCHEDULER") { healthy } } } }'
_LAUNCH = """mutation ($params: ExecutionParams!) {
    launchRun(executionParams: $params) { __typename ... on LaunchRunSuccess { run { runId } } }
}"""
_RUN = "query ($id: ID!) { runOrError(runId: $id) { ... on Run { status } } }"


def free_port() -> int:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        return server.getsockname()[1]


class Ui:
    """A `dev` process, and its GraphQL."""

    def __init__(self, start: Start, **environment: str) -> None:
        self._port = free_port()
        self.process: subprocess.Popen[str] = start("dev", "--port", self._port, **environment)
        wait_until(self._serves, seconds=120)

    def query(self, query: str, **variables: Any) -> dict[str, Any]:
        body = json.dumps({"query": query, "variables": variables}).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{self._port}/graphql", body, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as response:
            answer = json.load(response)
        assert "errors" not in answer, answer
        return answer["data"]

    def _serves(self) -> bool:
        assert self.process.poll() is None, self.process.communicate()
        try:
            return self.query("{ version }") is not None
        except OSError:
            time.sleep(0.1)
            return False


def test_dev_serves_the_ui_runs_schedules_and_launched_runs_until_ctrl_c(
    start: Start, home: Path, logs: None, database: Database, database_url: str
) -> None:
    ui = Ui(start, METRICS_DATABASE_URL=database_url)
    schedules = ui.query(_SCHEDULES, selector=_SELECTOR)["schedulesOrError"]["results"]
    (nightly,) = [schedule for schedule in schedules if schedule["name"] == "daily_metrics_schedule"]
    assert nightly == {
        "name": "daily_metrics_schedule",
        "cronSchedule": "0 2 * * *",
        "executionTimezone": "UTC",
        "scheduleState": {"status": "RUNNING"},
    }
    wait_until(lambda: ui.query(_DAEMON)["instance"]["daemonHealth"]["daemonStatus"]["healthy"])

    launched = ui.query(
        _LAUNCH,
        params={
            "selector": {**_SELECTOR, "pipelineName": "daily_metrics_job"},
            "runConfigData": {},
            "executionMetadata": {"tags": [{"key": "dagster/partition", "value": DAYS[0].isoformat()}]},
        },
    )["launchRun"]
    run_id = launched["run"]["runId"]

    def status() -> str:
        return ui.query(_RUN, id=run_id)["runOrError"]["status"]

    wait_until(lambda: status() in ("SUCCESS", "FAILURE"))
    assert status() == "SUCCESS"
    assert ledger(database) == {DAYS[0]: run_id}
    assert_equal_to_oracle(database, DAYS[0])
    assert len(processes(home)) >= 4
    assert_ends(ui, home, signal.SIGINT)


def test_dev_ends_at_sigterm_too(start: Start, home: Path) -> None:
    assert_ends(Ui(start), home, signal.SIGTERM)


def assert_ends(ui: Ui, home: Path, signal_: signal.Signals) -> None:
    os.kill(ui.process.pid, signal_)
    stdout, stderr = ui.process.communicate(timeout=30)
    assert ui.process.returncode == 0
    assert stdout.startswith("Dagster UI: http://127.0.0.1:")
    assert "Traceback" not in stderr
    assert "superseded" not in stderr
    wait_until(lambda: has_ended(home) and not processes(home), seconds=30)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_an_occupied_port_is_one_sentence(
    host: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        server = socket.create_server((host, 0), family=family)
    except OSError:
        pytest.skip(f"this machine has no {host}")
    with closing(server):
        port = server.getsockname()[1]
        monkeypatch.setenv("METRICS_PIPELINE_HOME", str(tmp_path / "home"))
        monkeypatch.setattr(sys, "argv", ["metrics-pipeline", "dev", "--host", host, "--port", str(port)])
        with pytest.raises(SystemExit) as ended:
            main()
    printed = capsys.readouterr()
    assert ended.value.code == 1
    assert printed.out == ""
    assert printed.err.startswith(f"Error: The UI cannot listen on {host}:{port}: Address already in use")
    assert printed.err.endswith("Choose another with --port or --host.\n")
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize("port", ["0", "65536", "http"])
def test_a_port_that_is_none_is_a_usage_error(port: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["metrics-pipeline", "dev", "--port", port])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
