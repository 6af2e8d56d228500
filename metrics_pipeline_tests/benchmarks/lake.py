"""A day in Parquet files: `python -m metrics_pipeline_tests.benchmarks.lake`, on an embedded server of its own.

Writes --logs of --agents into files of a million logs each, with the user in JSON or (--columns) in a column. Files
after the first 20 million logs are the first ones again, under further names: no metric reads the id of a log. Then
our asset's steps, and one query of DuckDB, compute the day's metrics from them, each --rounds times in turn and in a
process of its own. Compares the results and prints the medians beside the targets of a day of 20 million logs
(--logs 20000000 --rounds 1): 1.2 times the time of DuckDB, and 1,500 MB. Of the two ratios, that of processor time says
more on a machine that has other work.
"""

import argparse
import statistics
import subprocess
import sys
import time
from datetime import date
from pathlib import Path

import duckdb
import polars as pl
import polars.selectors as cs
from polars.testing import assert_frame_equal
from sqlalchemy import text

from metrics_pipeline.embedded import acquire
from metrics_pipeline.logs.lake_logs import LakeLogs
from metrics_pipeline.metrics.windows import day_window
from metrics_pipeline.pipeline.aggregation import AggregationOptions, compute_day
from metrics_pipeline.pipeline.opening import open_database
from metrics_pipeline.postgres.database import Database
from metrics_pipeline.postgres.urls import DatabaseUrl
from metrics_pipeline.settings import Settings
from metrics_pipeline_tests.benchmarks.contenders.rows import DUCKDB_METRICS
from metrics_pipeline_tests.benchmarks.server import temporary_home
from metrics_pipeline_tests.benchmarks.windows import peak_mb

LAKE_DAY = date(2025, 3, 4)
_FILE_LOGS = 1_000_000
# Writing more of them takes longer than reading them.
_DISTINCT_FILES = 20
_USERS = 100_000
_CONTENDERS = ("metrics_pipeline", "DuckDB")
COMPARED = [
    "agent_id", "total_executions", "failed_executions", "avg_latency_ms", "p50_latency_ms", "p95_latency_ms",
    "p99_latency_ms", "total_tokens", "total_cost_usd", "human_interventions", "unique_users",
]  # fmt: skip
AGENTS = text("""
INSERT INTO agent_registry (id, name, status) SELECT 'agent-' || n, 'Agent', 'active'
FROM generate_series(1, :agents) AS n""")
_LOGS = """
CREATE VIEW logs AS
SELECT agent_id, status, latency_ms, token_count, cost_usd, error_type, {user} AS user_id,
       {intervention} = 'true' AS human_intervention
FROM read_parquet('{files}') WHERE "timestamp" >= '2025-03-04 00:00Z' AND "timestamp" < '2025-03-05 00:00Z'"""


