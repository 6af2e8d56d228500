"""Tables of Delta Lake and Iceberg: rows that are marked as deleted, and tables that cannot be opened."""

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import polars as pl
import pytest

from metrics_pipeline.errors import ContractError, PermanentError, PipelineError, TransientError
from metrics_pipeline.logs.lake_logs import LakeLogs
from metrics_pipeline.metrics.verification import Unreadable
from metrics_pipeline.postgres.database import Database
from metrics_pipeline_tests.days import DAY, WINDOW
from metrics_pipeline_tests.logs.lakes import frame, iceberg_catalog
from metrics_pipeline_tests.logs.test_lake import LOGS, NEXT_DAY

# The first row, as Delta Lake writes it into its log: Z85 of a roaring bitmap.
FIRST_ROW = {
    "storageType": "i",
    "pathOrInlineDv": "^Bg9^0rr910000000000iXQKl0rr91000005c8Xg00000",
    "sizeInBytes": 34,
    "cardinality": 1,
}


def test_rows_that_delta_lake_marks_as_deleted_touch_their_day_although_its_file_stays(
    database: Database, tmp_path: Path
) -> None:
    pytest.importorskip("deltalake", reason="the extra [lake] is not installed")
    for logs in (LOGS[:2], LOGS[2:]):
        typed = frame(logs).with_columns(pl.col("cost_usd").cast(pl.Decimal(20, 9)))
        typed.write_delta(str(tmp_path), mode="append")
    log = tmp_path / "_delta_log"
    # No writer for Python marks rows as deleted.
    features = ["deletionVectors"]
    protocol = {"minReaderVersion": 3, "minWriterVersion": 7, "readerFeatures": features, "writerFeatures": features}
    (log / f"{2:020}.json").write_text(json.dumps({"protocol": protocol}))
    lake = LakeLogs(f"delta://{tmp_path}", {})
    windows = [WINDOW, NEXT_DAY]
    with database.snapshot() as snapshot:
        before = lake.marks(snapshot, windows)
        first = (log / f"{0:020}.json").read_text().splitlines()
        [added] = [json.loads(line)["add"] for line in first if '"add"' in line]
        removed = {"path": added["path"], "dataChange": True}
        actions = [{"remove": removed}, {"add": added | {"deletionVector": FIRST_ROW}}]
        (log / f"{3:020}.json").write_text("\n".join(map(json.dumps, actions)))
        assert lake.counts(snapshot, windows) == {DAY: 1, NEXT_DAY.metric_date: 1}
        assert [*lake.unchanged(snapshot, windows, before, lake.marks(snapshot, windows))] == [NEXT_DAY.metric_date]


def test_a_damaged_file_of_a_delta_table_makes_only_its_own_day_unreadable(database: Database, tmp_path: Path) -> None:
    pytest.importorskip("deltalake", reason="the extra [lake] is not installed")
    typed = frame(LOGS).with_columns(pl.col("cost_usd").cast(pl.Decimal(20, 9)))
    for day in (WINDOW, NEXT_DAY):
        of_day = typed.filter(pl.col("timestamp").is_between(day.start, day.end, closed="left"))
        of_day.write_delta(str(tmp_path), mode="append")
    lake = LakeLogs(f"delta://{tmp_path}", {})
    newest = max(tmp_path.glob("*.parquet"), key=lambda file: file.stat().st_mtime_ns)
    # Shorter than the table says: Polars panics.
    newest.write_bytes(b"PAR1")
    with database.snapshot() as snapshot:
        found = lake.fingerprints(snapshot, [WINDOW, NEXT_DAY], lake.fingerprint_kinds[0])
    assert [day for day, each in found.items() if isinstance(each, Unreadable)] == [NEXT_DAY.metric_date]


def test_a_delta_table_with_a_feature_that_cannot_be_read_says_so(tmp_path: Path) -> None:
    pytest.importorskip("deltalake", reason="the extra [lake] is not installed")
    frame(LOGS).write_delta(str(tmp_path))
    features = ["columnMapping"]
    protocol = {"minReaderVersion": 3, "minWriterVersion": 7, "readerFeatures": features, "writerFeatures": features}
    (tmp_path / "_delta_log" / f"{1:020}.json").write_text(json.dumps({"protocol": protocol}))
    with pytest.raises(PermanentError, match=r"cannot be read: .*\['columnMapping'\].*\. Have it written without"):
        LakeLogs(f"delta://{tmp_path}", {})


@pytest.fixture
def rest_catalog() -> Iterator[str]:
    """The URL of a catalog that refuses everything. The first part of a path is the status of the answer."""

    class Refusing(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(int(self.path.split("/")[1]))
            self.end_headers()
            self.wfile.write(b'{"error": {"message": "refused", "type": "Refusal", "code": 0}}')

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Refusing) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_table_that_does_not_exist_breaks_the_contract(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("deltalake", reason="the extra [lake] is not installed")
    iceberg_catalog(tmp_path, monkeypatch)
    with pytest.raises(ContractError, match=r"The catalog lake has no table ops\.logs, which METRICS_LOGS_URL names"):
        LakeLogs("iceberg:lake/ops.logs", {})
    for folder in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(ContractError, match=f"{folder} is not a Delta table, although METRICS_LOGS_URL names it"):
            LakeLogs(f"delta://{folder}", {})


@pytest.mark.parametrize(
    ("status", "error"), [(503, TransientError), (500, TransientError), (429, TransientError), (403, PermanentError)]
)
def test_a_catalog_that_is_down_is_asked_again_but_not_one_that_refuses_us(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rest_catalog: str, status: int, error: type[PipelineError]
) -> None:
    monkeypatch.setenv("PYICEBERG_CATALOG__REST__URI", f"{rest_catalog}/{status}")
    iceberg_catalog(tmp_path, monkeypatch)
    with pytest.raises(error, match=r"The catalog rest .*refused"):
        LakeLogs("iceberg:rest/ops.logs", {})


def test_a_catalog_in_a_database_that_cannot_be_opened_is_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    iceberg_catalog(tmp_path, monkeypatch)
    (tmp_path / "catalog.db").unlink()
    (tmp_path / "catalog.db").mkdir()
    with pytest.raises(TransientError, match=r"The catalog lake could not be read\. Check that it runs"):
        LakeLogs("iceberg:lake/ops.logs", {})
