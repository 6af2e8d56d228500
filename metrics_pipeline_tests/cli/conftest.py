"""The commands as processes of their own, with a home of their own and nothing inherited but PATH."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from metrics_pipeline.embedded import release
from metrics_pipeline_tests.embedded.conftest import has_ended, wait_until

#: `main` as the console script calls it.
CLI = (sys.executable, "-c", "from metrics_pipeline.cli import main; main()")
#: The same with a tenth of a second before a step's second attempt.
IMPATIENT = (
    sys.executable,
    "-c",
    f"from metrics_pipeline.orchestration import failures; failures.FIRST_PAUSE_SECONDS = 0.1; {CLI[-1]}",
)
Start = Callable[..., subprocess.Popen[str]]


def bare_environment(home: Path) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "HOME": str(home.parent), "METRICS_PIPELINE_HOME": str(home)}


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    """METRICS_PIPELINE_HOME of the module's commands. At the end nothing of them is left."""
    with scratch_home() as home:
        yield home


@contextmanager
def scratch_home() -> Iterator[Path]:
    """A METRICS_PIPELINE_HOME of which nothing is left at the end, no process either."""
    base = Path(tempfile.mkdtemp(prefix="cli-", dir="/tmp"))
    home = base / "home"
    yield home
    release(home)
    try:
        wait_until(lambda: has_ended(home) and not processes(home))
    finally:
        for process in processes(home):
            process.kill()
        shutil.rmtree(base)


@pytest.fixture
def start(home: Path) -> Iterator[Start]:
    """Starts a command; what still runs at the end of the test is killed."""
    started: list[subprocess.Popen[str]] = []

    def popen(*arguments: object, program: tuple[str, ...] = CLI, **environment: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [*program, *map(str, arguments)],
            env=bare_environment(home) | environment,
            cwd=home.parent,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield popen
    for process in started:
        process.kill()
        process.communicate()


def processes(home: Path) -> list[psutil.Process]:
    """Every process that has `home` as its METRICS_PIPELINE_HOME."""
    return [
        process
        for process in psutil.process_iter(["environ"])
        if (process.info["environ"] or {}).get("METRICS_PIPELINE_HOME") == str(home)
    ]
