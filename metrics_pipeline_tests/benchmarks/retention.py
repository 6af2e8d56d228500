"""Pruning beside a writer: `python -m metrics_pipeline_tests.benchmarks.retention`, on an embedded server of its own.

Makes --rows logs on 30 days, a third of which, or --prune, are old enough to go, and aggregates those days. Then a
writer inserts one recent log after the other, first alone, then beside each contender: our retention, as a process of
its own, with and without its pauses, and one DELETE of the same rows, each on a copy of the same table. Then says which
targets are met. The whole size is `--rows 30000000 --prune 10000000`; it needs about 20 GB of disk. `--rows 3000000`
takes three minutes on two idle cores.
"""

import argparse
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import psutil
from sqlalchemy import text

from metrics_pipeline.embedded import acquire, server_pid
from metrics_pipeline.metrics.windows import day_window, last_complete_day
from metrics_pipeline.pipeline.aggregation import AggregationOptions, compute_day, store_day
from metrics_pipeline.pipeline.opening import open_database, open_logs
from metrics_pipeline.postgres.database import Database
from metrics_pipeline.retention.pace import Pace
from metrics_pipeline.settings import Settings
from metrics_pipeline.store.publishing import Reason
from metrics_pipeline_tests.benchmarks.server import LOAD_LOGS, autocommit, temporary_home

_FAST, _PACED, _DELETE = "metrics_pipeline without pauses", "metrics_pipeline", "one DELETE"
_DAYS = 30
_IDLE_SECONDS = 10.0
#: Days are kept for so long; the old ones are so much older.
_KEEP = 30

_WRITE = text("""
INSERT INTO agent_execution_logs (agent_id, "timestamp", status, latency_ms, metadata)
VALUES ('agent-1', now(), 'success', 5, '{"user_id": "writer"}')""")

_RUN = """
import re, sys, time
from datetime import UTC, datetime
from pathlib import Path
from metrics_pipeline.metrics.retention import RetentionPolicy, cutoffs
from metrics_pipeline.postgres.database import Database
from metrics_pipeline.retention.pace import Pace
from metrics_pipeline.retention.run import apply_retention
from metrics_pipeline.pipeline.opening import open_logs, require_ready
from metrics_pipeline.postgres.urls import DatabaseUrl
database = Database(DatabaseUrl.parse(sys.argv[1]))
raw_log_days, batch_rows, pause_ms = map(int, sys.argv[2:])
started = time.perf_counter()
report = apply_retention(
    database,
    require_ready(database),
    cutoffs(RetentionPolicy(raw_log_days=raw_log_days), datetime.now(UTC), "UTC"),
    Pace(batch_rows=batch_rows, pause_ms=pause_ms, time_budget_minutes=24 * 60),
    run_id="benchmark",
    is_dry_run=False,
    on_progress=lambda message: None,
)
seconds = time.perf_counter() - started
# Not getrusage(), which counts what the benchmark itself held when it started this process.
memory_mb = int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) // 1024
print(sum(report.pruned_logs.values()), memory_mb, seconds)
"""


@dataclass
class Measured:
    """seconds of the whole, deleted rows, and the writer's milliseconds for each of its inserts.

    memory_mb: the peak of our process, or None where the server does everything; of the server's backends the greatest
    private memory that was seen.
    """

    deleted: int = 0
    seconds: float = 0.0
    memory_mb: int | None = None
    server_mb: int = 0
    latencies_ms: list[float] = field(default_factory=list)

    def percentile(self, share: float) -> float:
        """Of the writer's latencies, the nearest rank."""
        return sorted(self.latencies_ms)[min(len(self.latencies_ms) - 1, int(share * len(self.latencies_ms)))]


