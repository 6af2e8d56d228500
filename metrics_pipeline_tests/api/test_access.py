"""Who may use the API, what the log says about it, and what an error says."""

import json
import logging
import os
import re
import signal
import uuid
from urllib.parse import urlsplit

import httpx2
import pytest
from sqlalchemy import text

from metrics_pipeline.postgres.database import Database
from metrics_pipeline.postgres.urls import DatabaseUrl
from metrics_pipeline.settings import Settings
from metrics_pipeline_tests.days import aggregate, execute, store_agents

from .serving import Serve

READ, TRIGGER = "r" * 40, "t" * 40
TOKENS = Settings.from_environment({"METRICS_API_TOKENS": f"grafana:read:{READ},ci:trigger:{TRIGGER}"}).api_tokens
POSTS = ["/api/v1/metrics/aggregate/trigger", "/api/v1/metrics/aggregate/backfill?start_date=2025-03-04"]
GETS = [
    "/api/v1/metrics", "/api/v1/metrics/a", "/api/v1/metrics/a/summary", "/api/v1/agents", "/api/v1/restatements",
    "/api/v1/coverage", "/api/v1/skipped", "/api/v1/activity", "/api/v1/latencies?agent_id=a", "/api/v1/changes",
    "/api/v1/alerts", "/api/v1/info", "/api/v1/runs/x", "/api/v1/backfills/x", "/metrics",
]  # fmt: skip
OPEN = ["/healthz", "/readyz", "/docs", "/docs/files/swagger-ui.css", "/openapi.json"]


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


@pytest.fixture
def guarded(serve: Serve) -> httpx2.Client:
    """A server with tokens, and no Dagster behind it."""
    return serve(api_tokens=TOKENS, dagster_webserver_url="http://127.0.0.1:9")


def test_every_endpoint_but_health_and_documentation_wants_a_token(guarded: httpx2.Client) -> None:
    unknown = [{}, bearer("x" * 40), bearer(READ[:-1]), bearer(f"{READ}r"), {"Authorization": f"Basic {READ}"}]
    for path in GETS + POSTS:
        method = "POST" if path in POSTS else "GET"
        for headers in unknown:
            response = guarded.request(method, path, headers=headers)
            assert response.status_code == 401
            assert response.headers["WWW-Authenticate"].startswith("Bearer")
            assert response.headers["Content-Type"] == "application/problem+json"
        assert guarded.request(method, path, headers=bearer(TRIGGER)).status_code in (200, 404, 503)
        assert guarded.get(f"{path}{'&' if '?' in path else '?'}access_token={READ}").status_code in (401, 405)
    for path in GETS:
        assert guarded.get(path, headers=bearer(READ)).status_code in (200, 404, 503)
    for path in OPEN:
        assert guarded.get(path).status_code == 200


def test_a_token_that_reads_starts_nothing(guarded: httpx2.Client) -> None:
    for path in POSTS:
        response = guarded.post(path, headers=bearer(READ))
        assert response.status_code == 403
        assert response.headers["WWW-Authenticate"] == 'Bearer error="insufficient_scope"'
        assert guarded.post(path, headers=bearer(TRIGGER)).status_code == 503


def test_a_role_that_may_select_from_twelve_tables_is_enough(
    serve: Serve, database: Database, database_url: str
) -> None:
    aggregate(database)
    role = f"reader_{uuid.uuid4().hex}"
    execute(
        database,
        f"CREATE ROLE {role} LOGIN",
        "GRANT SELECT ON agent_performance_metrics, agent_day_distributions, metric_day_ledger, "
        f"metric_day_verifications, metric_acknowledged_agents, metric_restatements, agent_dimension_metrics, "
        "metric_alerts, metric_alert_transitions, metrics_pipeline_alembic_version, agent_registry, "
        f"agent_execution_logs TO {role}",
    )
    try:
        reader = Database(DatabaseUrl.parse(urlsplit(database_url)._replace(netloc=f"{role}@").geturl()))
        api = serve(database=reader, dagster_webserver_url="http://127.0.0.1:9")
        assert reader.description.endswith(f"(user {role})")
        store_agents(database, {"a": "active"})
        for path in [path for path in GETS if "x" not in path] + OPEN:
            assert api.get(path).status_code == 200, path
        assert api.post(POSTS[0]).json()["type"] == "urn:metrics-pipeline:problem:dagster-unavailable"
    finally:
        execute(database, f"DROP OWNED BY {role}", f"DROP ROLE {role}")


