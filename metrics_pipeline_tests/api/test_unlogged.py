"""What the logs do not have is null in every answer: a cost of 0 would be free. What was measured before stays."""

import json
from datetime import timedelta
from decimal import Decimal
from typing import Any

import httpx2
import pytest

from metrics_pipeline.metrics.windows import day_window
from metrics_pipeline.postgres.database import Database
from metrics_pipeline_tests.days import DAY, NOON, Log, aggregate, execute, store_agents, store_logs

from .serving import Serve

BEFORE = DAY - timedelta(days=1)
COSTS = {str(BEFORE): Decimal("0.250000000"), str(DAY): None}


@pytest.fixture
def api(database: Database, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> httpx2.Client:
    """A day with costs and one of whose logs none is known, since the table has lost the column."""
    monkeypatch.setattr("metrics_pipeline.api.context._UNLOGGED_SECONDS", 0)
    store_agents(database, {"a": "active"})
    store_logs(database, [Log(cost_usd="0.25", token_count=0, timestamp=NOON - timedelta(days=1))])
    aggregate(database, day_window(BEFORE, "UTC"))
    execute(
        database,
        "ALTER TABLE agent_execution_logs DROP cost_usd",
        "INSERT INTO agent_execution_logs (agent_id, status, token_count, timestamp) "
        f"VALUES ('a', 'success', 0, '{NOON}')",
    )
    aggregate(database)
    return serve()


def get(api: httpx2.Client, path: str) -> Any:
    return json.loads(api.get(f"/api/v1/{path}").text, parse_float=Decimal)


def test_every_answer_tells_an_unknown_cost_from_a_measured_one_and_from_a_true_zero(api: httpx2.Client) -> None:
    window = f"start_date={BEFORE}&end_date={DAY}"
    changed = [row for day in get(api, "changes")["days"] for row in day["rows"]]
    for rows in (get(api, f"metrics/a?{window}"), get(api, f"activity?group_by=day&{window}"), changed):
        assert {row["metric_date"]: row["total_cost_usd"] for row in rows} == COSTS
        assert {row["total_tokens"] for row in rows} == {0}
    (total,) = get(api, f"activity?{window}")
    assert total["total_cost_usd"] == Decimal("0.25")
    (row,) = get(api, "metrics?sort=-total_cost_usd")
    (activity,) = get(api, f"activity?start_date={DAY}&sort=-total_cost_usd&compare=previous")
    for figures in (row, activity):
        assert (figures["total_cost_usd"], figures["avg_cost_per_execution"]) == (None, None)
    assert activity["previous"]["total_cost_usd"] == Decimal("0.25")
    assert (activity["change"]["total_cost_usd"], activity["change"]["total_executions"]) == (None, 0)
    assert activity["cost_per_unassisted_success"] is None
    summary = get(api, "metrics/a/summary?days=1")
    assert (summary["total_cost"], summary["cost_per_execution"], summary["total_tokens"]) == (None, None, 0)
    assert (summary["previous"]["total_cost"], summary["change"]["total_cost"]) == (Decimal("0.25"), None)
    assert api.get("/api/v1/metrics?format=csv").text.splitlines()[1].split(",")[10:13] == ["0", "", ""]


def test_an_answer_that_a_client_holds_is_old_when_the_logs_get_the_column(
    api: httpx2.Client, database: Database
) -> None:
    paths = ["metrics/a", "metrics", "metrics/a/summary", f"activity?start_date={DAY}"]
    held = {path: api.get(f"/api/v1/{path}").headers["ETag"] for path in paths}
    info, cursor = get(api, "info"), get(api, "changes")["cursor"]
    assert info["unlogged"] == ["total_cost_usd", "avg_cost_per_execution", "cost_per_unassisted_success"]
    execute(database, "ALTER TABLE agent_execution_logs ADD cost_usd numeric, DROP metadata")
    unknown = ["unique_users", "human_interventions", "human_intervention_rate", "cost_per_unassisted_success"]
    assert get(api, "info")["unlogged"] == unknown
    (activity,) = get(api, f"activity?start_date={BEFORE}&end_date={BEFORE}")
    # What a success without help costs is not known if nobody knows who had help.
    assert (activity["total_cost_usd"], activity["cost_per_unassisted_success"]) == (Decimal("0.25"), None)
    for path, tag in held.items():
        assert api.get(f"/api/v1/{path}", headers={"If-None-Match": tag}).status_code == 200, path
    assert get(api, "metrics")[0]["total_cost_usd"] == 0
    assert get(api, "info")["stored_version"] != info["stored_version"]
    assert api.get(f"/api/v1/changes?updated_since={cursor}").status_code == 410
