"""What run monitoring learns about a run's process, and what the daemon does then."""

import json
import logging
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import dagster as dg
import pytest
import yaml
from dagster._core.events import DagsterEvent, DagsterEventType
from dagster._core.storage.tags import GRPC_INFO_TAG, WILL_RETRY_TAG
from dagster._daemon.monitoring.run_monitoring import execute_run_monitoring_iteration
from dagster._grpc.client import DagsterGrpcClient

from metrics_pipeline.names import PROCESS_TAG
from metrics_pipeline.orchestration import processes
from metrics_pipeline.orchestration.instance import embedded_configuration
from metrics_pipeline.orchestration.processes import own_process
from metrics_pipeline_tests.processes import wait_until

from .nights import waiting_run

STARTED = dg.DagsterRunStatus.STARTED
#: Without Dagster, which takes two seconds of a processor and is only named in annotations there.
_OWN = """
import sys
from unittest.mock import MagicMock
sys.modules["dagster"] = MagicMock()
from metrics_pipeline.orchestration.processes import own_process
print(own_process(sys.argv[1]))
"""


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    """An instance in SQLite, with everything else as our template has it."""
    path = tmp_path / "dagster.yaml"
    configuration = yaml.safe_load(embedded_configuration(tmp_path, tmp_path))
    del configuration["storage"]
    path.write_text(yaml.safe_dump(configuration))
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        yield instance


def started_run(instance: dg.DagsterInstance, tag: Callable[[str], str]) -> str:
    run = waiting_run(instance, STARTED, {})
    instance.add_run_tags(run.run_id, {PROCESS_TAG: tag(run.run_id)})
    return run.run_id


def monitor(instance: dg.DagsterInstance) -> None:
    """What the daemon does every poll_interval_seconds."""
    context = SimpleNamespace(instance=instance, create_request_context=lambda: None)
    errors = list(execute_run_monitoring_iteration(context, logging.getLogger()))
    assert errors == [None] * len(errors)


def killed_process(run_id: str) -> str:
    return subprocess.run([sys.executable, "-c", _OWN, run_id], capture_output=True, text=True, check=True).stdout[:-1]


def test_monitoring_ends_the_run_of_a_process_that_is_gone_and_run_retries_take_it_up(
    instance: dg.DagsterInstance,
) -> None:
    run_id = started_run(instance, killed_process)
    monitor(instance)
    run = instance.get_run_by_id(run_id)
    assert run.status is dg.DagsterRunStatus.FAILURE
    assert run.tags[WILL_RETRY_TAG] == "true"
    (entry,) = instance.all_logs(run_id, of_type=dg.DagsterEventType.RUN_FAILURE)
    assert "the process that worked on this run was killed" in entry.dagster_event.message
    monitor(instance)
    assert len(instance.all_logs(run_id, of_type=dg.DagsterEventType.RUN_FAILURE)) == 1


def test_monitoring_leaves_runs_alone_that_are_worked_on_or_that_it_cannot_see(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    container = tmp_path / "pid"
    container.symlink_to("pid:[1]")
    left_alone = [
        waiting_run(instance, STARTED, {}).run_id,
        started_run(instance, own_process),
        started_run(instance, lambda _: killed_process("the run that it repeats")),
    ]
    dead = [started_run(instance, killed_process) for _ in range(2)]
    monkeypatch.setattr(processes, "_PROCESS_NAMESPACE", container)
    monitor(instance)
    monkeypatch.undo()
    monkeypatch.setattr(processes.socket, "gethostname", lambda: "elsewhere")
    monitor(instance)
    monkeypatch.undo()
    assert {instance.get_run_by_id(run_id).status for run_id in left_alone + dead} == {STARTED}
    monitor(instance)
    assert {instance.get_run_by_id(run_id).status for run_id in left_alone} == {STARTED}
    assert {instance.get_run_by_id(run_id).status for run_id in dead} == {dg.DagsterRunStatus.FAILURE}


def unclaimed_run(instance: dg.DagsterInstance, socket: Path, started_seconds_ago: float) -> str:
    """A run that its code server has started, and that has not yet said who works on it."""
    run_id = waiting_run(instance, dg.DagsterRunStatus.STARTING, {}).run_id
    instance.add_run_tags(run_id, {GRPC_INFO_TAG: json.dumps({"host": "localhost", "socket": str(socket)})})
    started = DagsterEvent(DagsterEventType.RUN_START.value, "daily_metrics_job")
    instance.handle_new_event(
        dg.EventLogEntry(
            error_info=None,
            level=logging.INFO,
            user_message="",
            run_id=run_id,
            timestamp=time.time() - started_seconds_ago,
            dagster_event=started,
        )
    )
    return run_id


def test_monitoring_ends_a_run_whose_process_it_cannot_see_and_whose_code_server_was_restarted(
    instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    socket, absent = tmp_path / "code.sock", tmp_path / "absent.sock"
    command = [sys.executable, "-m", "dagster", "api", "grpc", "-m", "metrics_pipeline.definitions"]
    with subprocess.Popen([*command, "--socket", str(socket)], stderr=subprocess.DEVNULL) as code_server:
        try:
            client = DagsterGrpcClient(socket=str(socket))
            wait_until(lambda: client.health_check_query() == "SERVING")
            killed, in_a_container, beginning, elsewhere = (
                unclaimed_run(instance, socket, 200),
                unclaimed_run(instance, socket, 200),
                unclaimed_run(instance, socket, 100),
                unclaimed_run(instance, absent, 200),
            )
            instance.add_run_tags(in_a_container, {PROCESS_TAG: f"{in_a_container}/code:pid:[1]/9/-1"})
            monitor(instance)
        finally:
            code_server.kill()
    statuses = {
        run_id: instance.get_run_by_id(run_id).status for run_id in (killed, in_a_container, beginning, elsewhere)
    }
    failed = dg.DagsterRunStatus.FAILURE
    assert statuses == {killed: failed, in_a_container: failed, beginning: STARTED, elsewhere: STARTED}
    assert instance.get_run_by_id(killed).tags[WILL_RETRY_TAG] == "true"
    (entry,) = instance.all_logs(killed, of_type=dg.DagsterEventType.RUN_FAILURE)
    assert "its code server was restarted and does not know this run" in entry.dagster_event.message
