"""Processes that tests start: commands whose environment inherits only PATH, and waiting for what they do."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

#: `main` as the console script calls it.
CLI = (sys.executable, "-c", "from metrics_pipeline.__main__ import main; main()")
Start = Callable[..., subprocess.Popen[str]]
#: The limit of every wait that only keeps a test from hanging: a busy machine is ten times slower than an idle one.
HANGING_SECONDS = 300


def bare_environment(home: Path) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "HOME": str(home.parent), "METRICS_PIPELINE_HOME": str(home)}


def processes(home: Path) -> list[psutil.Process]:
    """Every process that has `home` as its METRICS_PIPELINE_HOME."""
    return [
        process
        for process in psutil.process_iter(["environ"])
        if (process.info["environ"] or {}).get("METRICS_PIPELINE_HOME") == str(home)
    ]


def wait_until(condition: Callable[[], object], seconds: float = HANGING_SECONDS) -> None:
    """Waits for what must happen. The longer it has waited, the less often it looks: looking costs processor time."""
    start = time.monotonic()
    while not condition():
        waited = time.monotonic() - start
        assert waited < seconds, f"not within {seconds} s"
        time.sleep(min(max(0.002, waited / 10), 0.1))


def is_gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: is_gone(pid))
