"""The server between programs that others wrote: behind nginx, and scraped by Prometheus, each as its own process."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import httpx2
import pytest

from metrics_pipeline.postgres.database import Database
from metrics_pipeline_tests.cli.ui import free_port
from metrics_pipeline_tests.days import Log, aggregate, store_agents, store_logs
from metrics_pipeline_tests.processes import HANGING_SECONDS, wait_until

from .alerts import store_alerts
from .serving import Serve
from .test_access import READ, TOKENS, TRIGGER, bearer
from .test_gauges import ALERTS
from .webserver import Webserver

#: As it comes with Debian: it also compresses what the server has not.
NGINX = """
daemon off; pid {folder}/pid; error_log stderr;
events {{}}
http {{
  access_log off;
  client_body_temp_path {folder}/b; proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f;
  uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  gzip on; gzip_proxied any; gzip_types application/json; gzip_min_length 1;
  map $request_uri $without_prefix {{ ~^/team(?<sent>/.*)$ $sent; }}
  server {{
    listen 127.0.0.1:{port};
    location /team/ {{
      proxy_pass http://127.0.0.1:{behind}$without_prefix;
      proxy_set_header Host $host;
      proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
      proxy_set_header X-Forwarded-Proto https;
    }}
  }}
}}
"""


@contextmanager
def running(*command: str | Path) -> Iterator[None]:
    process = subprocess.Popen([*map(str, command)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        process.wait(HANGING_SECONDS)


def asked(client: httpx2.Client, path: str) -> Any:
    """The answer, or None while nobody listens or the program is not ready."""
    try:
        answer = client.get(path)
    except httpx2.TransportError:
        return None
    return answer.json() if answer.is_success else None


@pytest.mark.skipif(shutil.which("nginx") is None, reason="nginx is not installed")
def test_behind_nginx_with_a_path_prefix_links_tags_and_clients_are_right(
    serve: Serve, database: Database, webserver: Webserver, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "metrics_pipeline.access")
    store_agents(database, {"a": "active", "x/summary": "active"})
    store_logs(database, [Log("a")])
    aggregate(database)
    behind = serve(
        api_tokens=TOKENS, dagster_webserver_url=webserver.url, root_path="/team", trusted_proxies=["127.0.0.1"]
    )
    port = free_port()
    configuration = NGINX.format(folder=tmp_path, port=port, behind=behind.base_url.port)
    (tmp_path / "nginx.conf").write_text(configuration)
    headers = bearer(TRIGGER) | {"X-Forwarded-For": "198.51.100.7", "Accept-Encoding": "gzip"}
    client = httpx2.Client(
        base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=HANGING_SECONDS, trust_env=False
    )
    with client, running("nginx", "-c", tmp_path / "nginx.conf", "-p", tmp_path):
        wait_until(lambda: asked(client, "/team/healthz"))
        assert client.get("/team/api/v1/metrics/x%2Fsummary").json()[0]["agent_id"] == "x/summary"
        path = "/team/api/v1/metrics?limit=1"
        first = client.get(path)
        assert first.headers["Content-Encoding"] == "gzip"
        second = client.get(urljoin(path, first.links["next"]["url"]))
        assert [row["agent_id"] for row in first.json() + second.json()] == ["a", "x/summary"]
        assert client.get(path, headers={"If-None-Match": first.headers["ETag"]}).status_code == 304
        started = client.post("/team/api/v1/metrics/aggregate/trigger")
        assert started.headers["Location"] == started.json()["status_url"]
        assert started.json()["status_url"].startswith("/team/api/v1/runs/")
        # The page's and the documentation's own addresses are relative.
        assert client.get("/team/").status_code == client.get("/team/docs/files/swagger-ui.css").status_code == 200
        assert client.get("/team/openapi.json").json()["servers"] == [{"url": "/team"}]
    lines = [vars(record) for record in caplog.records if record.name == "metrics_pipeline.access"]
    assert {line["client"] for line in lines} == {"198.51.100.7"}


@pytest.mark.skipif(shutil.which("prometheus") is None, reason="Prometheus is not installed")
def test_prometheus_scrapes_with_a_read_token_and_evaluates_the_example_alerts(
    serve: Serve, database: Database, tmp_path: Path
) -> None:
    store_agents(database, {"a": "active"})
    store_logs(database, [Log("a", "failed", 1500, cost_usd="0.25")])
    aggregate(database)
    store_alerts(database, "a")
    api = serve(api_tokens=TOKENS, dagster_webserver_url="http://127.0.0.1:9")
    scrape = {
        "job_name": "metrics_pipeline",
        "authorization": {"credentials": READ},
        "params": {"agents": ["5"]},
        "static_configs": [{"targets": [f"127.0.0.1:{api.base_url.port}"]}],
    }
    times = {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}
    configuration = {"global": times, "scrape_configs": [scrape], "rule_files": [str(ALERTS / "alerts.yml")]}
    (tmp_path / "prometheus.yml").write_text(json.dumps(configuration))
    address = f"127.0.0.1:{free_port()}"
    options = {
        "config.file": tmp_path / "prometheus.yml", "storage.tsdb.path": tmp_path, "web.listen-address": address
    }  # fmt: skip
    client = httpx2.Client(base_url=f"http://{address}/api/v1", timeout=HANGING_SECONDS, trust_env=False)

    def value(query: str) -> str | None:
        found = asked(client, f"/query?query={query}")
        result = found["data"]["result"] if found else []
        return result[0]["value"][1] if result else None

    with client, running("prometheus", *(f"--{name}={value}" for name, value in options.items())):
        wait_until(lambda: value("metrics_pipeline_agent_cost_usd") == "0.25")
        assert value("metrics_pipeline_newest_day_failed_executions") == "1"
        wait_until(lambda: value('ALERTS{alertname="AgentsUnusual",alertstate="firing",rule="unusual_success_rate"}'))
        (group,) = asked(client, "/rules")["data"]["groups"]
        assert {rule["health"] for rule in group["rules"]} == {"ok"}
