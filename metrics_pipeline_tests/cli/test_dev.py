"""`dev`: the UI, the daemon, a run through them, and that no process is left after it was stopped."""

import os
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx2
import pytest

from metrics_pipeline.cli import main, supervisor
from metrics_pipeline.postgres.database import Database
from metrics_pipeline_tests.homes import has_ended, scratch_home
from metrics_pipeline_tests.orchestration.runs import DAYS, assert_equal_to_oracle, ledger
from metrics_pipeline_tests.private_files import everything_in, listening_sockets, open_to_others
from metrics_pipeline_tests.processes import CLI, processes, wait_until

from .ui import REPOSITORY, Ui, free_port, launch_run, running_ui

UNDER_UMASK_0 = ("/bin/sh", "-c", 'umask 0; exec "$@"', "sh", *CLI, "dev")

_SCHEDULES = """query ($selector: RepositorySelector!) {
    schedulesOrError(repositorySelector: $selector) {
        ... on Schedules { results { name cronSchedule executionTimezone scheduleState { status } } }
    }
}"""
_DAEMON = '{ instance { daemonHealth { daemonStatus(daemonType: "SCHEDULER") { healthy } } } }'
_RUN = "query ($id: ID!) { runOrError(runId: $id) { ... on Run { status } } }"


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    """A newcomer's home: `dev` creates everything in it."""
    with scratch_home(has_cluster=False) as home:
        yield home


@pytest.mark.end_to_end
@pytest.mark.long
def test_dev_serves_the_ui_runs_schedules_and_launched_runs_until_ctrl_c(
    home: Path, logs: None, database: Database, database_url: str
) -> None:
    page = free_port()
    command = (*UNDER_UMASK_0, "--page-port", str(page))
    with running_ui(home, command, METRICS_DATABASE_URL=database_url) as ui:
        assert_runs(ui, database)
        assert httpx2.get(f"http://127.0.0.1:{page}/", trust_env=False).text.startswith("<!doctype html>")
        info = httpx2.get(f"http://127.0.0.1:{page}/api/v1/info", trust_env=False).json()
        assert f"Dagster UI: {info['dagster_url']} (Ctrl-C" in ui.output()
        assert len(processes(home)) >= 4
        sockets = assert_is_private(home)
        assert_ends(ui, home, signal.SIGINT)
    assert not [path for path in sockets if home not in path.parents and path.exists()]


def assert_is_private(home: Path) -> list[Path]:
    """Everybody who can write to a code server's socket can make it run any code."""
    sockets = listening_sockets(processes(home))
    assert len(sockets) >= 2
    assert open_to_others([*sockets, *everything_in(home)], {home, home / "embedded"}) == {}
    return sockets


def assert_runs(ui: Ui, database: Database) -> None:
    schedules = ui.query(_SCHEDULES, selector=REPOSITORY)["schedulesOrError"]["results"]
    (nightly,) = [schedule for schedule in schedules if schedule["name"] == "daily_metrics_schedule"]
    assert nightly == {
        "name": "daily_metrics_schedule",
        "cronSchedule": "0 2 * * *",
        "executionTimezone": "UTC",
        "scheduleState": {"status": "RUNNING"},
    }
    ui.wait_for(lambda: ui.query(_DAEMON)["instance"]["daemonHealth"]["daemonStatus"]["healthy"])

    run_id = launch_run(ui, "daily_metrics_job", **{"dagster/partition": DAYS[0].isoformat()})
    status = ui.wait_for(
        lambda: ui.query(_RUN, id=run_id)["runOrError"]["status"], lambda status: status in ("SUCCESS", "FAILURE")
    )
    assert status == "SUCCESS"
    # The sensor may have asked for yesterday meanwhile.
    assert ledger(database)[DAYS[0]] == run_id
    assert_equal_to_oracle(database, DAYS[0])


def assert_ends(ui: Ui, home: Path, signal_: signal.Signals) -> None:
    os.kill(ui.process.pid, signal_)
    assert ui.process.wait(timeout=60) == 0
    printed = ui.output()
    assert printed.startswith("Dagster UI: http://127.0.0.1:")
    assert "Traceback" not in printed
    assert "superseded" not in printed
    assert " - DEBUG - " not in printed
    wait_until(lambda: has_ended(home) and not processes(home), seconds=30)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("command", ["dev", "api"])
def test_an_occupied_port_is_one_sentence(
    command: str, host: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        server = socket.create_server((host, 0), family=family)
    except OSError:
        pytest.skip(f"this machine has no {host}")
    with closing(server):
        port = server.getsockname()[1]
        monkeypatch.setenv("METRICS_PIPELINE_HOME", str(tmp_path / "home"))
        monkeypatch.setattr(sys, "argv", ["metrics-pipeline", command, "--host", host, "--port", str(port)])
        with pytest.raises(SystemExit) as ended:
            main()
    printed = capsys.readouterr()
    assert ended.value.code == 1
    assert printed.out == ""
    what = "UI" if command == "dev" else "API"
    assert printed.err.startswith(f"Error: The {what} cannot listen on {host}:{port}: Address already in use")
    assert printed.err.endswith("Choose another with --port or --host.\n")
    assert not (tmp_path / "home").exists()


def test_a_second_dev_on_one_instance_is_refused_with_the_process_of_the_first(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def run_another(*_: object, **__: object) -> int:
        monkeypatch.setattr(sys, "argv", ["metrics-pipeline", "dev", "--port", str(free_port())])
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code

    monkeypatch.setenv("METRICS_PIPELINE_HOME", str(tmp_path))
    monkeypatch.setattr(supervisor, "run", run_another)
    for _ in range(2):
        assert run_another() == 1
        running = f"metrics-pipeline dev runs already on the instance in {tmp_path}/dagster, as process {os.getpid()}. "
        assert capsys.readouterr().err.startswith(f"Error: {running}")


@pytest.mark.parametrize("host", ["a" * 70, "db..example", "caf\udce9", "999.1.1.1"])
@pytest.mark.parametrize("command", ["dev", "api"])
def test_a_host_that_can_have_no_address_is_one_sentence(
    command: str, host: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("METRICS_PIPELINE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("METRICS_API_TOKENS", f"me:read:{'x' * 32}")
    monkeypatch.setattr(sys, "argv", ["metrics-pipeline", command, "--host", host])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr().err.encode().decode()
    assert ended.value.code == 1
    assert said.startswith(f"Error: The {'UI' if command == 'dev' else 'API'} cannot listen on ")
    assert said.endswith("Choose another with --port or --host.\n")
    assert said.count("\n") == 1
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize("port", ["0", "65536", "http"])
def test_a_port_that_is_none_is_a_usage_error(port: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["metrics-pipeline", "dev", "--port", port])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
