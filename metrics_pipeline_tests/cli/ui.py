"""A running `metrics-pipeline dev` or `dagster dev`: its GraphQL, its output, and waiting for what it does."""

import json
import os
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from .conftest import CLI, bare_environment

State = TypeVar("State")

#: Whoever waits so long on a loaded machine waits for something that does not come.
PATIENCE_SECONDS = 180
_OUTPUT_CHARACTERS = 5000


def free_port() -> int:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        return server.getsockname()[1]


class Ui:
    """The process leads a group of its own, and writes into a file: a pipe that nobody reads would stop it."""

    def __init__(
        self, home: Path, command: Sequence[str] = (*CLI, "dev"), folder: Path | None = None, **environment: str
    ) -> None:
        self._port = free_port()
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

    def output(self) -> str:
        return self._output.read_text()

    def query(self, query: str, **variables: Any) -> dict[str, Any]:
        body = json.dumps({"query": query, "variables": variables}).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{self._port}/graphql", body, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as response:
            answer = json.load(response)
        assert "errors" not in answer, answer
        return answer["data"]

    def wait_for(
        self,
        state: Callable[[], State],
        is_reached: Callable[[State], object] = bool,
        seconds: float = PATIENCE_SECONDS,
    ) -> State:
        """The first state that is as it should be. Fails with the last one, and with what the process has printed."""
        deadline = time.monotonic() + seconds
        while not is_reached(last := state()):
            printed = self.output()[-_OUTPUT_CHARACTERS:]
            assert self.process.poll() is None, f"dev ended with {self.process.returncode}:\n{printed}"
            assert time.monotonic() < deadline, f"After {seconds} s still {last!r}. dev has printed:\n{printed}"
            time.sleep(0.1)
        return last

    def serves(self) -> bool:
        try:
            return self.query("{ version }") is not None
        except OSError:
            return False

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(timeout=60)


@contextmanager
def running_ui(home: Path, *command_and_folder: Any, **environment: str) -> Iterator[Ui]:
    """`dev` once it answers. At the end it and its children are gone."""
    ui = Ui(home, *command_and_folder, **environment)
    try:
        ui.wait_for(ui.serves)
        yield ui
    finally:
        ui.kill()
