"""Tables of a lake that cannot be opened: what is tried again, and what someone has to correct."""

from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest

from metrics_pipeline.errors import ContractError, PermanentError, PipelineError, TransientError
from metrics_pipeline.logs.lake_logs import LakeLogs
from metrics_pipeline_tests.logs.lakes import iceberg_catalog


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
