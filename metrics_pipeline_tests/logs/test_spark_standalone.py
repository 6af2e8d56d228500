"""A standalone cluster of Spark, as operators start it: a master, and a worker that others may take away."""

import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import psutil
import pytest

from metrics_pipeline.logs import spark_partials
from metrics_pipeline.logs.spark_session import Spark
from metrics_pipeline.pipeline.aggregation import AggregationOptions, compute_day, store_day
from metrics_pipeline.pipeline.opening import open_source
from metrics_pipeline.postgres.database import Database
from metrics_pipeline.settings import Settings
from metrics_pipeline.store.publishing import Reason
from metrics_pipeline_tests.days import WINDOW, assert_exact, store_agents, store_logs
from metrics_pipeline_tests.logs.lakes import frame
from metrics_pipeline_tests.logs.spark_sessions import QUICK_JAVA, STARTS_SPARK, executors, session_of
from metrics_pipeline_tests.processes import kill, wait_until
from metrics_pipeline_tests.test_exactness_variants import UUIDS, difficult_day

pyspark = pytest.importorskip("pyspark", reason="the extra [spark] is not installed")
pytestmark = STARTS_SPARK


class Cluster:
    """A master, and a worker of two cores and 1 GB, whose executors write into `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"spark://127.0.0.1:{port}"
        self.processes: list[subprocess.Popen[bytes]] = []
        self._start("master.Master", "--port", str(port))
        wait_until(lambda: _accepts(port))
        self.start_worker()

    def start_worker(self) -> None:
        self._start("worker.Worker", "--cores", "2", "--memory", "1g", "--work-dir", str(self._folder), self.url)

    def lose_executors(self) -> None:
        for executor in executors(psutil.Process(self.processes[-1].pid)):
            kill(executor.pid)

    def lose_worker(self) -> None:
        """Another one arrives."""
        self.processes[-1].kill()
        self.processes[-1].wait()
        self.start_worker()

    def _start(self, name: str, *arguments: str) -> None:
        home = Path(pyspark.__file__).parent
        command = [
            home / "bin" / "spark-class",
            f"org.apache.spark.deploy.{name}",
            "--host",
            "127.0.0.1",
            "--webui-port",
            "0",
        ]
        with (self._folder / "spark.log").open("ab") as log:
            self.processes.append(
                subprocess.Popen(
                    [*command, *arguments],
                    env={**os.environ, **QUICK_JAVA, "SPARK_HOME": str(home), "SPARK_LOCAL_IP": "127.0.0.1"},
                    stdout=log,
                    stderr=subprocess.STDOUT,
                )
            )


def _accepts(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    (tmp_path / "spark").mkdir()
    cluster = Cluster(tmp_path / "spark")
    try:
        yield cluster
    finally:
        for process in cluster.processes:
            process.kill()
            process.wait()


def test_a_day_is_that_of_postgresql_after_its_executor_and_then_its_worker_were_killed(
    cluster: Cluster, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store_agents(database, dict.fromkeys(UUIDS[:3], "active"))
    store_logs(database, difficult_day())
    (tmp_path / "logs").mkdir()
    frame(difficult_day()).write_parquet(tmp_path / "logs" / "part-0.parquet")
    # In two parts.
    monkeypatch.setattr(spark_partials, "_LOGS_PER_BUCKET", -(-len(difficult_day()) // 2))
    buckets, losses = Spark.buckets, [cluster.lose_worker, cluster.lose_executors]

    def buckets_with_losses(spark: Spark, statement: str, number: int) -> Iterator[pl.DataFrame]:
        for part in buckets(spark, statement, number):
            # The rows of the second part are lost too.
            if losses:
                losses.pop()()
            yield part

    monkeypatch.setattr(Spark, "buckets", buckets_with_losses)
    settings = Settings.from_environment(
        {"METRICS_LOGS_URL": cluster.url, "METRICS_LOGS_TABLE": f"parquet.`{tmp_path}/logs`"}
    )
    with session_of(cluster.url):
        day = compute_day(database, open_source(database, settings), WINDOW, AggregationOptions())
    store_day(database, day, run_id="a run", reason=Reason.MANUAL)
    assert not losses
    assert_exact(database)
