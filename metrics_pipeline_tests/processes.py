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


def processes(home: Path) -> list[psutil.Process]:
    """Every process that has `home` as its METRICS_PIPELINE_HOME."""
    return [
        process
        for process in psutil.process_iter(["environ"])
        if (process.info["environ"] or {}).get("METRICS_PIPELINE_HOME") == str(home)
    ]


def wait_until(condition: Callable[[], object], seconds: float = 300) -> None:
    """Waits for what must happen. Only a test that hangs reaches the limit: a busy machine is ten times slower."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.002)


def is_gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: is_gone(pid))
