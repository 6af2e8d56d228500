"""Slow answers keep to their bulkhead: they delay nothing else, wait for a bounded time, and end with their client."""

import socket
import time
from typing import Any

import httpx2
import pytest

from metrics_pipeline.postgres.database import Database
from metrics_pipeline_tests.days import aggregate, query, store_agents
from metrics_pipeline_tests.processes import HANGING_SECONDS, wait_until

from .serving import Serve

SLOW = "/api/v1/latencies?agent_id=a"
FAST = ["/api/v1/metrics/a", "/api/v1/metrics", "/api/v1/agents", "/readyz", "/metrics"]
WAITING = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"


def abandonable(api: httpx2.Client, path: str) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", api.base_url.port), timeout=HANGING_SECONDS)
    connection.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    return connection


def test_slow_answers_delay_no_other_and_their_statements_end_with_their_clients(
    database: Database, api: httpx2.Client, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "metrics_pipeline")
    store_agents(database, {"a": "active"})
    aggregate(database)
    with database.begin() as holder:
        holder.exec_driver_sql("LOCK TABLE agent_day_distributions")
        clients = [abandonable(api, SLOW) for _ in range(45)]
        wait_until(lambda: query(database, WAITING) == [(2,)])
        started = time.monotonic()
        for path in FAST:
            assert api.get(path).status_code == 200
        # With 45 slow clients, also the threads of the fast answers would be waited for.
        assert time.monotonic() - started < 5
        assert query(database, WAITING) == [(2,)]
        for client in clients:
            client.close()
        # The statements end, although the lock is still held: those of the waiting clients too, one after the other.
        wait_until(lambda: len(slow_statuses(caplog)) == 45)
        assert set(slow_statuses(caplog)) == {0}
        assert query(database, WAITING) == [(0,)]
    assert api.get(SLOW).status_code == 200
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def slow_statuses(caplog: pytest.LogCaptureFixture) -> list[int]:
    """As the access log has them; 0 if the client went away."""
    requests: list[dict[str, Any]] = [vars(record) for record in caplog.records if record.getMessage() == "request"]
    return [request["status"] for request in requests if request["path"] == "/api/v1/latencies"]


def test_a_slow_answer_that_waits_too_long_is_a_503_that_says_when_to_ask_again(
    database: Database, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("metrics_pipeline.api.slow_answers._WAIT_SECONDS", 0.1)
    store_agents(database, {"a": "active"})
    api = serve()
    with database.begin() as holder:
        holder.exec_driver_sql("LOCK TABLE agent_day_distributions")
        clients = [abandonable(api, SLOW) for _ in range(2)]
        wait_until(lambda: query(database, WAITING) == [(2,)])
        for path in [SLOW, "/api/v1/coverage", "/api/v1/changes"]:
            busy = api.get(path)
            assert (busy.status_code, busy.headers["Retry-After"]) == (503, "10")
            assert busy.json()["type"] == "urn:metrics-pipeline:problem:busy"
    for client in clients:
        assert client.recv(1000).startswith(b"HTTP/1.1 200")
        client.close()
    assert api.get("/api/v1/coverage").status_code == 200
