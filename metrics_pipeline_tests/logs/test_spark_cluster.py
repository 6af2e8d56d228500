"""Spark with executors that are processes: the same cells as from every other source, and what their loss changes.

CI plays these tests, and `make test-spark` those of test_spark.py too.
"""

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import psutil
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from metrics_pipeline.log_files.loading import load_log_files
from metrics_pipeline.logs import spark_partials
from metrics_pipeline.logs.lake_logs import LakeLogs
from metrics_pipeline.logs.source import LogSource
from metrics_pipeline.logs.spark_logs import SparkLogs
from metrics_pipeline.logs.spark_session import Spark
from metrics_pipeline.metrics.dimensions import parse_dimensions
from metrics_pipeline.metrics.windows import DayWindow, day_window
from metrics_pipeline.pipeline.aggregation import AggregationOptions, ComputedDay, compute_day, store_day
from metrics_pipeline.pipeline.opening import open_logs
from metrics_pipeline.postgres.database import Database
from metrics_pipeline.store.publishing import Reason
from metrics_pipeline_tests.days import WINDOW, Log, assert_exact, empty, query, store_agents, store_logs
from metrics_pipeline_tests.logs.lakes import frame, iceberg_catalog
from metrics_pipeline_tests.logs.spark_sessions import CLUSTER, STARTS_SPARK, executors, session_of
from metrics_pipeline_tests.test_exactness_properties import (  # noqa: F401 - a fixture
    AWKWARD,
    WINDOWS,
    logs,
    loose_database,
)
from metrics_pipeline_tests.test_exactness_variants import UUIDS, difficult_day

pytest.importorskip("pyspark", reason="the extra [spark] is not installed")
pytestmark = STARTS_SPARK

#: Their p95 is 14834.500000000002 and so 14835 as PostgreSQL interpolates it, low + share * (high - low).
#: As (1 - share) * low + share * high it is 14834.5, which is rounded to 14834.
COUNTER_EXAMPLE = [0] * 139 + [14698] + [14908] * 8

DIMENSIONS = parse_dimensions("model,nested=metadata.metadata.user_id")


@pytest.fixture(scope="module", autouse=True)
def session() -> Iterator[Any]:
    # What a shell has started in the background ignores this signal.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with session_of(CLUSTER) as session:
        yield session


