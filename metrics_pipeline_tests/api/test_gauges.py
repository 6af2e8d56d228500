"""/metrics for a monitoring system: what is missing and dirty, read as OpenMetrics."""

import re
import shutil
import subprocess
from datetime import timedelta
from pathlib import Path

import pytest
import yaml
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from metrics_pipeline import __version__
from metrics_pipeline.metrics.catalog import DEFINITION_VERSION
from metrics_pipeline.metrics.windows import day_window
from metrics_pipeline.postgres.database import Database
from metrics_pipeline_tests.days import DAY, NOON, Log, aggregate, execute, judged, store_agents, store_logs
from metrics_pipeline_tests.processes import wait_until

from .alerts import store_alerts
from .serving import Serve
from .webserver import Webserver, graphql_run


def gauges(text: str) -> dict[str, float]:
    """Each sample's value by its name without our prefix, and its labels' values, without what the server counts."""
    return {
        " ".join([sample.name.removeprefix("metrics_pipeline_"), *sample.labels.values()]): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if not sample.name.startswith(("process_", "metrics_pipeline_http", "metrics_pipeline_build"))
    }


def test_days_logs_and_runs_are_told_as_openmetrics(serve: Serve, database: Database, webserver: Webserver) -> None:
    ended = graphql_run("r", "SUCCESS", partition="2025-03-04") | {"endTime": 1741160005.0}
    elsewhere = graphql_run("x", "FAILURE") | {"repositoryOrigin": {"repositoryLocationName": "x"}}
    for alias, runs in {
        "newest": [ended],
        "ended": [ended | {"status": "FAILURE"}],
        "retention": [ended | {"endTime": 1741160009.0}],
        "active": [graphql_run("q", "QUEUED"), graphql_run("s", "STARTED"), graphql_run("c", "CANCELING")],
        "failed": [graphql_run("f", "FAILURE"), elsewhere],
    }.items():
        webserver.answers[alias] = {"__typename": "Runs", "results": runs}
    daemons = [("SCHEDULER", True, 1741160000.5), ("SENSOR", True, None), ("ASSET", False, None)]
    webserver.answers["instance"]["daemonHealth"]["allDaemonStatuses"] = [
        {"daemonType": kind, "required": required, "lastHeartbeatTime": at} for kind, required, at in daemons
    ]
    api = serve(lookback_days=4, dagster_webserver_url=webserver.url)
    store_agents(database, {"a": "active"})
    store_logs(database, [Log(agent, timestamp=NOON - timedelta(days=days)) for agent in "abb" for days in (0, 1)])
    for days in (0, 1, 2):
        aggregate(database, day_window(DAY - timedelta(days=days), "UTC"))
    store_logs(database, [Log("a")])
    # The first of these is older than 30 days.
    store_logs(database, [Log("a", timestamp=NOON - timedelta(days=days)) for days in (30, 29)])
    execute(
        database,
        "UPDATE metric_day_ledger SET snapshot_at = aggregated_at - interval '2.5 s' WHERE metric_date = '2025-03-04'",
    )
    judged(database, *(DAY - timedelta(days=days) for days in (3, 2, 1, 0)))
    # The logs are counted in the background.
    wait_until(lambda: "logs_held_back" in gauges(api.get("/metrics").text))
    response = api.get("/metrics")
    assert response.headers["Content-Type"] == "application/openmetrics-text; version=1.0.0; charset=utf-8"
    found = gauges(response.text)
    assert 0 <= found.pop("judged_age_seconds") <= found.pop("verified_age_seconds")
    assert found == {
        "newest_day_end_timestamp_seconds": (NOON + timedelta(hours=12)).timestamp(),
        "newest_day_aggregation_seconds": 2.5,
        "day_states aggregated": 1,
        "day_states no_activity": 1,
        "day_states missing": 1,
        "day_states dirty": 1,
        "day_states damaged": 0,
        "day_states shrunk": 0,
        "day_states unreadable": 0,
        "day_states sealed": 0,
        "day_states expired": 0,
        "day_states other_zone": 0,
        "not_compared": 0,
        "skipped_logs": 4,
        "logs_held_back": 1,
        "dagster_up": 1,
        "run_duration_seconds": 3.5,
        "run_end_timestamp_seconds": 1741160005,
        "last_run_failed": 1,
        "retention_end_timestamp_seconds": 1741160009,
        "runs queued": 1,
        "runs running": 2,
        "runs failed": 1,
        "daemon_heartbeat_timestamp_seconds SCHEDULER": 1741160000.5,
        "daemon_heartbeat_timestamp_seconds SENSOR": 0,
        "newest_day_agents": 1,
        "newest_day_executions": 1,
        "newest_day_failed_executions": 0,
        "newest_day_tokens": 0,
        "newest_day_cost_usd": 0,
        "gaps": 0,
        **dict.fromkeys((name for name in found if name.startswith("open_alerts ")), 0),
    }
    # What a run has stored shows at once, and so does a day whose logs were not looked at since.
    aggregate(database)
    assert gauges(api.get("/metrics").text)["day_states dirty"] == 0
    execute(database, "DELETE FROM metric_day_ledger WHERE metric_date = '2025-03-04'")
    later = gauges(api.get("/metrics").text)
    assert (later["day_states missing"], later["not_compared"]) == (2, 1)
    assert later["newest_day_end_timestamp_seconds"] == (NOON - timedelta(hours=12)).timestamp()


