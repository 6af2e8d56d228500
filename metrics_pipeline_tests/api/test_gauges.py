"""/metrics for a monitoring system: what is missing and dirty, read as OpenMetrics."""

from datetime import timedelta

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from metrics_pipeline.metrics.windows import day_window
from metrics_pipeline.postgres.database import Database
from metrics_pipeline_tests.days import DAY, NOON, Log, aggregate, execute, store_agents, store_logs

from .serving import Serve
from .webserver import Webserver, graphql_run


def gauges(text: str) -> dict[str, float]:
    """Each sample's value by its name without our prefix, and its label's value."""
    return {
        " ".join([sample.name.removeprefix("metrics_pipeline_"), *sample.labels.values()]): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_days_logs_and_runs_are_told_as_openmetrics(
    serve: Serve, database: Database, webserver: Webserver, monkeypatch: pytest.MonkeyPatch
) -> None:
    webserver.answers["runsOrError"]["results"] = [
        graphql_run("r", "SUCCESS", partition="2025-03-04") | {"endTime": 1741160005.0}
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
    response = api.get("/metrics")
    assert response.headers["Content-Type"] == "application/openmetrics-text; version=1.0.0; charset=utf-8"
    found = gauges(response.text)
    assert found.pop("days_judged_age_seconds") >= 0
    assert found == {
        "newest_day_end_timestamp_seconds": (NOON + timedelta(hours=12)).timestamp(),
        "newest_day_aggregation_seconds": 2.5,
        "days aggregated": 1,
        "days no_activity": 1,
        "days missing": 1,
        "days dirty": 1,
        "days damaged": 0,
        "days shrunk": 0,
        "days unreadable": 0,
        "days sealed": 0,
        "days expired": 0,
        "days other_zone": 0,
        "skipped_logs": 4,
        "logs_held_back": 1,
        "dagster_up": 1,
        "run_duration_seconds": 3.5,
        "run_end_timestamp_seconds": 1741160005,
    }
    # The logs are read again after a quarter of an hour, the ledger every time.
    aggregate(database)
    execute(database, "DELETE FROM metric_day_ledger WHERE metric_date = '2025-03-04'")
    later = gauges(api.get("/metrics").text)
    assert (later["days dirty"], later["newest_day_end_timestamp_seconds"]) == (
        1,
        (NOON - timedelta(hours=12)).timestamp(),
    )
    monkeypatch.setattr("metrics_pipeline.api.gauges._JUDGED_FOR_SECONDS", 0)
    anew = gauges(api.get("/metrics").text)
    assert (anew["days dirty"], anew["days missing"]) == (0, 2)


def test_an_empty_database_and_an_absent_dagster_leave_out_what_nobody_knows(serve: Serve) -> None:
    found = gauges(serve(lookback_days=2, dagster_webserver_url="http://127.0.0.1:9").get("/metrics").text)
    assert (found["days missing"], found["skipped_logs"], found["dagster_up"]) == (2, 0, 0)
    assert not [name for name in found if name.startswith(("newest", "run"))]
