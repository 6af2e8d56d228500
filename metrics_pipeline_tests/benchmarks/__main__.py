"""`make bench`: one day of logs on the embedded server, aggregated by each contender in turn, as a Markdown table."""

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

from sqlalchemy import text

from metrics_pipeline.metrics.windows import day_window
from metrics_pipeline.sample.agents import SampleSpec
from metrics_pipeline.sample.storing import store_sample
from metrics_pipeline.settings import Settings
from metrics_pipeline.storage.database import Database
from metrics_pipeline.storage.embedded import acquire, release, server_pid
from metrics_pipeline.storage.readiness import require_ready
from metrics_pipeline_tests.benchmarks.contenders import copy_to_nowhere, one_sql_statement, ours
from metrics_pipeline_tests.oracle import expected_metrics, stored_metrics

_DAY = date(2025, 6, 2)


def main() -> None:
    """Prints the medians, their ratios to ours, and the median seconds of our steps."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--logs", type=int, default=1_000_000, help="logs of the day (default %(default)s)")
    parser.add_argument("--agents", type=int, default=500, help="agents, skewed (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=7, help="how often each contender runs (default %(default)s)")
    options = parser.parse_args()
    home = Path(tempfile.mkdtemp(prefix="bench"))
    try:
        _measure(home, options.logs, options.agents, options.rounds)
    finally:
        release(home)
        while server_pid(home) is not None:
            time.sleep(0.05)
        shutil.rmtree(home)


def _measure(home: Path, logs: int, agents: int, rounds: int) -> None:
    database = Database.from_settings(Settings(home=home))
    uri = acquire(home)
    contract = require_ready(database)
    window = day_window(_DAY, "UTC")
    print(f"Making {logs:,} logs of {agents:,} agents", flush=True)
    store_sample(database.engine, SampleSpec(agents=agents, logs_per_day=logs), [_DAY], "UTC", lambda *_: None)
    with database.engine.connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT").execute(text("VACUUM ANALYZE agent_execution_logs"))
        expected = expected_metrics(connection, window.start, window.end)
    steps: list[dict[str, float]] = []
    contenders: dict[str, tuple[bool, Callable[[], object]]] = {
        "binary COPY to nowhere (the floor)": (False, lambda: copy_to_nowhere(uri, window)),
        "metrics_pipeline": (True, lambda: steps.append(ours(database, contract, window))),
        "one SQL statement": (True, lambda: one_sql_statement(database, window)),
    }
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    wrong = set()
    for _ in range(rounds):
        for name, (stores, run) in contenders.items():
            with database.engine.begin() as connection:
                connection.execute(text("TRUNCATE agent_performance_metrics, metric_day_ledger"))
            started = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - started)
            with database.engine.connect() as connection:
                if stores and stored_metrics(connection, _DAY) != expected:
                    wrong.add(name)
    _print_table(seconds, wrong, logs)
    medians = {step: statistics.median(round_[step] for round_ in steps) for step in steps[0]}
    print("\nOur steps: " + ", ".join(f"{step} {value:.3f} s" for step, value in medians.items()))


def _print_table(seconds: dict[str, list[float]], wrong: set[str], logs: int) -> None:
    ours_median = statistics.median(seconds["metrics_pipeline"])
    print("\n| contender | result | median s | fastest s | ratio to ours | logs per second |")
    print("| --- | --- | ---: | ---: | ---: | ---: |")
    for name, values in seconds.items():
        median = statistics.median(values)
        result = "wrong" if name in wrong else "-" if "floor" in name else "equal to the oracle"
        figures = f"{median:.3f} | {min(values):.3f} | {median / ours_median:.2f} | {logs / median:,.0f}"
        print(f"| {name} | {result} | {figures} |")


if __name__ == "__main__":
    main()
