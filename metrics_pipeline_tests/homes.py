"""Homes of embedded servers: made for tests, and gone with every process at their end."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from metrics_pipeline.embedded import release, server_pid

from .processes import processes, wait_until

# Not within pytest's own folder: as root, every other pytest on the machine closes that to the server's user.
HOME_VARIABLE = "PIPELINE_TESTS_HOME"


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


def keepers(home: Path) -> list[int]:
    folder = os.path.realpath(home / "embedded")
    return [
        process.pid
        for process in psutil.process_iter(["cmdline"])
        if any(word.endswith("/keeper.py") for word in process.info["cmdline"] or ())
        and folder in process.info["cmdline"]
    ]


def the_keeper(home: Path) -> int:
    (keeper,) = keepers(home)
    return keeper


def has_ended(home: Path) -> bool:
    """Whether neither server nor keeper runs any more."""
    return server_pid(home) is None and not keepers(home)
