"""Sessions of Spark for tests. A process has one at a time."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil
import pytest

from metrics_pipeline.logs.spark_session import Spark

LOCAL, CLUSTER = "spark:local[2]", "spark:local-cluster[2,1,1024]"

#: A test ends before Java's second compiler has saved what it costs, which was 30 of 75 s of processor time.
QUICK_JAVA = {"JDK_JAVA_OPTIONS": "-XX:TieredStopAtLevel=1"}

#: The marks of a module whose tests start Spark.
STARTS_SPARK = [
    pytest.mark.spark,
    pytest.mark.filterwarnings("ignore:PySpark does not yet fully support pandas:FutureWarning"),
    pytest.mark.skipif(not (shutil.which("java") or os.environ.get("JAVA_HOME")), reason="Java is not installed"),
]


@contextmanager
def session_of(url: str) -> Iterator[Any]:
    """A session with few partitions, which every Spark(url) in the block uses."""
    os.environ |= QUICK_JAVA
    session = Spark(url)._session
    session.conf.set("spark.sql.shuffle.partitions", "2")
    try:
        yield session
    finally:
        session.stop()


def executors(of: psutil.Process) -> list[psutil.Process]:
    """The executors that a process or its children have started."""
    return [
        process
        for process in of.children(recursive=True)
        if process.status() != psutil.STATUS_ZOMBIE
        and "org.apache.spark.executor.CoarseGrainedExecutorBackend" in process.cmdline()
    ]
