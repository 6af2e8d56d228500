"""Windows of stored days: `python -m metrics_pipeline_tests.benchmarks.windows`, on an embedded server of its own.

Stores the distributions of --agents on --days, each with 2,000 executions, and no log: windows never read logs. Then it
asks for one agent's 90 days, the fleet's 30 days by agent, and all days of the fleet by month, each in a process of its
own, and for the second again in the same process of the API. Prints the medians of --rounds, also of the processor
time, which other work on the machine changes little, and the size of the table.

With --exact it aggregates 40 logs of each agent on each day, asks PostgreSQL for the metrics of all logs, has retention
prune the logs, and compares every value of every window with what the logs gave.
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
import psutil
from sqlalchemy import text

from metrics_pipeline.embedded import acquire
from metrics_pipeline.metrics.distributions import DISTRIBUTION_SCHEMA, UserKey
from metrics_pipeline.metrics.retention import RetentionPolicy, cutoffs
from metrics_pipeline.metrics.windows import day_window, days_between, last_complete_day
from metrics_pipeline.pipeline.aggregation import AggregationOptions, compute_day, store_day
from metrics_pipeline.pipeline.opening import open_database, open_logs, require_ready
from metrics_pipeline.postgres.database import Database
from metrics_pipeline.postgres.urls import DatabaseUrl
from metrics_pipeline.retention.pace import Pace
from metrics_pipeline.retention.run import apply_retention
from metrics_pipeline.settings import Settings
from metrics_pipeline.store.distributions import encode_day, write_day
from metrics_pipeline.store.publishing import Reason
from metrics_pipeline.store.windows import Grouping, read_window
from metrics_pipeline_tests.api.serving import serving
from metrics_pipeline_tests.benchmarks.server import autocommit, temporary_home
from metrics_pipeline_tests.oracle import expected_windows

_EXECUTIONS = 2_000
#: Different distributions; each agent's day has one of them.
_POOL = 1_000

_COPIES = text("""
INSERT INTO agent_day_distributions (agent_id, metric_date, latencies_ms, latency_executions, user_hashes,
    total_latency_ms, latencies_exact, users_exact, user_key_id, digest, packed)
SELECT 'agent-' || agent, CAST(:first AS date) + day, latencies_ms, latency_executions, user_hashes, total_latency_ms,
       latencies_exact, users_exact, user_key_id, digest, packed
FROM generate_series(0, :agents - 1) AS agent CROSS JOIN generate_series(0, :days - 1) AS day
JOIN pool ON pool.agent_id = 'pool-' || (agent * 7919 + day * 104729) % :pool
ORDER BY day, agent""")
_METRICS = text("""
INSERT INTO agent_performance_metrics
    (agent_id, metric_date, total_executions, successful_executions, failed_executions, success_rate, avg_latency_ms,
     p50_latency_ms, p95_latency_ms, p99_latency_ms, total_tokens, total_cost_usd, avg_cost_per_execution,
     error_distribution, human_interventions, unique_users)
SELECT agent_id, metric_date, :executions, :executions - 40, 40, 0.98, 800, 600, 2000, 4000, 1000000, 12.5, 0.00625,
       '{"timeout": 30, "rate_limit": 10}', 25, :users
FROM agent_day_distributions""")

_LOGS = text("""
INSERT INTO agent_execution_logs
    (agent_id, "timestamp", status, latency_ms, token_count, cost_usd, error_type, metadata)
SELECT 'agent-' || agent, CAST(:first AS date) + day + random() * interval '86399 s',
       CASE WHEN random() < 0.9 THEN 'success' ELSE 'failed' END, (1000 * exp(random_normal()))::int,
       (random() * 4000)::int, (random() * 0.1)::numeric(12, 9), CASE WHEN random() < 0.7 THEN 'timeout' END,
       jsonb_build_object('user_id', 'user-' || (random() * 5000)::int, 'human_intervention', random() < 0.02)
