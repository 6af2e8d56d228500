"""A running `metrics-pipeline dev` or `dagster dev`: its GraphQL, its output, and waiting for what it does."""

import json
import os
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import dagster as dg
from dagster._core.remote_origin import RegisteredCodeLocationOrigin, RemoteInstigatorOrigin, RemoteRepositoryOrigin
from dagster._core.scheduler.instigation import (
    InstigatorState,
    InstigatorStatus,
    InstigatorType,
    ScheduleInstigatorData,
)

from metrics_pipeline.metrics.windows import days_between
from metrics_pipeline_tests.processes import CLI, HANGING_SECONDS, bare_environment

State = TypeVar("State")

_OUTPUT_CHARACTERS = 5000

REPOSITORY = {"repositoryName": "__repository__", "repositoryLocationName": "metrics_pipeline"}
_TICKS = """query ($selector: InstigationSelector!) { instigationStateOrError(instigationSelector: $selector) {
    ... on InstigationState { ticks { status runKeys skipReason error { message } } }
} }"""
_LAUNCH_RUN = """mutation ($params: ExecutionParams!) {
    launchRun(executionParams: $params) { __typename ... on LaunchRunSuccess { run { runId } } }
}"""
_LAUNCH_BACKFILL = """mutation ($params: LaunchBackfillParams!) {
    launchPartitionBackfill(backfillParams: $params) { __typename ... on LaunchBackfillSuccess { backfillId } }
}"""


def free_port() -> int:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        return server.getsockname()[1]


class Ui:
    """The process leads its own group. It writes to a file, because it would block on a pipe that nobody reads."""

    def __init__(
        self,
        home: Path,
        command: Sequence[str] = (*CLI, "dev"),
        folder: Path | None = None,
        port: int | None = None,
        **environment: str,
    ) -> None:
        self._port = port or free_port()
        self._output = home.parent / f"dev-{self._port}.txt"
        with self._output.open("w") as output:
            self.process = subprocess.Popen(
                [*command, "--port", str(self._port)],
                env=bare_environment(home) | environment,
                cwd=folder or home.parent,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def output(self) -> str:
        return self._output.read_text()

    def query(self, query: str, **variables: Any) -> dict[str, Any]:
        body = json.dumps({"query": query, "variables": variables}).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{self._port}/graphql", body, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=HANGING_SECONDS) as response:
            answer = json.load(response)
        assert "errors" not in answer, answer
        return answer["data"]

    def wait_for(
        self, state: Callable[[], State], is_reached: Callable[[State], object] = bool, seconds: float = HANGING_SECONDS
    ) -> State:
        """The first state that is as expected. Fails with the last state and the output of the process."""
        deadline = time.monotonic() + seconds
        while not is_reached(last := state()):
            printed = self.output()[-_OUTPUT_CHARACTERS:]
            assert self.process.poll() is None, f"dev ended with {self.process.returncode}:\n{printed}"
            assert time.monotonic() < deadline, f"After {seconds} s still {last!r}. dev has printed:\n{printed}"
            # Each question to the webserver takes a tenth of a second of a processor.
            time.sleep(0.5)
        return last

    def serves(self) -> bool:
        try:
            return self.query("{ version }") is not None
        except OSError:
            return False

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(timeout=HANGING_SECONDS)


@contextmanager
def running_ui(home: Path, *how: Any, **environment: Any) -> Iterator[Ui]:
    """`dev` once it answers, started with the arguments of Ui. At the end it and its children are gone."""
    ui = Ui(home, *how, **environment)
    try:
        ui.wait_for(ui.serves)
        yield ui
    finally:
        ui.kill()


def note_that_the_daemon_was_down(instance: dg.DagsterInstance) -> None:
    """What Dagster stored about the schedule when its daemon last ran, four nights ago."""
    repository = RemoteRepositoryOrigin(RegisteredCodeLocationOrigin("metrics_pipeline"), "__repository__")
    last_seen = (datetime.now(UTC) - timedelta(days=4)).timestamp()
    instance.add_instigator_state(
        InstigatorState(
            RemoteInstigatorOrigin(repository, "daily_metrics_schedule"),
            InstigatorType.SCHEDULE,
            InstigatorStatus.DECLARED_IN_CODE,
            ScheduleInstigatorData("0 2 * * *", last_seen),
        )
    )


def days_of(*run_keys: str) -> set[date]:
    """The days that runs with these keys are asked for: `2025-03-04@…` or `2025-03-04..2025-03-06@…`."""
    ranges = [key.partition("@")[0].partition("..") for key in run_keys]
    return {
        day
        for first, _, last in ranges
        for day in days_between(date.fromisoformat(first), date.fromisoformat(last or first))
    }


def first_tick(ui: Ui, name: str) -> dict[str, Any]:
    def ended_ticks() -> list[dict[str, Any]]:
        state = ui.query(_TICKS, selector={**REPOSITORY, "name": name})["instigationStateOrError"]
        return [tick for tick in state.get("ticks", []) if tick["status"] != "STARTED"]

    return ui.wait_for(ended_ticks)[-1]


def launch_backfill(ui: Ui, **params: Any) -> str:
    launched = ui.query(_LAUNCH_BACKFILL, params=params)["launchPartitionBackfill"]
    assert launched["__typename"] == "LaunchBackfillSuccess", launched
    return launched["backfillId"]


def launch_run(ui: Ui, job: str, *, config: Mapping[str, Any] | None = None, **tags: str) -> str:
    launched = ui.query(
        _LAUNCH_RUN,
        params={
            "selector": {**REPOSITORY, "pipelineName": job},
            "runConfigData": config or {},
            "executionMetadata": {"tags": [{"key": key, "value": value} for key, value in tags.items()]},
        },
    )["launchRun"]
    assert launched["__typename"] == "LaunchRunSuccess", launched
    return launched["run"]["runId"]