def main() -> None:
    """Prints a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--logs", type=int, default=1_000_000, help="(default %(default)s)")
    parser.add_argument("--agents", type=int, default=500, help="(default %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="(default %(default)s)")
    parser.add_argument("--columns", action="store_true", help="the user is a column, not in JSON")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        _compute_once(*options.child)
        return
    with temporary_home() as home:
        database, uri = open_database(Settings(home=home)), acquire(home)
        with database.begin() as connection:
            connection.execute(AGENTS, vars(options))
        write_logs(home, options.logs, options.agents, is_flat=options.columns)
        found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in _CONTENDERS}
        for _ in range(options.rounds):
            for name, measured in found.items():
                measured.append(_in_a_process(name, uri, home))
        ours, theirs = (pl.read_parquet(home / f"{name}.result").sort("agent_id") for name in _CONTENDERS)
        # DuckDB interpolates percentiles in another way than PostgreSQL: some differ by a millisecond.
        percentiles = cs.starts_with("p")
        assert_frame_equal(ours.select(~percentiles), theirs.select(~percentiles), check_dtypes=False)
        assert (ours.select(percentiles) - theirs.select(percentiles)).select(pl.all().abs().max()).max_horizontal()[
            0
        ] <= 1
    print("| contender | median s | ratio to DuckDB | processor s | ratio to DuckDB | peak MB |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    medians = {
        name: [statistics.median(each) for each in zip(*measured, strict=True)] for name, measured in found.items()
    }
    for name, (seconds, processor, _) in medians.items():
        theirs_seconds, theirs_processor, _ = medians["DuckDB"]
        print(
            f"| {name} | {seconds:.2f} | {seconds / theirs_seconds:.2f} | {processor:.2f} "
            f"| {processor / theirs_processor:.2f} | {max(each[2] for each in found[name]):,.0f} |"
        )
    print("| target for 20 million logs | | 1.20 | | | 1,500 |")


def write_logs(folder: Path, logs: int, agents: int, *, is_flat: bool) -> None:
    """Files of the day's logs. is_flat: the user is a column, not in JSON."""
    for number in range(-(-logs // _FILE_LOGS)):
        file, count = folder / f"{number:04}.parquet", min(_FILE_LOGS, logs - number * _FILE_LOGS)
        if number >= _DISTINCT_FILES and count == _FILE_LOGS:
            file.hardlink_to(folder / f"{number % _DISTINCT_FILES:04}.parquet")
        else:
            _some_logs(number * _FILE_LOGS, count, agents, is_flat=is_flat).write_parquet(file)


def _some_logs(first: int, count: int, agents: int, *, is_flat: bool) -> pl.DataFrame:
    """The logs that have the numbers from `first` on. Polars' hashes of the numbers serve as random numbers."""

    def below(limit: int, seed: int) -> pl.Expr:
        return (pl.col("number").hash(seed) % limit).cast(pl.Int64)

    logs = pl.select(number=pl.int_range(first, first + count)).select(
        agent=1 + below(agents, 1),
        timestamp=pl.lit(LAKE_DAY).cast(pl.Datetime("us", "UTC")) + pl.duration(microseconds=below(86_400_000_000, 2)),
        has_failed=below(20, 3) == 0,
        latency_ms=(6 + below(3_000, 4) / 1_000).exp().cast(pl.Int32),
        token_count=below(5_000, 5).cast(pl.Int32),
        micro_usd=below(100_000, 6),
        error=below(8, 7),
        user=below(_USERS, 8),
        is_human=below(50, 9) == 0,
    )
    user, is_human = pl.format("user-{}", "user"), pl.col("is_human")
    metadata = pl.struct(user.alias("user_id"), is_human.alias("human_intervention")).struct.json_encode()
    return logs.select(
        pl.format("agent-{}", "agent").alias("agent_id"),
        pl.col("timestamp").dt.replace_time_zone("UTC"),
        pl.when("has_failed").then(pl.lit("failed")).otherwise(pl.lit("success")).alias("status"),
        "latency_ms",
        "token_count",
        (pl.col("micro_usd").cast(pl.Decimal(18, 6)) * pl.lit("0.000001").cast(pl.Decimal(18, 6)))
        .cast(pl.Decimal(18, 6))
        .alias("cost_usd"),
        pl.when("has_failed").then(pl.format("error-{}", "error")).alias("error_type"),
        *((user.alias("user_id"), is_human.alias("human_intervention")) if is_flat else (metadata.alias("metadata"),)),
    )


def _in_a_process(name: str, uri: str, folder: Path) -> tuple[float, float, float]:
    child = [sys.executable, "-m", "metrics_pipeline_tests.benchmarks.lake", "--child", name, uri, str(folder)]
    printed = subprocess.run(child, check=True, stdout=subprocess.PIPE, text=True).stdout
    seconds, processor, memory = map(float, printed.split())
    return seconds, processor, memory


def _compute_once(name: str, uri: str, folder: str) -> None:
    files = f"{folder}/*.parquet"
    started, processor = time.perf_counter(), time.process_time()
    if name == "DuckDB":
        with duckdb.connect() as duck:
            is_flat = "user_id" in pl.read_parquet_schema(f"{folder}/0000.parquet")
            duck.execute(
                _LOGS.format(
                    files=files,
                    user="user_id" if is_flat else "metadata->>'user_id'",
                    intervention="human_intervention::text" if is_flat else "metadata->>'human_intervention'",
                )
            )
            agents = duck.execute("SELECT DISTINCT agent_id FROM logs").fetchall()
            found = duck.execute(DUCKDB_METRICS, {"active": [agent for (agent,) in agents]})
            result = pl.DataFrame(found.to_arrow_table())
    else:
        database = Database(DatabaseUrl.parse(uri))
        lake = LakeLogs(f"parquet://{files}", {})
        result = compute_day(database, lake, day_window(LAKE_DAY, "UTC"), AggregationOptions()).metrics.metrics
    print(time.perf_counter() - started, time.process_time() - processor, peak_mb())
    result.select(COMPARED).write_parquet(f"{folder}/{name}.result")


if __name__ == "__main__":
    main()
