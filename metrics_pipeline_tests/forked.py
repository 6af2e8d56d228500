"""Functions in processes of their own, which begin as copies of one process that has imported everything.

Importing took 3.4 s of the 5 s of processor time of a command, of which the tests start 300.
"""

import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from metrics_pipeline import cli as cli
from metrics_pipeline.__main__ import main
from metrics_pipeline.orchestration import failures, in_process, instance
from metrics_pipeline.orchestration.checks import assembly

from .processes import bare_environment

# What a process has of the above before it begins. metrics_pipeline.definitions reads the environment when it is
# imported, so each process imports it by itself.
__all__ = ["Forked", "assembly", "cli", "command", "in_process", "instance"]

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload([__name__])


def command(*arguments: str, first_pause_seconds: float = 0.1) -> None:
    """The command line, with so many seconds before a step's second attempt."""
    failures.FIRST_PAUSE_SECONDS = first_pause_seconds
    sys.argv = ["metrics-pipeline", *arguments]
    main()


class Forked:
    """A running process. What it prints goes into a file, so nothing needs to read it meanwhile."""

    def __init__(self, function: Callable[..., object], *arguments: str, environment: Mapping[str, str], folder: Path):
        name = uuid4()
        self._outputs = [folder / f"{name}.stdout", folder / f"{name}.stderr"]
        for output in self._outputs:
            output.touch()
        self._process = _CONTEXT.Process(
            target=_become, args=(function, arguments, dict(environment), folder, self._outputs)
        )
        self._process.start()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self.returncode

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        self._process.kill()

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Waits for the end, and returns stdout and stderr."""
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(str(self._process), timeout or 0)
        stdout, stderr = (output.read_text() for output in self._outputs)
        return stdout, stderr


@contextmanager
def forking(home: Path) -> Iterator[Callable[..., Forked]]:
    """Starts commands of the home. What still runs at the end is killed."""
    started: list[Forked] = []

    def fork(*arguments: object, function: Callable[..., object] = command, **environment: str) -> Forked:
        process = Forked(
            function, *map(str, arguments), environment=bare_environment(home) | environment, folder=home.parent
        )
        started.append(process)
        return process

    yield fork
    for process in started:
        process.kill()


def _become(
    function: Callable[..., object],
    arguments: tuple[str, ...],
    environment: dict[str, str],
    folder: Path,
    outputs: list[Path],
) -> None:
    for number, path in enumerate(outputs, start=1):
        file = os.open(path, os.O_WRONLY)
        os.dup2(file, number)
        os.close(file)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.exit(function(*arguments))  # type: ignore[arg-type]
