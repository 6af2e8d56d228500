"""What HTTP promises beyond GET: methods, compression, entity tags of proxies, path prefixes, repeated parameters."""

import gzip
from pathlib import Path

import httpx2
import pytest

from metrics_pipeline.errors import SettingsError
from metrics_pipeline.postgres.database import Database
from metrics_pipeline.settings import Settings
from metrics_pipeline_tests.days import Log, aggregate, execute, store_agents, store_logs

from .serving import Serve
from .webserver import Webserver

TRIGGER = "/api/v1/metrics/aggregate/trigger"


def test_head_is_get_without_a_body_and_options_names_the_methods(database: Database, api: httpx2.Client) -> None:
    store_agents(database, {f"agent-{n}": "active" for n in range(20)})
    aggregate(database)
    for path in ["/healthz", "/readyz", "/docs", "/api/v1/metrics", "/api/v1/metrics/agent-1", "/api/v1/agents"]:
        got, head = api.get(path), api.head(path)
        assert (head.status_code, head.content) == (200, b"")
        for header in ("Content-Type", "Content-Length", "Content-Encoding", "ETag"):
            assert head.headers.get(header) == got.headers.get(header)
        assert api.options(path).headers["Allow"] == "GET, HEAD, OPTIONS"
    assert api.head("/nowhere").status_code == 404
    nowhere = api.options("/nowhere")
    assert (nowhere.status_code, nowhere.json()["title"]) == (404, "Not Found")
    assert (api.options(TRIGGER).status_code, api.options(TRIGGER).headers["Allow"]) == (204, "OPTIONS, POST")
    refused = api.get(TRIGGER)
    assert (refused.status_code, refused.headers["Allow"]) == (405, "POST")
    assert refused.json()["title"] == "Method Not Allowed"


def test_long_answers_are_compressed_for_who_accepts_that(database: Database, api: httpx2.Client) -> None:
    store_agents(database, {f"agent-{n}": "active" for n in range(20)})
    aggregate(database)
    with api.stream("GET", "/api/v1/metrics", headers={"Accept-Encoding": "gzip"}) as answer:
        compressed = b"".join(answer.iter_raw())
    plain = api.get("/api/v1/metrics", headers={"Accept-Encoding": "identity"})
    assert answer.headers["Content-Encoding"] == "gzip"
    assert gzip.decompress(compressed) == plain.content
    assert len(compressed) < len(plain.content) / 5
    assert "Accept-Encoding" in answer.headers["Vary"]


def test_a_tag_is_known_again_after_a_compressing_proxy_and_on_several_lines(
    database: Database, api: httpx2.Client
) -> None:
    store_agents(database, {"a": "active"})
    aggregate(database)
    for path in ["/api/v1/metrics/a", "/api/v1/metrics", "/api/v1/metrics/a/summary", "/api/v1/agents"]:
        tag = api.get(path).headers["ETag"]
        for held in [tag.removesuffix('"') + '-gzip"', tag.removesuffix('"') + ';br"', "*"]:
            assert api.get(path, headers={"If-None-Match": held}).status_code == 304, held
        lines = [("If-None-Match", '"other"'), ("If-None-Match", tag)]
        assert api.get(path, headers=lines).status_code == 304
    assert api.get("/api/v1/metrics/unknown", headers={"If-None-Match": "*"}).status_code == 404


def test_no_part_of_a_request_is_ignored(serve: Serve, webserver: Webserver) -> None:
    api = serve(dagster_webserver_url=webserver.url)
    for accept, status in [("text/csv", 406), ("text/csv, */*;q=0.1", 404), ("text/html,application/json;q=0.9", 404)]:
        assert api.get("/api/v1/metrics/a/summary", headers={"Accept": accept}).status_code == status
    repeated = api.get("/api/v1/agents?limit=1&limit=2")
    assert (repeated.status_code, repeated.json()["errors"][0]["field"]) == (422, "limit")
    for body in ({"json": {"target_date": "2025-03-01"}}, {"content": iter([b"x"])}):
        refused = api.post(TRIGGER, **body)
        assert refused.status_code == 415
        assert "in the query" in refused.json()["detail"]
    assert webserver.asked == []
    unknown = api.get("/api/v1/restatements?agent_id=typo")
    assert (unknown.status_code, unknown.json()["type"]) == (404, "urn:metrics-pipeline:problem:unknown-agent")


def test_behind_a_path_prefix_every_route_and_address_works(
    database: Database, serve: Serve, webserver: Webserver
) -> None:
    store_agents(database, {"x/summary": "active"})
    aggregate(database)
    api = serve(dagster_webserver_url=webserver.url, root_path="/team")
    assert [row["agent_id"] for row in api.get("/api/v1/metrics/x%2Fsummary").json()] == ["x/summary"]
    assert api.get("/openapi.json").json()["servers"] == [{"url": "/team"}]
    started = api.post(TRIGGER)
    assert started.headers["Location"] == started.json()["status_url"]
    assert started.json()["status_url"].startswith("/team/api/v1/runs/")


def test_without_tokens_nothing_that_a_proxy_forwarded_is_answered(serve: Serve) -> None:
    api = serve()
    for header in ["X-Forwarded-For", "X-Forwarded-Proto", "Forwarded", "X-Real-IP", "Via"]:
        refused = api.get("/api/v1/agents", headers={header: "6.6.6.6"})
        assert refused.status_code == 403
        assert "METRICS_API_TOKENS" in refused.json()["detail"]
    with pytest.raises(SettingsError, match="METRICS_API_TOKENS is set but empty"):
        Settings.from_environment({"METRICS_API_TOKENS": "", "METRICS_PIPELINE_HOME": str(Path.home())})


def test_the_tag_of_a_day_that_is_aggregated_again_without_a_change_stays(
    database: Database, api: httpx2.Client
) -> None:
    store_agents(database, {"a": "active"})
    store_logs(database, [Log("a")])
    aggregate(database)
    paths = ["/api/v1/metrics/a", "/api/v1/metrics", "/api/v1/metrics/a/summary"]
    tags = [api.get(path).headers["ETag"] for path in paths]
    aggregate(database)
    assert [api.get(path).headers["ETag"] for path in paths] == tags
    execute(database, "UPDATE agent_performance_metrics SET total_tokens = total_tokens + 1")
    assert not {api.get(path).headers["ETag"] for path in paths} & set(tags)