def test_with_tokens_any_host_and_any_origin_is_served(guarded: httpx2.Client) -> None:
    headers = {**bearer(TRIGGER), "Host": "metrics.example", "Origin": "https://dashboard.example"}
    assert guarded.get("/api/v1/agents", headers=headers).status_code == 200
    assert guarded.post(POSTS[0], headers=headers).status_code == 503


def test_without_tokens_neither_another_host_s_name_nor_another_site_s_page_gets_in(serve: Serve) -> None:
    api = serve(dagster_webserver_url="http://127.0.0.1:9")
    port = api.base_url.port
    for host in [
        "evil.example",
        "evil.example:80",
        "127.0.0.1.evil.example",
        "10.0.0.1",
        "127.1.2.3",
        "0.0.0.0",
        "[",
        "",
    ]:
        for path in ["/healthz", "/docs", "/api/v1/agents"]:
            response = api.get(path, headers={"Host": host})
            assert (response.status_code, response.headers["Content-Type"]) == (400, "application/problem+json")
            assert response.json()["request_id"] == response.headers["X-Request-ID"]
    for host in ["localhost", f"localhost:{port}", "127.0.0.1", "[::1]", "[::1]:8000"]:
        assert api.get("/api/v1/agents", headers={"Host": host}).status_code == 200
    for origin in ["https://evil.example", "null", "http://127.0.0.1:1", "http://localhost.evil.example"]:
        assert api.post(POSTS[0], headers={"Origin": origin}).status_code == 403
    assert api.post(POSTS[0], headers={"Origin": f"http://127.0.0.1:{port}"}).status_code == 503


