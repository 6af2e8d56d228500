"""Runs whose process was killed are distinguished from runs in progress, with real processes."""

import subprocess
import sys
from collections.abc import Callable, Iterator

import dagster as dg
import psutil
import pytest

from metrics_pipeline.names import PROCESS_TAG
from metrics_pipeline.orchestration import processes
from metrics_pipeline.orchestration.processes import end_if_orphaned, own_process
from metrics_pipeline_tests.processes import wait_until

from .nights import waiting_run

STARTED = dg.DagsterRunStatus.STARTED

#: Without Dagster, which takes two seconds of a processor and is only named in annotations there.
_WORK = """
import sys
from unittest.mock import MagicMock
sys.modules["dagster"] = MagicMock()
from metrics_pipeline.orchestration.processes import own_process
print(own_process(sys.argv[1]), flush=True)
sys.stdin.read()
"""


class Worker:
    """A process that says which one it is, and waits for its end."""

    def __init__(self, run_id: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", _WORK, run_id], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.tag = self.process.stdout.readline().strip()

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def worker() -> Iterator[Callable[[str], Worker]]:
    workers: list[Worker] = []

    def start(run_id: str) -> Worker:
        workers.append(Worker(run_id))
        return workers[-1]

    yield start
    for each in workers:
        each.kill()


def tagged(instance: dg.DagsterInstance, run: dg.DagsterRun, tag: str) -> dg.DagsterRun:
    instance.add_run_tags(run.run_id, {PROCESS_TAG: tag})
    return read(instance, run)


def read(instance: dg.DagsterInstance, run: dg.DagsterRun) -> dg.DagsterRun:
    found = instance.get_run_by_id(run.run_id)
    assert found is not None
    return found


def test_a_run_ends_as_failed_once_its_process_is_killed_and_not_before(
    instance: dg.DagsterInstance, worker: Callable[[str], Worker]
) -> None:
    run = waiting_run(instance, STARTED, {})
    its = worker(run.run_id)
    run = tagged(instance, run, its.tag)
    assert not end_if_orphaned(instance, run)
    assert read(instance, run).status is STARTED

    its.kill()
    assert end_if_orphaned(instance, run)
    assert read(instance, run).status is dg.DagsterRunStatus.FAILURE
    (entry,) = instance.all_logs(run.run_id, of_type=dg.DagsterEventType.RUN_FAILURE)
    assert entry.dagster_event is not None
    assert entry.dagster_event.message == (
        f"The process that worked on this run ({its.process.pid}) was killed. Start it again."
    )


def test_a_killed_process_that_nobody_has_waited_for_counts_as_gone(
    instance: dg.DagsterInstance, worker: Callable[[str], Worker]
) -> None:
    run = waiting_run(instance, STARTED, {})
    its = worker(run.run_id)
    run = tagged(instance, run, its.tag)
    its.process.kill()
    wait_until(lambda: psutil.Process(its.process.pid).status() == psutil.STATUS_ZOMBIE)
    assert end_if_orphaned(instance, run)


def test_another_process_with_the_same_id_is_not_taken_for_it(instance: dg.DagsterInstance) -> None:
    run = waiting_run(instance, STARTED, {})
    own = own_process(run.run_id)
    assert not end_if_orphaned(instance, tagged(instance, run, own))
    assert end_if_orphaned(instance, tagged(instance, run, own[:-1] + str((int(own[-1]) + 1) % 10)))


@pytest.mark.skipif(sys.platform != "linux", reason="changes what psutil reads of Linux")
def test_a_change_of_the_clock_kills_no_run(instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tagged(instance, waiting_run(instance, STARTED, {}), own_process("unknown"))
    run = tagged(instance, run, own_process(run.run_id))
    before = psutil.Process().create_time()
    booted = psutil.boot_time()
    monkeypatch.setattr("psutil._pslinux.boot_time", lambda: booted - 3600)
    assert psutil.Process().create_time() < before - 3000
    assert not end_if_orphaned(instance, run)


@pytest.mark.parametrize(
    "status", [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED]
)
def test_a_run_that_has_ended_keeps_its_status_also_when_it_ended_just_now(
    instance: dg.DagsterInstance, worker: Callable[[str], Worker], status: dg.DagsterRunStatus
) -> None:
    ended = waiting_run(instance, status, {})
    its = worker(ended.run_id)
    its.kill()
    ended = tagged(instance, ended, its.tag)
    # What somebody read who looked a moment earlier.
    assert not end_if_orphaned(instance, ended.with_status(STARTED))
    assert not end_if_orphaned(instance, ended)
    assert read(instance, ended).status is status


def test_a_repeated_run_is_not_judged_by_its_parents_process(
    instance: dg.DagsterInstance, worker: Callable[[str], Worker]
) -> None:
    """Dagster's run retries and the UI's re-execution copy the tags of the parent."""
    parent = waiting_run(instance, STARTED, {})
    its = worker(parent.run_id)
    its.kill()
    parent = tagged(instance, parent, its.tag)
    assert end_if_orphaned(instance, parent)
    for status in (dg.DagsterRunStatus.QUEUED, dg.DagsterRunStatus.STARTING, STARTED):
        repeated = waiting_run(instance, status, parent.tags, parent)
        assert not end_if_orphaned(instance, repeated)
        assert read(instance, repeated).status is status


def test_runs_of_another_host_or_of_an_unknown_process_are_left_alone(
    instance: dg.DagsterInstance, worker: Callable[[str], Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = waiting_run(instance, STARTED, {})
    assert not end_if_orphaned(instance, run)
    its = worker(run.run_id)
    its.kill()
    run = tagged(instance, run, its.tag)
    monkeypatch.setattr(processes.socket, "gethostname", lambda: "elsewhere")
    assert not end_if_orphaned(instance, run)
    assert read(instance, run).status is STARTED
