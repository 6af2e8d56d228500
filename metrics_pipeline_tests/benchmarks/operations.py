"""What surrounds a day's aggregation: `python -m metrics_pipeline_tests.benchmarks.operations`, as a Markdown table.

The import of the code location, which every process of Dagster's pays for; publishing a day of 5,000 agents, at first,
again unchanged and after a correction of every row; and a year's backfill by the command, against the sum of its days'
floors, each the binary COPY of a day's columns to nowhere.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import date, timedelta
from pathlib import Path

from rich.progress import track
from sqlalchemy import text

from metrics_pipeline.embedded import acquire
from metrics_pipeline.log_files.sample_logs import store_sample
from metrics_pipeline.metrics.windows import day_window, days_between
from metrics_pipeline.pipeline.aggregation import AggregationOptions, compute_day, store_day
from metrics_pipeline.pipeline.opening import open_database, open_logs
from metrics_pipeline.sample.agents import SampleSpec
from metrics_pipeline.settings import Settings
from metrics_pipeline.store.publishing import Reason
from metrics_pipeline_tests.benchmarks.contenders import floor
from metrics_pipeline_tests.benchmarks.server import autocommit, temporary_home

_AGENTS = 5_000
_FIRST = date(2025, 1, 1)


def main() -> None:
    """Prints a row for each operation."""
    parser = argparse.ArgumentParser(
        prog="python -m metrics_pipeline_tests.benchmarks.operations",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--days", type=int, default=365, help="days of the backfill (default %(default)s)")
    parser.add_argument("--logs-per-day", type=int, default=10_000, help="of the backfill (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="of import and publishing (default %(default)s)")
    options = parser.parse_args()
    rows = {"import of metrics_pipeline.definitions": [_import_seconds() for _ in range(options.rounds)]}
    with temporary_home() as home:
        rows |= _publishing(home, options.rounds)
    with temporary_home() as home:
        rows |= _backfill(home, days_between(_FIRST, _FIRST + timedelta(days=options.days - 1)), options.logs_per_day)
    print("| operation | median s | fastest s | runs |")
    print("| --- | ---: | ---: | ---: |")
    for name, seconds in rows.items():
        print(f"| {name} | {statistics.median(seconds):.3f} | {min(seconds):.3f} | {len(seconds)} |")


def _import_seconds() -> float:
    """Without the start of Python."""
    return _process_seconds("import metrics_pipeline.definitions") - _process_seconds("pass")


def _process_seconds(code: str) -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    return time.perf_counter() - started


def _publishing(home: Path, rounds: int) -> dict[str, list[float]]:
    database = open_database(Settings(home=home))
    logs = open_logs(database)
    window = day_window(_FIRST, "UTC")
    # By Zipf's law most agents have few logs or none. Every one has a row all the same.
    store_sample(database, SampleSpec(agents=_AGENTS, logs_per_day=100_000), [_FIRST], "UTC", lambda *_: None)
    names = [f"publishing {_AGENTS:,} agents, {what}" for what in ("all new", "unchanged", "all corrected")]
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for number in track(range(rounds), description="Publishing", transient=True):
        for name, change in zip(
            names,
            (
                "TRUNCATE agent_performance_metrics, metric_day_ledger",
                "SELECT 1",
                f"UPDATE agent_performance_metrics SET total_tokens = -1 - {number}",
            ),
            strict=True,
        ):
            with database.engine.begin() as connection:
                connection.execute(text(change))
            computed = compute_day(database, logs, window, AggregationOptions(include_inactive_agents=True))
            store_day(database, computed, run_id="benchmark", reason=Reason.MANUAL)
            seconds[name].append(computed.timings.seconds["publish"])
    return seconds


def _backfill(home: Path, days: Sequence[date], logs_per_day: int) -> dict[str, list[float]]:
    database = open_database(Settings(home=home))
    url = acquire(home)
    spec = SampleSpec(agents=50, logs_per_day=logs_per_day)
    for day in track(days, description="Making logs", transient=True):
        store_sample(database, spec, [day], "UTC", lambda *_: None)
    autocommit(database, "VACUUM ANALYZE")
    with database.engine.connect() as connection:
        logs = connection.execute(text("SELECT count(*) FROM agent_execution_logs")).scalar_one()
    started = time.perf_counter()
    for day in days:
        floor.run(url, str(day))
    floors = time.perf_counter() - started
    command = [sys.executable, "-c", "from metrics_pipeline.__main__ import main; main()", "backfill"]
    command += ["--from", str(days[0]), "--to", str(days[-1])]
    environment = {**os.environ, "METRICS_DATABASE_URL": url, "METRICS_PIPELINE_HOME": str(home)}
    started = time.perf_counter()
    subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=True)
    backfill = time.perf_counter() - started
    name = f"{len(days)} days, {logs:,} logs:"
    return {f"{name} floors": [floors], f"{name} `metrics-pipeline backfill`": [backfill]}


if __name__ == "__main__":
    main()
