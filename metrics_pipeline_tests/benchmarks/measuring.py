"""A contender's process: how long it took, the steps it reports, and the memory of its tree."""

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from metrics_pipeline_tests.benchmarks.contenders import CONTENDERS

_SAMPLE_SECONDS = 0.005


@dataclass(frozen=True)
class Round:
    """One run of one contender. seconds: without the start of Python and the imports, but for `dagster`.

    peak_mb: the greatest resident memory of its process and their children together, or None where it was not watched:
    watching takes a part of a core.
    """

    seconds: float
    steps: dict[str, float]
    peak_mb: float | None


class TooSlowError(Exception):
    """The contender was ended when its time was over."""


def run_contender(name: str, url: str, day: str, home: Path, *, limit_seconds: float, watch_memory: bool) -> Round:
    """Runs the contender in a process of its own. Raises TooSlowError, and RuntimeError with its output if it fails."""
    in_process = CONTENDERS[name].module is not None
    arguments = ["metrics_pipeline_tests.benchmarks.contenders", name, day]
    if not in_process:
        arguments = ["dagster", "asset", "materialize", "-m", "metrics_pipeline.definitions"]
        arguments += ["--select", "agent_performance_metrics", "--partition", day]
    output = home / "contender.log"
    started = time.perf_counter()
    with output.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", *arguments],
            env=os.environ | {"METRICS_DATABASE_URL": url, "DAGSTER_HOME": str(home)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if in_process else log,
            stderr=log,
        )
        peak_mb = _peak_mb(process, started + limit_seconds) if watch_memory else None
        try:
            printed, _ = process.communicate(timeout=max(0.0, started + limit_seconds - time.perf_counter()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            raise TooSlowError from None
    seconds = time.perf_counter() - started
    if process.returncode:
        raise RuntimeError(f"{name} ended with exit code {process.returncode}:\n{output.read_text()}")
    if not in_process:
        return Round(seconds, {}, peak_mb)
    report = json.loads(printed)
    return Round(report["seconds"], report["steps"], peak_mb)


def _peak_mb(process: subprocess.Popen[bytes], deadline: float) -> float:
    """Watches until the process has ended or its time is over."""
    peak = 0
    root = psutil.Process(process.pid)
    while process.poll() is None and time.perf_counter() < deadline:
        try:
            peak = max(peak, sum(member.memory_info().rss for member in (root, *root.children(recursive=True))))
        except psutil.NoSuchProcess:
            continue
        time.sleep(_SAMPLE_SECONDS)
    return peak / 2**20
