"""A lake in S3-compatible storage: moto's server, as its own process."""

import os
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import httpx2
import polars as pl
import pytest
from pyarrow import fs

from metrics_pipeline.errors import TransientError
from metrics_pipeline.logs.lake_logs import KIND, LakeLogs
from metrics_pipeline.postgres.database import Database
from metrics_pipeline_tests.cli.ui import free_port
from metrics_pipeline_tests.days import DAY, WINDOW
from metrics_pipeline_tests.logs.lakes import frame, iceberg_catalog, write_parquet
from metrics_pipeline_tests.logs.test_lake import LOGS, NEXT_DAY
from metrics_pipeline_tests.processes import HANGING_SECONDS, wait_until

pytestmark = [
    pytest.mark.end_to_end,
    pytest.mark.skipif(shutil.which("moto_server") is None, reason="moto (of PyPI) is not installed"),
]
WINDOWS = [WINDOW, NEXT_DAY]


def is_listening(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[subprocess.Popen[bytes]]:
    """A server with the bucket `lake`, which the usual variables name."""
    port = free_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    process = subprocess.Popen(
        ["moto_server", "-H", "127.0.0.1", "-p", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        wait_until(lambda: is_listening(port))
        httpx2.put(f"http://127.0.0.1:{port}/lake").raise_for_status()
        yield process
    finally:
        process.kill()
        process.wait(HANGING_SECONDS)


def test_files_and_tables_of_an_object_store_are_read_like_those_of_a_disk(
    database: Database, tmp_path: Path, server: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("deltalake", reason="the extra [lake] is not installed")
    store = fs.S3FileSystem(endpoint_override=os.environ["AWS_ENDPOINT_URL"])
    local = write_parquet(tmp_path, LOGS)
    fs.copy_files(str(tmp_path), "lake/logs", destination_filesystem=store)
    typed = frame(LOGS).with_columns(pl.col("cost_usd").cast(pl.Decimal(20, 9)))
    typed.write_delta("s3://lake/delta")
    # Of moto's answers, pyarrow does not accept the one that ends an upload in parts.
    monkeypatch.setattr(fs, "S3FileSystem", partial(fs.S3FileSystem, allow_delayed_open=True))
    catalog = iceberg_catalog(tmp_path, monkeypatch, "s3://lake/iceberg")
    catalog.properties |= {"s3.endpoint": os.environ["AWS_ENDPOINT_URL"], "s3.region": os.environ["AWS_REGION"]}
    catalog.create_table("ops.logs", schema=typed.to_arrow().schema).append(typed.to_arrow())
    urls = ["parquet:s3://lake/logs/date={date}/*.parquet", "delta:s3://lake/delta", "iceberg:lake/ops.logs"]
    lakes = [LakeLogs(url, {}) for url in urls]
    with database.snapshot() as snapshot:
        expected = LakeLogs(local, {}).fingerprints(snapshot, WINDOWS, KIND)
        for lake in lakes:
            assert lake.fingerprints(snapshot, WINDOWS, KIND) == expected
            assert lake.first_log_at(snapshot) == WINDOW.start
        files = lakes[0]
        before = files.marks(snapshot, WINDOWS)
        frame(LOGS[:1]).write_parquet(f"s3://lake/logs/date={DAY}/late.parquet")
        assert [*files.unchanged(snapshot, WINDOWS, before, files.marks(snapshot, WINDOWS))] == [NEXT_DAY.metric_date]
        assert files.counts(snapshot, WINDOWS) == {DAY: 3, NEXT_DAY.metric_date: 1}
        # What a run tries again.
        server.kill()
        for lake in lakes:
            with pytest.raises(TransientError, match=f"{re.escape(lake.name)} could not be read"):
                lake.counts(snapshot, WINDOWS)