class Sources:
    """The same logs in every kind of source."""

    def __init__(self, database: Database, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._database, self._folder = database, folder
        self._catalog = iceberg_catalog(folder, monkeypatch)
        (folder / "parquet").mkdir()

    def write(self, logs: pl.DataFrame) -> dict[str, LogSource]:
        """Replaces the files by these logs, which are in PostgreSQL already."""
        logs.write_parquet(self._folder / "parquet" / "part-0.parquet")
        logs.write_delta(str(self._folder / "delta"), mode="overwrite")
        if self._catalog.table_exists("ops.logs"):
            self._catalog.drop_table("ops.logs")
        self._catalog.create_table("ops.logs", logs.to_arrow().schema).append(logs.to_arrow())
        return {
            "PostgreSQL": open_logs(self._database, DIMENSIONS),
            "Parquet": LakeLogs(f"parquet://{self._folder}/parquet/*.parquet", {}, dimensions=DIMENSIONS),
            "Delta Lake": LakeLogs(f"delta://{self._folder}/delta", {}, dimensions=DIMENSIONS),
            "Iceberg": LakeLogs("iceberg:lake/ops.logs", {}, dimensions=DIMENSIONS),
            "Spark": SparkLogs(CLUSTER, f"parquet.`{self._folder}/parquet`", {}, dimensions=DIMENSIONS),
        }


@pytest.fixture
def sources(loose_database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sources:  # noqa: F811
    return Sources(loose_database, tmp_path, monkeypatch)


def assert_same_cells(database: Database, sources: dict[str, LogSource], window: DayWindow) -> ComputedDay:
    """Each source gives the day that PostgreSQL gives, which is the oracle's. Distributions say who the users are."""
    days = {name: compute_day(database, source, window, AggregationOptions()) for name, source in sources.items()}
    of_postgres = days["PostgreSQL"]
    for day in days.values():
        assert_frame_equal(day.metrics.metrics, of_postgres.metrics.metrics)
        assert_frame_equal(day.metrics.skipped, of_postgres.metrics.skipped)
        assert_frame_equal(day.distributions, of_postgres.distributions)
        assert_frame_equal(day.breakdown.metrics, of_postgres.breakdown.metrics)
        assert_frame_equal(day.breakdown.distributions, of_postgres.breakdown.distributions)
        assert day.totals == of_postgres.totals
        assert day.metrics.not_finite_costs == of_postgres.metrics.not_finite_costs
    store_day(database, days["Spark"], run_id="a run", reason=Reason.MANUAL)
    assert_exact(database, window)
    return of_postgres


# The first case is the simplest one. Making a case smaller takes minutes.
@settings(max_examples=2, phases=[Phase.generate])
@given(data=st.data())
def test_a_day_of_hostile_logs_is_the_same_in_every_cell_from_every_source(
    session: Any,
    loose_database: Database,  # noqa: F811 - the fixture
    sources: Sources,
    data: st.DataObject,
) -> None:
    window = data.draw(st.sampled_from(WINDOWS))
    hostile = data.draw(st.lists(logs(window, [*AWKWARD, "unregistered", None]), min_size=80, max_size=80))
    hostile += [Log("counter-example", latency_ms=latency, timestamp=window.start) for latency in COUNTER_EXAMPLE]
    empty(loose_database)
    store_agents(loose_database, dict.fromkeys([*AWKWARD, "counter-example"], "active"))
    store_logs(loose_database, hostile)
    day = assert_same_cells(loose_database, sources.write(frame(hostile)), window)
    assert day.metrics.metrics.filter(agent_id="counter-example")["p95_latency_ms"].item() == 14835


def test_real_days_are_the_same_in_every_cell_from_every_source(
    loose_database: Database,  # noqa: F811 - the fixture
    sources: Sources,
    real_logs: Path,
) -> None:
    with loose_database.engine.begin() as connection:
        load_log_files(connection, [real_logs], time_zone="UTC", register_unknown=True)
    executions = pl.read_csv(real_logs, schema_overrides={"cost_usd": pl.String}, try_parse_dates=False).with_columns(
        pl.col("timestamp").str.to_datetime(time_unit="us", time_zone="UTC"), pl.col("cost_usd").cast(pl.Decimal(20, 9))
    )
    written = sources.write(executions)
    days = executions["timestamp"].dt.date().unique().sort()
    assert len(days) == 15
    for day in days:
        assert_same_cells(loose_database, written, day_window(day, "UTC"))
    assert query(loose_database, "SELECT sum(total_executions) FROM agent_performance_metrics") == [(3124,)]


def test_a_day_is_the_same_after_every_executor_was_lost_in_the_middle_of_it(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store_agents(database, dict.fromkeys(UUIDS[:3], "active"))
    store_logs(database, difficult_day())
    frame(difficult_day()).write_parquet(tmp_path / "part-0.parquet")
    monkeypatch.setattr(spark_partials, "_LOGS_PER_BUCKET", 80)
    buckets = Spark.buckets
    killed = []

    def buckets_and_kill(spark: Spark, statement: str, number: int) -> Iterator[pl.DataFrame]:
        for part in buckets(spark, statement, number):
            yield part
            # They kept the rows of the other parts.
            for executor in [] if killed else executors(psutil.Process()):
                os.kill(executor.pid, signal.SIGKILL)
                killed.append(executor.pid)

    monkeypatch.setattr(Spark, "buckets", buckets_and_kill)
    spark = SparkLogs(CLUSTER, f"parquet.`{tmp_path}`", {})
    day = compute_day(database, spark, WINDOW, AggregationOptions())
    store_day(database, day, run_id="a run", reason=Reason.MANUAL)
    assert len(killed) == 2
    assert_exact(database)


def test_an_interrupted_statement_leaves_no_job_behind(session: Any) -> None:
    jobs = session.sparkContext.statusTracker()
    has_begun = threading.Event()

    def interrupt() -> None:
        while not jobs.getActiveJobsIds():
            time.sleep(0.05)
        has_begun.set()
        os.kill(os.getpid(), signal.SIGINT)

    # A run of Dagster is cancelled by this signal, for which pyspark would set a handler of its own.
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        Spark(CLUSTER).frame("SELECT count(*) FROM range(10000000000000) WHERE xxhash64(id) = 1")
    thread.join()
    assert has_begun.is_set()
    assert not jobs.getActiveJobsIds()
