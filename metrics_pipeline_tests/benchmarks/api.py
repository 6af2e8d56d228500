"""`python -m metrics_pipeline_tests.benchmarks.api`: requests per second and p99 of the API, and its goals.

365 days of 500 agents are stored on the embedded server. `metrics-pipeline api` runs as a process of its own, and wrk,
Debian's package of this name, asks it: each client sends its next request when the last is answered.
"""

import argparse
import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import httpx2
from sqlalchemy import text

from metrics_pipeline.metrics.windows import last_complete_day
from metrics_pipeline.pipeline.opening import open_database
from metrics_pipeline.settings import Settings
from metrics_pipeline_tests.benchmarks.server import autocommit, temporary_home

_DAYS = 365
_CLIENTS = (1, 8)
#: Of 30 days of one agent with 8 clients, alone and while 24 clients ask for coverage, on 2 cores.
_GOAL_PER_SECOND = 500
_GOAL_P99_MS = 40
_SERIES = "30 days of one agent"
_SCRIPT = """
request = function()
    local path = string.gsub(%(path)s, "{agent}", math.random(1, %(agents)d))
    return wrk.format("GET", path, {["If-None-Match"] = %(held)s})
end
done = function(summary, latency)
    local errors = summary.errors
    io.write(string.format("%%d %%d %%d %%d\\n", summary.requests, errors.status + errors.timeout + errors.read,
        latency:percentile(50), latency:percentile(99)))
end
"""

_STORE = """
INSERT INTO agent_performance_metrics
SELECT 'agent-' || agent, CAST(:last AS date) - day, 100, 97, 3, 0.97, 800 + agent, 600, 2000, 4000, 50000 + day,
       agent * 0.000000123, agent * 0.000000001, '{"timeout": 2, "unknown": 1}', 1, 40, now(), NULL
FROM generate_series(1, :agents) AS agent, generate_series(0, :days - 1) AS day"""
#: Parameters: agents, days, last.
STORE_LEDGER = """
INSERT INTO metric_day_ledger
SELECT CAST(:last AS date) - day, 'UTC', now(), now(), 100 * :agents, 100 * :agents, 0, :agents, '{}', '1', now(),
       now(), 'benchmark'
FROM generate_series(0, :days - 1) AS day"""


def main() -> None:
    """Prints a row per kind of request and number of clients. Every answer's status is checked."""
    parser = argparse.ArgumentParser(prog="python -m metrics_pipeline_tests.benchmarks.api", description=__doc__)
    parser.add_argument("--agents", type=int, default=500, help="agents stored (default %(default)s)")
    parser.add_argument("--seconds", type=int, default=5, help="seconds per measurement (default %(default)s)")
    options = parser.parse_args()
    with temporary_home() as home:
        last = last_complete_day(datetime.now(UTC), "UTC")
        _store(home, options.agents, last)
        with server(home) as url:
            _measure(url, options.agents, last, options.seconds)


def _store(home: Path, agents: int, last: date) -> None:
    print(f"Storing {_DAYS} days of {agents} agents", flush=True)
    database = open_database(Settings(home=home))
    with database.engine.begin() as connection:
        for statement in (_STORE, STORE_LEDGER):
            connection.execute(text(statement), {"agents": agents, "days": _DAYS, "last": last})
    autocommit(database, "VACUUM ANALYZE")


@contextlib.contextmanager
def server(home: Path) -> Iterator[str]:
    """The URL of an API that was started over the embedded server of `home`."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-c", "from metrics_pipeline.__main__ import main; main()", "api", "--port", str(port)],
        env={"PATH": os.environ["PATH"], "METRICS_PIPELINE_HOME": str(home)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        while True:
            with contextlib.suppress(httpx2.HTTPError):
                if httpx2.get(f"{url}/readyz", trust_env=False).status_code == 200:
                    break
            if process.poll() is not None:
                raise RuntimeError(f"The API ended with exit code {process.returncode} before it answered.")
            time.sleep(0.05)
        yield url
    finally:
        process.terminate()
        process.wait(30)


def _measure(url: str, agents: int, last: date, seconds: int) -> None:
    agent = "/api/v1/metrics/agent-{agent}"
    year = f"?start_date={last - timedelta(days=_DAYS - 1)}"
    tag = httpx2.get(f"{url}/api/v1/metrics/agent-1", trust_env=False).headers["ETag"]
    kinds = {
        "health (no database)": ("/healthz", ""),
        _SERIES: (agent, ""),
        "the same, unchanged (304)": ("/api/v1/metrics/agent-1", tag),
        "365 days of one agent": (agent + year, ""),
        "100 agents of a day by cost": ("/api/v1/metrics?sort=-total_cost_usd", ""),
        "summary of 30 days": (agent + "/summary", ""),
        "coverage of 14 days": ("/api/v1/coverage", ""),
    }
    print("\n| request | clients | requests per second | median ms | p99 ms |")
    print("| --- | ---: | ---: | ---: | ---: |")
    reached = {}
    for kind, (path, held) in kinds.items():
        for clients in _CLIENTS:
            with _wrk(url, path, held, agents, clients, seconds) as wrk:
                reached[kind] = _print(kind, clients, seconds, wrk)
    with (
        _wrk(url, "/api/v1/coverage", "", agents, 24, seconds) as others,
        _wrk(url, agent, "", agents, 8, seconds) as wrk,
    ):
        beside = _print(f"{_SERIES}, beside:", 8, seconds, wrk)
        _print("coverage of 14 days", 24, seconds, others)
    print(f"\n{_SERIES}, 8 clients:")
    for when, (per_second, p99) in {"alone": reached[_SERIES], "beside 24 clients of coverage": beside}.items():
        print(
            f"- {when}: {per_second:,.0f} requests per second, the goal is {_GOAL_PER_SECOND}: "
            f"{'reached' if per_second >= _GOAL_PER_SECOND else 'missed'}; "
            f"p99 {p99:.1f} ms, the goal is {_GOAL_P99_MS}: {'reached' if p99 <= _GOAL_P99_MS else 'missed'}"
        )


@contextlib.contextmanager
def _wrk(url: str, path: str, held: str, agents: int, clients: int, seconds: int) -> Iterator[subprocess.Popen[str]]:
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(_SCRIPT % {"path": json.dumps(path), "held": json.dumps(held), "agents": agents})
        script.flush()
        command = ["wrk", "-t1", f"-c{clients}", f"-d{seconds}s", "-s", script.name, url]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as wrk:
            yield wrk


def _print(kind: str, clients: int, seconds: int, wrk: subprocess.Popen[str]) -> tuple[float, float]:
    """Prints a row. Requests per second, and the p99 in milliseconds."""
    printed, _ = wrk.communicate()
    requests, errors, median, p99 = (int(number) for number in printed.splitlines()[-1].split())
    if errors:
        raise RuntimeError(f"{kind}: {errors} of {requests} requests failed.\n{printed}")
    print(f"| {kind} | {clients} | {requests / seconds:,.0f} | {median / 1000:.1f} | {p99 / 1000:.1f} |", flush=True)
    return requests / seconds, p99 / 1000


if __name__ == "__main__":
    main()
