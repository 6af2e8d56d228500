"""`api`: the server as a process, its log, and the addresses that it refuses."""

import json
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import httpx2
import pytest

from metrics_pipeline.cli import main
from metrics_pipeline_tests.processes import HANGING_SECONDS, Start, wait_until

from .ui import free_port

TOKEN = "t0k3n" * 8


@pytest.mark.end_to_end
def test_the_server_answers_logs_json_without_tokens_and_ends_with_ctrl_c(start: Start, database_url: str) -> None:
    port = free_port()
    process = start("api", "--port", port, METRICS_API_DATABASE_URL=database_url, METRICS_API_TOKENS=f"me:read:{TOKEN}")
    url = f"http://127.0.0.1:{port}"

    def serves() -> bool:
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
        with suppress(httpx2.HTTPError):
            return httpx2.get(f"{url}/readyz", trust_env=False).json()["status"] == "ready"
        return False

    wait_until(serves)
    with httpx2.Client(base_url=url, headers={"Authorization": f"Bearer {TOKEN}"}, trust_env=False) as client:
        assert client.get("/api/v1/agents", headers={"X-Request-ID": "mine"}).json() == []
        assert client.get(f"/api/v1/agents?token={TOKEN}").status_code == 422
        assert "Server" not in client.get("/healthz").headers
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=HANGING_SECONDS)
    assert process.returncode == 0
    assert stderr == f"Page: {url}   API: {url}/docs   (Ctrl-C stops them)\n"
    lines = [json.loads(line) for line in stdout.splitlines()]
    (mine,) = [line for line in lines if line.get("request_id") == "mine"]
    assert mine.pop("duration_ms") > 0
    assert mine.pop("time").endswith("+00:00")
    assert mine == {
        "level": "INFO",
        "logger": "metrics_pipeline.access",
        "message": "request",
        "request_id": "mine",
        "method": "GET",
        "path": "/api/v1/agents",
        "status": 200,
        "client": "127.0.0.1",
        "token": "me",
    }
    assert TOKEN not in stdout + stderr


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Callable[..., str]:
    """Runs a command that ends with exit code 1 and starts nothing, and returns what it says."""

    def run(*arguments: object, **environment: str) -> str:
        home = tmp_path / "home"
        monkeypatch.setattr(sys, "argv", ["metrics-pipeline", "api", *map(str, arguments)])
        for name, value in {"METRICS_PIPELINE_HOME": str(home), **environment}.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        assert (ended.value.code, printed.out, home.exists()) == (1, "", False)
        assert TOKEN not in printed.err
        return printed.err

    return run


def test_without_tokens_it_listens_on_a_loopback_address_only(refused: Callable[..., str]) -> None:
    for host in ["0.0.0.0", "::", "metrics.example", "10.1.2.3", "localhost.example"]:
        said = refused("--host", host)
        assert said.startswith("Error: Without METRICS_API_TOKENS the API listens on a loopback address only")
        assert f"--host is {host}." in said


def test_a_wrong_variable_is_named_and_its_secret_is_not(refused: Callable[..., str]) -> None:
    assert refused(METRICS_API_TOKENS=f"me:write:{TOKEN}").startswith(
        "Error: METRICS_API_TOKENS cannot be read in entry 1"
    )
    assert refused(
        METRICS_API_TOKENS=f"me:read:{TOKEN}", METRICS_API_DATABASE_URL=f"mysql://me:{TOKEN}@db/x"
    ).startswith("Error: METRICS_API_DATABASE_URL is not a PostgreSQL URL that libpq can use.")
