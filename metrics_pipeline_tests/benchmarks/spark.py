"""A day that Spark reads: `python -m metrics_pipeline_tests.benchmarks.spark`, on an embedded server of its own.

Writes --logs as benchmarks/lake.py does. Then our asset's steps, with Spark counting, and one query of Spark's own SQL
with its percentiles and averages, compute the day's metrics from them, each --rounds times in turn, in a process of its
own with a driver and an executor of two cores and 1 GB. Neither includes their start. Compares the results and prints
the medians. The processor time is that of Python, driver and executor; of the two ratios it says more on a machine
that has other work. The peaks are resident memory: of Python, of the driver's Java, and of the executor.
"""

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import polars as pl
import polars.selectors as cs
import psutil
from polars.testing import assert_frame_equal

from metrics_pipeline.embedded import acquire
from metrics_pipeline.logs.spark_logs import SparkLogs
from metrics_pipeline.logs.spark_session import Spark
from metrics_pipeline.metrics.windows import day_window
from metrics_pipeline.pipeline.aggregation import AggregationOptions, compute_day
from metrics_pipeline.pipeline.opening import open_database
from metrics_pipeline.postgres.database import Database
from metrics_pipeline.postgres.urls import DatabaseUrl
from metrics_pipeline.settings import Settings
from metrics_pipeline_tests.benchmarks.lake import AGENTS, COMPARED, LAKE_DAY, write_logs
from metrics_pipeline_tests.benchmarks.server import temporary_home
from metrics_pipeline_tests.logs.spark_sessions import executors

_SPARK = "spark:local-cluster[1,2,1024]"
_CONTENDERS = ("metrics_pipeline", "Spark's SQL")
_METRICS = """
WITH logs AS (
    SELECT *, get_json_object(metadata, '$.user_id') AS user_id,
           get_json_object(metadata, '$.human_intervention') = 'true' AS human_intervention
    FROM parquet.`{folder}`
    WHERE timestamp >= TIMESTAMP'2025-03-04 00:00:00Z' AND timestamp < TIMESTAMP'2025-03-05 00:00:00Z'
), errors AS (
    SELECT agent_id, map_from_entries(collect_list(struct(error_type, executions))) AS error_distribution
    FROM (
        SELECT agent_id, coalesce(error_type, 'unknown') AS error_type, count(*) AS executions
        FROM logs WHERE status = 'failed' GROUP BY ALL
    ) GROUP BY agent_id
), sums AS (
    SELECT agent_id, count(*) AS total_executions, count_if(status = 'failed') AS failed_executions,
           CAST(round(avg(latency_ms)) AS BIGINT) AS avg_latency_ms,
           percentile(latency_ms, array(0.5, 0.95, 0.99)) AS percentiles, sum(token_count) AS total_tokens,
           CAST(sum(cost_usd) AS DECIMAL(20, 9)) AS total_cost_usd,
           count_if(human_intervention) AS human_interventions, count(DISTINCT user_id) AS unique_users
    FROM logs GROUP BY agent_id
)
SELECT *, CAST(rint(percentiles[0]) AS BIGINT) AS p50_latency_ms,
       CAST(rint(percentiles[1]) AS BIGINT) AS p95_latency_ms,
       CAST(rint(percentiles[2]) AS BIGINT) AS p99_latency_ms
FROM sums LEFT JOIN errors USING (agent_id)"""


def main() -> None:
    """Prints a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--logs", type=int, default=1_000_000, help="(default %(default)s)")
    parser.add_argument("--agents", type=int, default=500, help="(default %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="(default %(default)s)")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        _compute_once(*options.child)
        return
    with temporary_home() as home:
        database, uri = open_database(Settings(home=home)), acquire(home)
        with database.begin() as connection:
            connection.execute(AGENTS, vars(options))
        write_logs(home, options.logs, options.agents, is_flat=False)
        found: dict[str, list[list[float]]] = {name: [] for name in _CONTENDERS}
        for _ in range(options.rounds):
            for name, measured in found.items():
                measured.append(_in_a_process(name, uri, home))
        ours, theirs = (pl.read_parquet(home / f"{name}.result").sort("agent_id") for name in _CONTENDERS)
    # Spark interpolates percentiles in another way than PostgreSQL: some differ by a millisecond.
    percentiles = cs.starts_with("p")
    assert_frame_equal(ours.select(~percentiles), theirs.select(~percentiles), check_dtypes=False)
    apart = (ours.select(percentiles) - theirs.select(percentiles)).unpivot()["value"].abs()
    assert apart.max() in (0, 1)
    print(f"{(apart > 0).sum()} of {len(apart)} percentiles differ, by 1 ms.")
    print(
        "| contender | median s | ratio | processor s | ratio | Python, peak MB | driver, peak MB | executor, peak MB |"
    )
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    medians = {
        name: [statistics.median(each) for each in zip(*measured, strict=True)] for name, measured in found.items()
    }
    for name, (seconds, processor, *peaks) in medians.items():
        their_seconds, their_processor, *_ = medians[_CONTENDERS[1]]
        print(
            f"| {name} | {seconds:.2f} | {seconds / their_seconds:.2f} | {processor:.2f} "
            f"| {processor / their_processor:.2f} | {' | '.join(f'{peak:,.0f}' for peak in peaks)} |"
        )


def _in_a_process(name: str, uri: str, folder: Path) -> list[float]:
    child = [sys.executable, "-m", "metrics_pipeline_tests.benchmarks.spark", "--child", name, uri, str(folder)]
    printed = subprocess.run(child, check=True, stdout=subprocess.PIPE, text=True).stdout
    return [*map(float, printed.split())]


def _compute_once(name: str, uri: str, folder: str) -> None:
    spark = Spark(_SPARK)
    # By then the executor has started.
    spark.frame("SELECT count(*) FROM range(1000)")
    started, processor = time.perf_counter(), _processor_seconds()
    if name == "metrics_pipeline":
        logs = SparkLogs(_SPARK, f"parquet.`{folder}/*.parquet`", {})
        database = Database(DatabaseUrl.parse(uri))
        result = compute_day(database, logs, day_window(LAKE_DAY, "UTC"), AggregationOptions()).metrics.metrics
    else:
        result = spark.frame(_METRICS.format(folder=f"{folder}/*.parquet"))
    seconds, processor = time.perf_counter() - started, _processor_seconds() - processor
    own = psutil.Process()
    drivers = [each for each in _javas() if each not in executors(own)]
    print(seconds, processor, *(_peak_mb(each) for each in ([own], drivers, executors(own))))
    result.select(COMPARED).write_parquet(f"{folder}/{name}.result")


def _javas() -> list[psutil.Process]:
    return [each for each in psutil.Process().children(recursive=True) if each.name() == "java"]


def _processor_seconds() -> float:
    return sum(sum(process.cpu_times()[:2]) for process in (psutil.Process(), *_javas()))


def _peak_mb(processes: Iterable[psutil.Process]) -> float:
    statuses = [Path(f"/proc/{process.pid}/status").read_text() for process in processes]
    return sum(int(status.partition("VmHWM:")[2].split()[0]) for status in statuses) / 1024


if __name__ == "__main__":
    main()