def test_agents_are_told_only_if_asked_for_and_no_more_than_asked_for(serve: Serve, database: Database) -> None:
    store_agents(database, {"a": "active", "b": "active"})
    store_logs(database, [Log("a", "failed", 1500, 7, "0.25"), Log("a"), Log("b")])
    for days in (0, 3):
        aggregate(database, day_window(DAY - timedelta(days=days), "UTC"))
    api = serve(dagster_webserver_url="http://127.0.0.1:9")
    assert not [name for name in gauges(api.get("/metrics").text) if name.startswith("agent_")]
    found = gauges(api.get("/metrics?agents=1").text)
    assert {name: value for name, value in found.items() if name.startswith("agent_")} == {
        "agent_executions a": 2,
        "agent_success_ratio a": 0.5,
        "agent_cost_usd a": 0.25,
        "agent_latency_seconds a 50": 1.5,
        "agent_latency_seconds a 95": 1.5,
        "agent_latency_seconds a 99": 1.5,
    }
    # What is not logged is not a gauge, because 0 would be free, or fast. What was measured stays one.
    execute(database, "ALTER TABLE agent_execution_logs DROP cost_usd, DROP token_count, DROP latency_ms")
    assert found.keys() <= gauges(api.get("/metrics?agents=1").text).keys()
    aggregate(database, accept_deleted=True)
    unlogged = gauges(api.get("/metrics?agents=1").text)
    assert found.keys() - unlogged.keys() == {
        "agent_cost_usd a", "newest_day_cost_usd", "newest_day_tokens",
        "agent_latency_seconds a 50", "agent_latency_seconds a 95", "agent_latency_seconds a 99",
    }  # fmt: skip
    # 2 and 3 March.
    assert (found["gaps"], found["oldest_gap_timestamp_seconds"]) == (
        2, (NOON - timedelta(days=2, hours=12)).timestamp())  # fmt: skip
    assert api.get("/metrics?agents=1001").status_code == 422


def test_open_alerts_are_counted_by_rule_and_one_that_ended_is_zero(serve: Serve, database: Database) -> None:
    store_alerts(database)
    found = gauges(serve(dagster_webserver_url="http://127.0.0.1:9").get("/metrics").text)
    counts = {name: value for name, value in found.items() if name.startswith("open_alerts")}
    # A rule that is on and never had an alert is told too, and one that is off is not.
    assert (counts["open_alerts silence critical"], "open_alerts threshold_success_rate warning" in counts) == (
        0,
        False,
    )
    of = ("unusual_success_rate", "budget", "day_missing")
    assert {name: value for name, value in counts.items() if name.split()[1] in of} == {
        "open_alerts unusual_success_rate critical": 1,
        "open_alerts unusual_success_rate warning": 0,
        "open_alerts budget critical": 0,
        "open_alerts budget warning": 1,
        "open_alerts day_missing critical": 0,
        "open_alerts day_missing warning": 0,
    }


