"""Alerts over HTTP: which, in which order, and with which evidence."""

import csv
import io
import json
from decimal import Decimal

import httpx2

from metrics_pipeline.postgres.database import Database
from metrics_pipeline_tests.days import Log, aggregate, execute, store_agents, store_logs

from .alerts import store_alerts


def store(database: Database) -> None:
    store_agents(database, {"it's": "active", "b": "active"})
    store_logs(database, [Log("it's"), Log("b")])
    aggregate(database)
    store_alerts(database, "it's")


def test_alerts_come_with_their_evidence_the_newest_first(stored: Database, api: httpx2.Client) -> None:
    answer = api.get("/api/v1/alerts")
    newest, older = json.loads(answer.text, parse_float=Decimal)
    details = newest.pop("details"), older.pop("details")
    assert details == ({}, {"projected_usd": "13", "projected_low": "12", "projected_high": "14"})
    assert newest == {
        "state": "open", "rule": "unusual_success_rate", "scope": "agent", "agent_id": "it's", "severity": "critical",
        "opened_on": "2025-03-04", "last_seen_on": "2025-03-04", "days": 2, "resolved_on": None, "withdrawn_at": None,
        "metric": "success_rate", "value": Decimal("0.5"), "usual_low": Decimal("0.9315"), "usual_high": Decimal(1),
        "executions": 60,
    }  # fmt: skip
    assert (older["scope"], older["agent_id"], older["opened_on"]) == ("fleet", None, "2025-03-03")
    assert '"value":12345678901.500000001,"usual_low":0,"usual_high":10.000000000' in answer.text
    text = api.get("/api/v1/alerts?decimals=string&severity=warning").text
    assert '"value":"12345678901.500000001"' in text
    table = list(csv.DictReader(io.StringIO(api.get("/api/v1/alerts?format=csv").text, newline="")))
    assert [row["value"] for row in table] == ["0.5", "12345678901.500000001"]
    assert [*table[0]] == [*newest, "details"]


def test_filters_choose_by_state_agent_rule_severity_and_days(stored: Database, api: httpx2.Client) -> None:
    def found(parameters: str) -> list[tuple[str, str]]:
        rows = api.get(f"/api/v1/alerts?{parameters}").json()
        return [(row["state"], row["opened_on"]) for row in rows]

    critical, budget = ("open", "2025-03-04"), ("open", "2025-03-03")
    withdrawn, resolved = ("withdrawn", "2025-03-01"), ("resolved", "2025-02-01")
    assert found("state=all") == [critical, budget, withdrawn, resolved]
    assert found("state=withdrawn") == [withdrawn]
    assert found("state=resolved") == [resolved]
    assert found("state=all&agent_id=it%27s") == [critical, withdrawn]
    assert found("agent_id=b") == []
    assert found("rule=budget") == found("severity=warning") == found("end_date=2025-03-03") == [budget]
    # An open alert concerns every later day; a resolved one the days until it was resolved.
    assert found("state=all&start_date=2025-02-04") == [critical, budget, withdrawn]
    assert found("state=all&start_date=2025-02-03&end_date=2025-02-28") == [resolved]
    (row,) = api.get("/api/v1/alerts?state=withdrawn").json()
    assert (row["withdrawn_at"], row["value"], row["days"]) == ("2025-03-05T06:00:00+00:00", 0.5, None)
    assert api.get("/api/v1/alerts?agent_id=typo").status_code == 404
    execute(stored, "DELETE FROM agent_registry", "DELETE FROM agent_performance_metrics")
    assert found("state=withdrawn&agent_id=it%27s") == [withdrawn]
    for wrong in ("state=closed", "severity=bad", "start_date=2025-03-05&end_date=2025-03-04", "agents=b"):
        assert api.get(f"/api/v1/alerts?{wrong}").status_code == 422


def test_a_list_of_alerts_has_a_version(stored: Database, api: httpx2.Client) -> None:
    first = api.get("/api/v1/alerts?limit=1&state=all")
    assert first.headers["X-Total-Count"] == "4"
    assert api.head("/api/v1/alerts?limit=1&state=all").headers["ETag"] == first.headers["ETag"]
    held = {"If-None-Match": first.headers["ETag"]}
    assert api.get("/api/v1/alerts?limit=1&state=all", headers=held).status_code == 304
    following = "/api/v1/alerts" + first.links["next"]["url"]
    assert [row["rule"] for row in api.get(following).json()] == ["budget"]
    execute(stored, "UPDATE metric_alerts SET severity = 'critical' WHERE rule = 'budget'")
    assert api.get(following).status_code == 409
