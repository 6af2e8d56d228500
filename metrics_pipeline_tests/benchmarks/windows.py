"""Windows of stored days: `python -m metrics_pipeline_tests.benchmarks.windows`, on an embedded server of its own.

Stores the distributions of --agents on --days, each with 2,000 executions, and no log: windows never read logs. Then it
asks for one agent's 90 days, the fleet's 30 days by agent, and a year of the fleet by month, each in a process of its
own, and for the second again in the same process of the API. Prints the medians of --rounds and the size of the table.
"""

import argparse
import random
import re
import statistics
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx2
import polars as pl
from sqlalchemy import text

from metrics_pipeline.embedded import acquire
from metrics_pipeline.metrics.distributions import DISTRIBUTION_SCHEMA, UserKey
from metrics_pipeline.metrics.windows import last_complete_day
from metrics_pipeline.pipeline.opening import open_database
from metrics_pipeline.postgres.database import Database
from metrics_pipeline.postgres.urls import DatabaseUrl
from metrics_pipeline.settings import Settings
from metrics_pipeline.store.distributions import encode_day, write_day
from metrics_pipeline.store.windows import read_window
from metrics_pipeline_tests.api.serving import serving
from metrics_pipeline_tests.benchmarks.server import temporary_home

_EXECUTIONS = 2_000
#: Different distributions; each agent's day has one of them.
_POOL = 1_000

_COPIES = text("""
INSERT INTO agent_day_distributions (agent_id, metric_date, latencies_ms, latency_executions, user_hashes,
    total_latency_ms, latencies_exact, users_exact, user_key_id, digest)
SELECT 'agent-' || agent, CAST(:first AS date) + day, latencies_ms, latency_executions, user_hashes, total_latency_ms,
       latencies_exact, users_exact, user_key_id, digest
FROM generate_series(0, :agents - 1) AS agent CROSS JOIN generate_series(0, :days - 1) AS day
JOIN agent_day_distributions AS pool ON pool.metric_date = '2000-01-01'
 AND pool.agent_id = 'pool-' || (agent * 7919 + day * 104729) % :pool""")
_METRICS = text("""
INSERT INTO agent_performance_metrics
    (agent_id, metric_date, total_executions, successful_executions, failed_executions, success_rate, avg_latency_ms,
     p50_latency_ms, p95_latency_ms, p99_latency_ms, total_tokens, total_cost_usd, avg_cost_per_execution,
     error_distribution, human_interventions, unique_users)
SELECT agent_id, metric_date, :executions, :executions - 40, 40, 0.98, 800, 600, 2000, 4000, 1000000, 12.5, 0.00625,
       '{"timeout": 30, "rate_limit": 10}', 25, cardinality(user_hashes)
FROM agent_day_distributions WHERE metric_date > '2000-01-01'""")


def main() -> None:
    """Prints a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agents", type=int, default=500, help="(default %(default)s)")
    parser.add_argument("--days", type=int, default=365, help="(default %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="(default %(default)s)")
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        _read_once(*options.child)
        return
    with temporary_home() as home:
        _measure(home, options.agents, options.days, options.rounds)


def _measure(home: Path, agents: int, days: int, rounds: int) -> None:
    database = open_database(Settings(home=home))
    uri = acquire(home)
    last = last_complete_day(datetime.now(UTC), "UTC")
    print(f"Storing {agents * days:,} distributions", flush=True)
    store_windows(database, agents, days, _EXECUTIONS)
    with database.connect() as connection:
        size = connection.execute(text("SELECT pg_total_relation_size('agent_day_distributions')")).scalar_one()
    print(f"\nagent_day_distributions: {size / agents / days / _EXECUTIONS:.1f} bytes for each execution, "
          f"{size / 1e6:,.0f} MB\n")  # fmt: skip
    print("| window | seconds | MB |\n| --- | ---: | ---: |")
    for name, length, by, agent in (
        ("one agent, 90 days", 90, "", "agent-1"),
        (f"{agents} agents, 30 days, by agent", 30, "agent", ""),
        (f"{agents} agents, {days} days, by month", days, "month", ""),
    ):
        found = []
        for _ in range(rounds):
            arguments = ["--child", uri, str(min(length, days)), by, agent]
            child = [sys.executable, "-m", "metrics_pipeline_tests.benchmarks.windows", *arguments]
            printed = subprocess.run(child, check=True, capture_output=True, text=True).stdout.split()
            found.append((float(printed[0]), int(printed[1])))
        seconds, memory = (statistics.median(values) for values in zip(*found, strict=True))
        print(f"| {name} | {seconds:.3f} | {memory:.0f} |", flush=True)
    first = last - timedelta(days=29)
    print(f"| the second again, over HTTP | {_again(database, f'start_date={first}&end_date={last}', rounds):.3f} | |")


def store_windows(database: Database, agents: int, days: int, executions: int) -> None:
    """Days up to yesterday, each agent's with so many executions."""
    draw = random.Random(1)
    rows = []
    for number in range(_POOL):
        latencies: dict[int, int] = {}
        for _ in range(executions):
            latency = int(draw.lognormvariate(6.5, 0.8))
            latencies[latency] = latencies.get(latency, 0) + 1
        counts = [{"latency_ms": latency, "executions": count} for latency, count in sorted(latencies.items())]
        total = sum(latency * count for latency, count in latencies.items())
        users = sorted(draw.getrandbits(64) - 2**63 for _ in range(executions * 4 // 5))
        rows.append((f"pool-{number}", counts, total, True, users, True, UserKey(b"x").key_id))
    pool = pl.DataFrame(rows, schema={"agent_id": pl.String, **DISTRIBUTION_SCHEMA}, orient="row")
    last = last_complete_day(datetime.now(UTC), "UTC")
    with database.begin() as connection:
        write_day(connection, encode_day(datetime(2000, 1, 1, tzinfo=UTC).date(), pool))
        parameters = {"first": last - timedelta(days=days - 1), "agents": agents, "days": days, "pool": _POOL}
        connection.execute(_COPIES, parameters)
        connection.execute(_METRICS, {"executions": executions})
        connection.execute(text("DELETE FROM agent_day_distributions WHERE metric_date = '2000-01-01'"))
    with database.connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT").execute(text("VACUUM ANALYZE"))


def _read_once(uri: str, days: str, by: str, agent: str) -> None:
    last = last_complete_day(datetime.now(UTC), "UTC")
    database = Database(DatabaseUrl.parse(uri))
    # The connection and Polars' threads are there when a server is asked.
    with database.snapshot() as snapshot:
        read_window(snapshot, last, last, agent_id="agent-0")
        started = time.perf_counter()
        read_window(snapshot, last - timedelta(days=int(days) - 1), last, by=[by] if by else [], agent_id=agent or None)
        print(time.perf_counter() - started, peak_mb())


def peak_mb() -> int:
    """The most memory that this process has had."""
    # Not ru_maxrss, which begins with the parent's.
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) // 1024


def _again(database: Database, window: str, rounds: int) -> float:
    with serving(database) as serve:
        api: httpx2.Client = serve(now=datetime.now(UTC))
        path = f"/api/v1/activity?group_by=agent&{window}"
        api.get(path).raise_for_status()
        seconds = []
        for _ in range(rounds):
            started = time.perf_counter()
            api.get(path).raise_for_status()
            seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


if __name__ == "__main__":
    main()