def test_each_request_is_a_line_of_the_access_log_without_token_query_or_header(
    guarded: httpx2.Client, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    given = guarded.get(
        f"/api/v1/metrics/a%0Ab?start_date=2025-03-04&token={TRIGGER}",
        headers={**bearer(READ), "X-Request-ID": "abc-1.2_3"},
    )
    assert given.headers["X-Request-ID"] == "abc-1.2_3"
    made_up = guarded.get("/nowhere", headers={"X-Request-ID": "a b\t{}"})
    assert re.fullmatch(r"[0-9a-f-]{36}", made_up.headers["X-Request-ID"])
    first, second = (record for record in caplog.records if record.name == "metrics_pipeline.access")
    assert (first.request_id, first.method, first.path) == ("abc-1.2_3", "GET", "/api/v1/metrics/a\nb")
    assert (first.status, first.client, first.token) == (422, "127.0.0.1", "grafana")
    assert (second.status, second.token, second.request_id) == (404, None, made_up.headers["X-Request-ID"])
    ours = [vars(record) for record in caplog.records if record.name.startswith("metrics_pipeline")]
    everything = json.dumps(ours, default=repr)
    assert READ not in everything
    assert TRIGGER not in everything


def test_a_database_that_cannot_answer_is_a_500_that_names_no_server(
    serve: Serve, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    api = serve(api_tokens=TOKENS)
    execute(database, "ALTER TABLE agent_performance_metrics RENAME TO elsewhere")
    response = api.get("/api/v1/metrics/a", headers=bearer(READ))
    # Trying again does not help, so the answer does not ask for it.
    assert response.status_code == 500
    assert "Retry-After" not in response.headers
    problem = response.json()
    assert problem["type"] == "urn:metrics-pipeline:problem:database-refused"
    assert database.description not in response.text
    (line,) = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert "agent_performance_metrics" in line.getMessage()
    assert line.request_id == problem["request_id"]


def test_a_defect_is_a_problem_too_and_stands_in_the_log(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_arguments: object, **_named: object) -> None:
        raise ZeroDivisionError("a secret of ours")

    monkeypatch.setattr("metrics_pipeline.api.routes.metrics.agent_series", broken)
    response = serve().get("/api/v1/metrics/a")
    assert response.status_code == 500
    assert response.headers["Content-Type"] == "application/problem+json"
    assert response.headers["X-Request-ID"] == response.json()["request_id"]
    assert "secret" not in response.text
    (line,) = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert line.exc_info[0] is ZeroDivisionError
    assert line.request_id == response.json()["request_id"]


def test_paths_and_methods_that_do_not_exist_are_problems(serve: Serve) -> None:
    api = serve()
    assert api.get("/api/v1/nothing").json()["status"] == 404
    wrong = api.delete("/api/v1/metrics/a")
    assert (wrong.status_code, wrong.json()["title"], wrong.headers["Allow"]) == (405, "Method Not Allowed", "GET")


def test_ready_means_that_the_database_answers_with_this_version_s_schema(serve: Serve, database: Database) -> None:
    api = serve(api_tokens=TOKENS)
    assert api.get("/healthz").json() == {"status": "ok"}
    ready = {
        "status": "ready",
        "database": "ok",
        "schema_revision": "current",
        "daemon": "unknown",
        "newest_day": None,
        "coverage_age_days": None,
    }
    assert (api.get("/readyz").status_code, api.get("/readyz").json()) == (200, ready)
    execute(database, "INSERT INTO metric_day_ledger VALUES ('2025-03-01', 'UTC', now(), now(), 0, 0, 0, 0, '', '1', "
            "now(), now(), 'run')")  # fmt: skip
    assert api.get("/readyz").json() == {**ready, "newest_day": "2025-03-01", "coverage_age_days": 3}
    execute(database, "UPDATE metrics_pipeline_alembic_version SET version_num = 'newer'")
    response = api.get("/readyz")
    assert response.status_code == 503
    assert response.json() == {**ready, "status": "not ready", "schema_revision": "not current"}


def test_a_frozen_database_ends_every_request_in_bounded_time(
    serve: Serve, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (
        "api.context._STATEMENT_TIMEOUT_SECONDS",
        "api.context._MONITORING_SECONDS",
        "postgres.database._GRACE_SECONDS",
    ):
        monkeypatch.setattr(f"metrics_pipeline.{name}", 1)
    api = serve(api_tokens=TOKENS)
    paths = ["/readyz", "/api/v1/agents"]
    assert {api.get(path, headers=bearer(READ)).status_code for path in paths} == {200}
    # The pooled backends, frozen as by a host that is suspended: the kernel still takes what is sent to them.
    with database.connect() as connection:
        backends = connection.scalars(
            text("SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()")
        ).all()
    assert len(backends) == 2
    for pid in backends:
        os.kill(pid, signal.SIGSTOP)
    try:
        answers = {path: api.get(path, headers=bearer(READ)) for path in paths}
    finally:
        for pid in backends:
            os.kill(pid, signal.SIGCONT)
    # The pool finds the dead connection and opens another.
    assert {answer.status_code for answer in answers.values()} <= {200, 503}
    assert {api.get(path, headers=bearer(READ)).status_code for path in paths} == {200}


def test_a_database_that_is_away_makes_a_server_unready_and_nothing_else(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    api = serve(database=Database(DatabaseUrl.parse("postgresql://nobody@127.0.0.1:9/secret")))
    assert api.get("/healthz").status_code == 200
    response = api.get("/readyz")
    assert response.status_code == 503
    assert response.json() == {
        "status": "not ready",
        "database": "unavailable",
        "schema_revision": "unknown",
        "daemon": "unknown",
        "newest_day": None,
        "coverage_age_days": None,
    }
    assert any("database secret on 127.0.0.1:9" in record.getMessage() for record in caplog.records)
    assert api.get("/api/v1/agents").status_code == 503