def test_the_server_counts_its_requests_by_route_and_names_its_version(serve: Serve) -> None:
    api = serve(dagster_webserver_url="http://127.0.0.1:9")
    for path in ("/healthz", "/healthz", "/api/v1/metrics/unknown", "/nowhere", "/api/v1/agents?x=1"):
        api.get(path)
    api.request("INVENTED", "/healthz")
    text = api.get("/metrics").text
    requests = {
        tuple(sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == "metrics_pipeline_http_requests_total"
    }
    assert requests == {
        ("GET", "/healthz", "200"): 2,
        ("GET", "/api/v1/metrics/{agent_id:path}", "404"): 1,
        ("GET", "other", "404"): 1,
        ("GET", "/api/v1/agents", "422"): 1,
        ("other", "/healthz", "405"): 1,
    }
    assert (
        f'metrics_pipeline_build_info{{definition_version="{DEFINITION_VERSION}",version="{__version__}"}} 1.0' in text
    )
    assert 'metrics_pipeline_http_request_duration_seconds_count{route="/healthz"} 3.0' in text


ALERTS = Path(__file__).parents[2] / "docs" / "examples" / "prometheus"


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool (Debian's package prometheus) is not installed")
def test_promtool_accepts_every_gauge_and_the_example_alerts_fire_when_they_should(
    serve: Serve, database: Database, webserver: Webserver
) -> None:
    store_agents(database, {"a": "active"})
    store_alerts(database, "a")
    store_logs(database, [Log("a", "failed", 1500)])
    for days in (0, 3):
        aggregate(database, day_window(DAY - timedelta(days=days), "UTC"))
    ended = graphql_run("r", "SUCCESS") | {"endTime": 1741160005.0}
    webserver.answers["runsOrError"]["results"] = [ended]
    webserver.answers["instance"]["daemonHealth"]["allDaemonStatuses"] = [
        {"daemonType": "SCHEDULER", "required": True, "lastHeartbeatTime": 1741160000.5}
    ]
    api = serve(dagster_webserver_url=webserver.url)
    api.get("/api/v1/agents")
    # promtool reads the older format only.
    answer = api.get("/metrics?agents=5", headers={"Accept": "text/plain"})
    assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    text = api.get("/metrics?agents=5").text
    for arguments, given in (
        (["check", "metrics"], answer.text),
        (["check", "rules", ALERTS / "alerts.yml"], ""),
        (["test", "rules", ALERTS / "alerts_test.yml"], ""),
    ):
        done = subprocess.run(["promtool", *arguments], input=given, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    told = {sample.name for family in text_string_to_metric_families(text) for sample in family.samples}
    rules = yaml.safe_load((ALERTS / "alerts.yml").read_text())["groups"][0]["rules"]
    named = set(re.findall(r"\bmetrics_pipeline_\w+", " ".join(rule["expr"] for rule in rules)))
    assert named <= told


def test_a_lock_on_the_logs_costs_only_the_gauge_that_counts_them(serve: Serve, database: Database) -> None:
    api = serve(lookback_days=2)
    with database.begin() as holder:
        holder.exec_driver_sql("LOCK TABLE agent_execution_logs")
        found = gauges(api.get("/metrics").text)
        assert (found["day_states missing"], found["not_compared"]) == (2, 2)
        assert "logs_held_back" not in found
        assert [day["state"] for day in api.get("/api/v1/coverage").json()] == ["missing"] * 2


def test_an_empty_database_and_an_absent_dagster_leave_out_what_nobody_knows(serve: Serve) -> None:
    found = gauges(serve(lookback_days=2, dagster_webserver_url="http://127.0.0.1:9").get("/metrics").text)
    assert (found["day_states missing"], found["skipped_logs"], found["dagster_up"]) == (2, 0, 0)
    assert not [name for name in found if name.startswith(("newest", "run"))]
