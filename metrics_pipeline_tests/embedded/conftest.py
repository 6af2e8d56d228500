"""Homes and users of an embedded server: real processes that hold a lease until they are told, or made, to end."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from metrics_pipeline.embedded import release, server_pid

_HOLD = """
import sys
from pathlib import Path
from metrics_pipeline.embedded import acquire
print(acquire(Path(sys.argv[1])), flush=True)
sys.stdin.read()
"""


class Holder:
    """A process that acquires the server under `home` and keeps its lease until `end` or `kill`."""

    def __init__(self, home: Path, python: str = sys.executable, **how: object) -> None:
        self.process = subprocess.Popen(
            [python, "-c", _HOLD, str(home)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **how,
        )

    def uri(self) -> str:
        uri = self.process.stdout.readline().strip()
        assert uri, self.process.stderr.read()
        return uri

    def end(self) -> None:
        self.process.communicate(timeout=60)

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate(timeout=60)


def wait_until(condition: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.002)


def is_gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


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


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: is_gone(pid))


@pytest.fixture
def home() -> Iterator[Path]:
    """A fresh home with a short path, whose server is gone at the end of the test."""
    base = Path(tempfile.mkdtemp(prefix="home-", dir="/tmp"))
    home = base / "h"
    yield home
    release(home)
    try:
        wait_until(lambda: has_ended(home))
    finally:
        for process in psutil.process_iter(["cwd"]):
            if (process.info["cwd"] or "").startswith(f"{base}/"):
                process.kill()
        shutil.rmtree(base)


@pytest.fixture
def hold(home: Path) -> Iterator[Callable[..., Holder]]:
    holders: list[Holder] = []

    def start(**how: object) -> Holder:
        holders.append(Holder(home, **how))
        return holders[-1]

    yield start
    for holder in holders:
        holder.kill()