FROM generate_series(0, :agents - 1) AS agent, generate_series(0, :days - 1) AS day, generate_series(1, 40)""")
#: The groupings of --exact.
_GROUPINGS: tuple[tuple[Grouping, ...], ...] = (
    (),
    (Grouping.AGENT,),
    (Grouping.WEEK,),
    (Grouping.MONTH,),
    (Grouping.AGENT, Grouping.MONTH),
)


def main() -> None:
    """Prints a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agents", type=int, default=500, help="(default %(default)s)")
    parser.add_argument("--days", type=int, default=365, help="(default %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="(default %(default)s)")
    parser.add_argument("--exact", action="store_true", help="compare windows with PostgreSQL's answers over the logs")
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        _read_once(*options.child)
        return
    with temporary_home() as home:
        if options.exact:
            _compare(home, options.agents, min(options.days, 90))
            return
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
    print("| window | seconds | goal | processor s, client | server | MB | goal |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for name, length, by, agent, goal, goal_mb in (
        (f"one agent, {min(90, days)} days", 90, "", "agent-1", "0.060", ""),
        (f"{agents} agents, {min(30, days)} days, by agent", 30, "agent", "", "2.500", "600"),
        (f"{agents} agents, {days} days, by month", days, "month", "", f"{15 * days / 365:.3f}", ""),
    ):
        found = []
        for _ in range(rounds):
            arguments = ["--child", uri, str(min(length, days)), by, agent]
            child = [sys.executable, "-m", "metrics_pipeline_tests.benchmarks.windows", *arguments]
            printed = subprocess.run(child, check=True, capture_output=True, text=True).stdout.split()
            found.append([float(each) for each in printed])
        seconds, client, server, memory = (statistics.median(values) for values in zip(*found, strict=True))
        figures = f"{client:.2f} | {server:.2f} | {memory:,.0f}"
        print(f"| {name} | {seconds:.3f} | {goal} | {figures} | {goal_mb} |", flush=True)
    again = _again(database, f"start_date={last - timedelta(days=min(30, days) - 1)}&end_date={last}", rounds)
    print(f"| the second again, over HTTP | {again:.3f} | 0.050 | | | | |")


def _compare(home: Path, agents: int, days: int) -> None:
    database = open_database(Settings(home=home))
    acquire(home)
    # All days are older than the 30 for which retention keeps the logs.
    last = last_complete_day(datetime.now(UTC), "UTC") - timedelta(days=31)
    first = last - timedelta(days=days - 1)
    with database.begin() as connection:
        registry = (
            "INSERT INTO agent_registry SELECT 'agent-' || n, 'agent', 'active' FROM generate_series(0, :last) AS n"
        )
        connection.execute(text(registry), {"last": agents - 1})
        connection.execute(text("SELECT setseed(0.5)"))
        logs = connection.execute(_LOGS, {"first": first, "agents": agents, "days": days}).rowcount
    print(f"{logs:,} logs of {agents} agents on {days} days. Aggregating", flush=True)
    autocommit(database, "VACUUM ANALYZE")
    with database.keeping_connections() as kept:
        source = open_logs(kept)
        for day in days_between(first, last):
            computed = compute_day(kept, source, day_window(day, "UTC"), AggregationOptions())
            store_day(kept, computed, run_id="benchmark", reason=Reason.MANUAL)
    print("Asking PostgreSQL for the metrics of the logs", flush=True)
    with database.connect() as connection:
        connection.execute(text("SET LOCAL work_mem = '256MB'"))
        expected = {by: expected_windows(connection, first, last, by) for by in _GROUPINGS}
    report = apply_retention(
        database,
        require_ready(database),
        cutoffs(RetentionPolicy(raw_log_days=30), datetime.now(UTC), "UTC"),
        Pace(pause_ms=0, time_budget_minutes=24 * 60),
        run_id="benchmark",
        is_dry_run=False,
        on_progress=lambda _: None,
    )
    with database.connect() as connection:
        left = connection.execute(text("SELECT count(*) FROM agent_execution_logs")).scalar_one()
    print(f"{sum(report.pruned_logs.values()):,} logs pruned, {left} left\n", flush=True)
    print("| grouped by | rows | values | different from the logs |\n| --- | ---: | ---: | ---: |")
    wrong = 0
    for by, rows in expected.items():
        with database.snapshot() as snapshot:
            found = read_window(snapshot, first, last, by=by).to_dicts()
        pairs = [(row[name], of_window[name]) for row, of_window in zip(rows, found, strict=True) for name in row]
        different = sum(value != of_window for value, of_window in pairs)
        wrong += different
        print(f"| {', '.join(by) or 'nothing'} | {len(rows):,} | {len(pairs):,} | {different} |", flush=True)
    if wrong or left:
        raise SystemExit(f"{wrong} values differ, {left} logs are left.")


def _users(executions: int) -> int:
    return executions * 4 // 5


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
        users = sorted(draw.getrandbits(64) - 2**63 for _ in range(_users(executions)))
        rows.append((f"pool-{number}", counts, total, True, users, True, UserKey(b"x").key_id))
    pool = pl.DataFrame(rows, schema={"agent_id": pl.String, **DISTRIBUTION_SCHEMA}, orient="row")
    last = last_complete_day(datetime.now(UTC), "UTC")
    with database.begin() as connection:
        write_day(connection, encode_day(datetime(2000, 1, 1, tzinfo=UTC).date(), pool))
        connection.execute(text("CREATE TEMPORARY TABLE pool ON COMMIT DROP AS SELECT * FROM agent_day_distributions"))
        # What is stored in an emptied table need not be written to the server's log as well.
        connection.execute(text("TRUNCATE agent_day_distributions"))
        parameters = {"first": last - timedelta(days=days - 1), "agents": agents, "days": days, "pool": _POOL}
        connection.execute(_COPIES, parameters)
        connection.execute(_METRICS, {"executions": executions, "users": _users(executions)})
    # Of a year, VACUUM would write the arrays once more, and ANALYZE would read those of 30,000 rows.
    autocommit(
        database,
        "VACUUM (PROCESS_TOAST false) agent_day_distributions",
        "ANALYZE agent_day_distributions (agent_id, metric_date)",
        "VACUUM ANALYZE agent_performance_metrics",
    )


def _read_once(uri: str, days: str, by: str, agent: str) -> None:
    last = last_complete_day(datetime.now(UTC), "UTC")
    database = Database(DatabaseUrl.parse(uri))
    # The connection and Polars' threads are there when a server is asked.
    with database.snapshot() as snapshot:
        read_window(snapshot, last, last, agent_id="agent-0")
        server = psutil.Process(snapshot.execute(text("SELECT pg_backend_pid()")).scalar_one())
        before, started = (time.process_time(), sum(server.cpu_times())), time.perf_counter()
        read_window(
            snapshot,
            last - timedelta(days=int(days) - 1),
            last,
            by=[Grouping(by)] if by else [],
            agent_id=agent or None,
        )
        seconds = time.perf_counter() - started
        print(seconds, time.process_time() - before[0], sum(server.cpu_times()) - before[1], peak_mb())


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