def main() -> None:
    """Prints a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_500_000, help="logs in the table (default %(default)s)")
    parser.add_argument("--prune", type=int, help="logs that are old enough to go (default a third)")
    parser.add_argument("--batch-rows", type=int, default=10_000, help="rows per DELETE (default %(default)s)")
    options = parser.parse_args()
    prune = options.rows // 3 if options.prune is None else options.prune
    with temporary_home() as home:
        _measure(home, options.rows, prune, options.batch_rows)


def _measure(home: Path, logs: int, prune: int, batch_rows: int) -> None:
    database = open_database(Settings(home=home))
    uri = acquire(home)
    print(f"Making {logs:,} logs, of which {prune:,} are old enough to go", flush=True)
    _load(database, logs, prune)
    idle = Measured()
    with _watched(home, database, idle):
        time.sleep(_IDLE_SECONDS)
    contenders = {"the writer alone": idle}
    for name, pause_ms in ((_FAST, 0), (_PACED, Pace().pause_ms)):
        contenders[name] = measured = Measured()
        arguments = [uri, str(_KEEP), str(batch_rows), str(pause_ms)]
        _on_a_copy(database, partial(_measure_ours, home, database, measured, arguments))
    contenders[_DELETE] = delete = Measured()
    _on_a_copy(database, partial(_measure_delete, home, database, delete))
    _print_table(contenders)
    _print_targets(contenders)
    wrong = {name: each.deleted for name, each in contenders.items() if each is not idle and each.deleted != prune}
    if wrong:
        raise SystemExit(f"Instead of {prune:,} logs were deleted: {wrong}")


def _measure_ours(home: Path, database: Database, measured: Measured, arguments: list[str]) -> None:
    with database.engine.begin() as connection:
        connection.execute(text("UPDATE metric_day_ledger SET raw_pruned_at = NULL, raw_pruned_logs = NULL"))
    with _watched(home, database, measured):
        printed = subprocess.run([sys.executable, "-c", _RUN, *arguments], check=True, capture_output=True, text=True)
    measured.deleted, measured.memory_mb = map(int, printed.stdout.split()[:2])
    # Without the start of Python.
    measured.seconds = float(printed.stdout.split()[2])


def _load(database: Database, logs: int, prune: int) -> None:
    today = last_complete_day(datetime.now(UTC), "UTC") + timedelta(days=1)
    # The old days end where the kept ones begin; the young ones are this month's.
    old_days, young_days = _DAYS // 3, _DAYS - _DAYS // 3
    old = day_window(today - timedelta(days=_KEEP + old_days), "UTC")
    young = day_window(today - timedelta(days=young_days), "UTC")
    with database.engine.begin() as connection:
        connection.execute(
            text("INSERT INTO agent_registry SELECT 'agent-' || n, 'agent', 'active' FROM generate_series(0, 499) AS n")
        )
        for window, count, days in ((old, prune, old_days), (young, logs - prune, young_days)):
            connection.execute(LOAD_LOGS, {"start": window.start, "span": timedelta(days=days), "logs": count})
    _vacuum(database)
    source = open_logs(database)
    for n in range(old_days):
        window = day_window(old.metric_date + timedelta(days=n), "UTC")
        computed = compute_day(database, source, window, AggregationOptions())
        store_day(database, computed, run_id="benchmark", reason=Reason.MANUAL)


def _on_a_copy(database: Database, work: Callable[[], None]) -> None:
    """Each contender gets the same rows, in the same order, with the same indexes, and leaves nothing behind."""
    with database.engine.begin() as connection:
        connection.execute(text("ALTER TABLE agent_execution_logs RENAME TO original"))
        connection.execute(text("CREATE TABLE agent_execution_logs (LIKE original INCLUDING ALL)"))
        connection.execute(text("INSERT INTO agent_execution_logs SELECT * FROM original"))
    _vacuum(database)
    try:
        work()
    finally:
        with database.engine.begin() as connection:
            connection.execute(text("DROP TABLE agent_execution_logs"))
            connection.execute(text("ALTER TABLE original RENAME TO agent_execution_logs"))
        _vacuum(database)


def _measure_delete(home: Path, database: Database, measured: Measured) -> None:
    today = last_complete_day(datetime.now(UTC), "UTC") + timedelta(days=1)
    before = day_window(today - timedelta(days=_KEEP), "UTC").start
    with _watched(home, database, measured), database.engine.begin() as connection:
        statement = text('DELETE FROM agent_execution_logs WHERE "timestamp" < :before')
        measured.deleted = connection.execute(statement, {"before": before}).rowcount


@contextmanager
def _watched(home: Path, database: Database, measured: Measured) -> Iterator[None]:
    """Inserts one log after the other and watches the server's memory while the block runs."""
    ends = threading.Event()

    def write() -> None:
        with database.engine.connect() as connection:
            while not ends.is_set():
                started = time.perf_counter()
                connection.execute(_WRITE)
                connection.commit()
                measured.latencies_ms.append((time.perf_counter() - started) * 1000)

    def watch() -> None:
        while not ends.wait(0.2):
            measured.server_mb = max(measured.server_mb, _greatest_backend_mb(home))

    threads = [threading.Thread(target=write), threading.Thread(target=watch)]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        measured.seconds = time.perf_counter() - started
        ends.set()
        for thread in threads:
            thread.join()


def _greatest_backend_mb(home: Path) -> int:
    pid = server_pid(home)
    greatest = 0
    for process in psutil.Process(pid).children() if pid else []:
        try:
            memory = process.memory_full_info()
        except psutil.NoSuchProcess:
            continue
        greatest = max(greatest, memory.uss // 2**20)
    return greatest


def _vacuum(database: Database) -> None:
    autocommit(database, "VACUUM ANALYZE agent_execution_logs", "CHECKPOINT")


def _print_table(contenders: dict[str, Measured]) -> None:
    print("\n| contender | rows per second | s | writer's p50 ms | p99 ms | slowest ms | peak MB | backend's peak MB |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for name, measured in contenders.items():
        rows = f"{measured.deleted / measured.seconds:,.0f}" if measured.deleted else "-"
        latencies = " | ".join(f"{measured.percentile(share):.2f}" for share in (0.5, 0.99, 1))
        memory = "-" if measured.memory_mb is None else measured.memory_mb
        print(f"| {name} | {rows} | {measured.seconds:.1f} | {latencies} | {memory} | {measured.server_mb} |")


def _print_targets(contenders: dict[str, Measured]) -> None:
    print("\n| target | wanted | measured |")
    print("| --- | ---: | ---: |")
    for name, rows in ((_FAST, 200_000), (_PACED, 100_000)):
        measured = contenders[name]
        p99 = measured.percentile(0.99) / contenders[_DELETE].percentile(0.99)
        print(f"| rows per second, {name} | ≥ {rows:,} | {measured.deleted / measured.seconds:,.0f} |")
        print(f"| the writer's p99 as a multiple of that beside one DELETE, {name} | ≤ 1.5 | {p99:.2f} |")
        print(f"| peak MB, {name} | ≤ 150 | {measured.memory_mb} |")


if __name__ == "__main__":
    main()
