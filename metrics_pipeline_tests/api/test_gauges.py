"""/metrics for a monitoring system: what is missing and dirty, read as OpenMetrics."""

from datetime import timedelta

from prometheus_client.openmetrics.parser import text_string_to_metric_families

from metrics_pipeline.metrics.windows import day_window
from metrics_pipeline.postgres.database import Database
from metrics_pipeline_tests.days import DAY, NOON, Log, aggregate, execute, judged, store_agents, store_logs
from metrics_pipeline_tests.processes import wait_until

from .serving import Serve
from .webserver import Webserver, graphql_run


def gauges(text: str) -> dict[str, float]:
    """Each sample's value by its name without our prefix, and its label's value."""
    return {
        " ".join([sample.name.removeprefix("metrics_pipeline_"), *sample.labels.values()]): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_days_logs_and_runs_are_told_as_openmetrics(serve: Serve, database: Database, webserver: Webserver) -> None:
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
    judged(database, *(DAY - timedelta(days=days) for days in (3, 2, 1, 0)))
    # The logs are counted in the background.
    wait_until(lambda: "logs_held_back" in gauges(api.get("/metrics").text))
    response = api.get("/metrics")
    assert response.headers["Content-Type"] == "application/openmetrics-text; version=1.0.0; charset=utf-8"
    found = gauges(response.text)
    assert 0 <= found.pop("days_judged_age_seconds") <= found.pop("days_verified_age_seconds")
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
        "days_not_compared": 0,
        "skipped_logs": 4,
        "logs_held_back": 1,
        "dagster_up": 1,
        "run_duration_seconds": 3.5,
        "run_end_timestamp_seconds": 1741160005,
    }
    # What a run has stored shows at once, and so does a day whose logs were not looked at since.
    aggregate(database)
    assert gauges(api.get("/metrics").text)["days dirty"] == 0
    execute(database, "DELETE FROM metric_day_ledger WHERE metric_date = '2025-03-04'")
    later = gauges(api.get("/metrics").text)
    assert (later["days missing"], later["days_not_compared"]) == (2, 1)
    assert later["newest_day_end_timestamp_seconds"] == (NOON - timedelta(hours=12)).timestamp()


def test_a_lock_on_the_logs_costs_only_the_gauge_that_counts_them(serve: Serve, database: Database) -> None:
    api = serve(lookback_days=2)
    with database.begin() as holder:
        holder.exec_driver_sql("LOCK TABLE agent_execution_logs")
        found = gauges(api.get("/metrics").text)
        assert (found["days missing"], found["days_not_compared"]) == (2, 2)
        assert "logs_held_back" not in found
        assert [day["state"] for day in api.get("/api/v1/coverage").json()] == ["missing"] * 2


def test_an_empty_database_and_an_absent_dagster_leave_out_what_nobody_knows(serve: Serve) -> None:
    found = gauges(serve(lookback_days=2, dagster_webserver_url="http://127.0.0.1:9").get("/metrics").text)
    assert (found["days missing"], found["skipped_logs"], found["dagster_up"]) == (2, 0, 0)
    assert not [name for name in found if name.startswith(("newest", "run"))]
