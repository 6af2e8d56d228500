"""What the logs of a day did not have is null in every answer: a cost of 0 would be free. Other days keep theirs."""

import json
from datetime import timedelta
from decimal import Decimal
from typing import Any

import httpx2
import pytest

from metrics_pipeline.metrics.windows import day_window
from metrics_pipeline.postgres.database import Database
from metrics_pipeline_tests.days import DAY, NOON, Log, aggregate, execute, query, store_agents, store_logs

from .serving import Serve

BEFORE = DAY - timedelta(days=1)
COSTS = {str(BEFORE): Decimal("0.250000000"), str(DAY): None}
WINDOW = f"start_date={BEFORE}&end_date={DAY}"
#: A day of three executions of which nothing is known, beside one of one execution.
INSERT = f"""
INSERT INTO agent_execution_logs (agent_id, status, token_count, timestamp)
SELECT 'a', 'success', 0, '{NOON}' FROM generate_series(1, 3)"""


@pytest.fixture
def api(database: Database, serve: Serve) -> httpx2.Client:
    """A day with costs, latencies, users and help, and one whose logs have none of these columns."""
    store_agents(database, {"a": "active"})
    known = Log(
        latency_ms=100,
        token_count=0,
        cost_usd="0.25",
        metadata='{"user_id": "u", "human_intervention": "false"}',
        timestamp=NOON - timedelta(days=1),
    )
    store_logs(database, [known])
    aggregate(database, day_window(BEFORE, "UTC"))
    execute(database, "ALTER TABLE agent_execution_logs DROP cost_usd, DROP latency_ms, DROP metadata", INSERT)
    for _ in range(2):
        aggregate(database)
    return serve()


def get(api: httpx2.Client, path: str) -> Any:
    return json.loads(api.get(f"/api/v1/{path}").text, parse_float=Decimal)


def test_every_answer_tells_an_unknown_cost_from_a_measured_one_and_from_a_true_zero(api: httpx2.Client) -> None:
    changed = [row for day in get(api, "changes")["days"] for row in day["rows"]]
    for rows in (get(api, f"metrics/a?{WINDOW}"), get(api, f"activity?group_by=day&{WINDOW}"), changed):
        assert {row["metric_date"]: row["total_cost_usd"] for row in rows} == COSTS
        assert {row["total_tokens"] for row in rows} == {0}
    (row,) = get(api, "metrics?sort=-total_cost_usd")
    (activity,) = get(api, f"activity?start_date={DAY}&sort=-total_cost_usd&compare=previous")
    for figures in (row, activity):
        unknown = ("total_cost_usd", "avg_cost_per_execution", "unique_users", "human_interventions", "p95_latency_ms")
        assert {figures[name] for name in unknown} == {None}
    assert activity["previous"]["total_cost_usd"] == Decimal("0.25")
    assert (activity["change"]["total_cost_usd"], activity["change"]["total_executions"]) == (None, 2)
    assert (activity["cost_per_unassisted_success"], activity["is_comparable"]) == (None, False)
    summary = get(api, "metrics/a/summary?days=1")
    assert (summary["total_cost"], summary["cost_per_execution"], summary["total_tokens"]) == (None, None, 0)
    assert {summary[name] for name in ("avg_latency", "latency_ms", "human_intervention_rate", "unique_users")} == {
        None
    }
    assert (summary["previous"]["total_cost"], summary["change"]["total_cost"]) == (Decimal("0.25"), None)
    assert api.get("/api/v1/metrics?format=csv").text.splitlines()[1].split(",")[10:13] == ["0", "", ""]


def test_the_figures_of_a_window_are_those_of_the_days_that_have_the_column(api: httpx2.Client) -> None:
    without = {"latency_ms": 1, "cost_usd": 1, "user_id": 1, "human_intervention": 1}
    (total,) = get(api, f"activity?{WINDOW}")
    # One execution cost 0.25, and of three nobody knows.
    assert {name: total[name] for name in (
        "total_executions", "total_cost_usd", "avg_cost_per_execution", "cost_per_unassisted_success",
        "human_intervention_rate", "p95_latency_ms", "unique_users", "days_without_column",
    )} == {
        "total_executions": 4, "total_cost_usd": Decimal("0.25"), "avg_cost_per_execution": Decimal("0.25"),
        "cost_per_unassisted_success": Decimal("0.25"), "human_intervention_rate": 0, "p95_latency_ms": 100,
        "unique_users": 1, "days_without_column": without,
    }  # fmt: skip
    summary = get(api, "metrics/a/summary?days=2")
    assert (summary["avg_latency"], summary["latency_ms"], summary["cost_per_execution"]) == (100, 100, Decimal("0.25"))
    assert (summary["human_intervention_rate"], summary["days_without_column"]) == (0, without)
    assert summary["previous"]["days_without_column"] == {}


def test_an_answer_that_a_client_holds_is_old_when_a_day_gets_the_column(
    api: httpx2.Client, database: Database
) -> None:
    paths = ["metrics/a", "metrics", "metrics/a/summary", f"activity?start_date={DAY}"]
    held = {path: api.get(f"/api/v1/{path}").headers["ETag"] for path in paths}
    info, cursor = get(api, "info"), get(api, "changes")["cursor"]
    execute(database, "ALTER TABLE agent_execution_logs ADD cost_usd numeric")
    # Until the day is aggregated again, nothing is known of it.
    assert get(api, "metrics")[0]["total_cost_usd"] is None
    rows = query(database, "SELECT xmin::text FROM agent_performance_metrics")
    aggregate(database)
    assert query(database, "SELECT xmin::text FROM agent_performance_metrics") == rows
    for path, tag in held.items():
        assert api.get(f"/api/v1/{path}", headers={"If-None-Match": tag}).status_code == 200, path
    assert get(api, "metrics")[0]["total_cost_usd"] == 0
    (activity,) = get(api, f"activity?start_date={DAY}")
    # What a success without help costs is not known if nobody knows who had help.
    assert (activity["total_cost_usd"], activity["cost_per_unassisted_success"]) == (0, None)
    assert get(api, "info")["stored_version"] != info["stored_version"]
    (changed,) = get(api, f"changes?updated_since={cursor}")["days"]
    assert (changed["metric_date"], changed["rows"][0]["total_cost_usd"]) == (str(DAY), 0)
