"""`python -m metrics_pipeline_tests.benchmarks.api`: requests per second and p99 of the API, as a Markdown table.

365 days of 500 agents are stored on the embedded server. `metrics-pipeline api` runs as a process of its own; the
clients are threads of this one, each with a connection on which it sends its next request when the last is answered.
"""

import argparse
import contextlib
import os
import random
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import httpx2
from sqlalchemy import text

from metrics_pipeline.metrics.windows import last_complete_day
from metrics_pipeline.pipeline.opening import open_database
from metrics_pipeline.settings import Settings
from metrics_pipeline_tests.benchmarks.server import temporary_home

_DAYS = 365
_CLIENTS = (1, 8)

_STORE = """
INSERT INTO agent_performance_metrics
SELECT 'agent-' || agent, CAST(:last AS date) - day, 100, 97, 3, 0.97, 800 + agent, 600, 2000, 4000, 50000 + day,
       agent * 0.000000123, agent * 0.000000001, '{"timeout": 2, "unknown": 1}', 1, 40, now(), NULL
FROM generate_series(1, :agents) AS agent, generate_series(0, :days - 1) AS day"""
_STORE_LEDGER = """
INSERT INTO metric_day_ledger
SELECT CAST(:last AS date) - day, 'UTC', now(), now(), 100 * :agents, 100 * :agents, 0, :agents, '{}', '1', now(),
       now(), 'benchmark'
FROM generate_series(0, :days - 1) AS day"""


def main() -> None:
    """Prints a row per kind of request and number of clients. Every answer's status is checked."""
    parser = argparse.ArgumentParser(prog="python -m metrics_pipeline_tests.benchmarks.api", description=__doc__)
    parser.add_argument("--agents", type=int, default=500, help="agents stored (default %(default)s)")
    parser.add_argument("--seconds", type=float, default=5, help="seconds per measurement (default %(default)s)")
    options = parser.parse_args()
    with temporary_home() as home:
        last = last_complete_day(datetime.now(UTC), "UTC")
        _store(home, options.agents, last)
        with _server(home) as url:
            _measure(url, options.agents, last, options.seconds)


def _store(home: Path, agents: int, last: date) -> None:
    print(f"Storing {_DAYS} days of {agents} agents", flush=True)
    database = open_database(Settings(home=home))
    with database.engine.begin() as connection:
        for statement in (_STORE, _STORE_LEDGER):
            connection.execute(text(statement), {"agents": agents, "days": _DAYS, "last": last})
    with database.engine.connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT").execute(text("VACUUM ANALYZE"))


@contextlib.contextmanager
def _server(home: Path) -> Iterator[str]:
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


def _measure(url: str, agents: int, last: date, seconds: float) -> None:
    choose = random.Random(1)

    def any_agent() -> str:
        return f"/api/v1/metrics/agent-{choose.randint(1, agents)}"

    year = f"?start_date={last - timedelta(days=_DAYS - 1)}"
    tag = httpx2.get(f"{url}/api/v1/metrics/agent-1", trust_env=False).headers["ETag"]
    kinds: dict[str, tuple[Callable[[], str], dict[str, str], int]] = {
        "30 days of one agent": (any_agent, {}, 200),
        "the same, unchanged (304)": (lambda: "/api/v1/metrics/agent-1", {"If-None-Match": tag}, 304),
        "365 days of one agent": (lambda: any_agent() + year, {}, 200),
        "summary of 30 days": (lambda: any_agent() + "/summary", {}, 200),
        "100 agents of a day by cost": (lambda: "/api/v1/metrics?sort=-total_cost_usd", {}, 200),
        "health (no database)": (lambda: "/healthz", {}, 200),
    }
    print("\n| request | clients | requests per second | median ms | p99 ms |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for kind, (path, headers, status) in kinds.items():
        for clients in _CLIENTS:
            taken = _load(url, path, headers, status, clients, seconds)
            p99 = statistics.quantiles(taken, n=100)[98]
            print(
                f"| {kind} | {clients} | {len(taken) / seconds:,.0f} | "
                f"{statistics.median(taken) * 1000:.1f} | {p99 * 1000:.1f} |",
                flush=True,
            )


def _load(
    url: str, path: Callable[[], str], headers: dict[str, str], status: int, clients: int, seconds: float
) -> list[float]:
    """The seconds that each answer took."""
    taken: list[float] = []

    def ask() -> None:
        with httpx2.Client(base_url=url, headers=headers, trust_env=False) as client:
            client.get(path())
            ready.wait()
            end = time.perf_counter() + seconds
            while (started := time.perf_counter()) < end:
                answer = client.get(path())
                taken.append(time.perf_counter() - started)
                if answer.status_code != status:
                    raise RuntimeError(f"{answer.url} was answered with {answer.status_code}: {answer.text}")

    ready = threading.Barrier(clients)
    threads = [threading.Thread(target=ask) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return taken


if __name__ == "__main__":
    main()
