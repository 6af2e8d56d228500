"""Agents, restatements and the state of days over HTTP."""

import csv
import io
import json
from datetime import date, timedelta
from decimal import Decimal
from typing import Any

import httpx2
import pytest

from metrics_pipeline.metrics.reconciliation import DayVerdict
from metrics_pipeline.metrics.windows import day_window
from metrics_pipeline.pipeline.reconciling import judge_days
from metrics_pipeline.postgres.database import Database
from metrics_pipeline.store.publishing import Reason
from metrics_pipeline_tests.days import DAY, NOON, Log, aggregate, execute, judged, query, store_agents, store_logs
from metrics_pipeline_tests.test_exactness_properties import AWKWARD

from .serving import Serve


def test_agents_come_with_their_last_active_day_also_those_that_are_registered_no_more(
    database: Database, api: httpx2.Client
) -> None:
    store_agents(database, {"active": "active", "gone": "active", "idle": "active", "retired": "inactive"})
    store_logs(database, [Log("active"), Log("gone"), Log("active", timestamp=NOON - timedelta(days=1))])
    for days in (0, 1):
        aggregate(database, day_window(DAY - timedelta(days=days), "UTC"))
    execute(
        database,
        "DELETE FROM agent_registry WHERE id = 'gone'",
        "UPDATE agent_performance_metrics SET total_executions = 0 "
        "WHERE agent_id = 'active' AND metric_date = '2025-03-04'",
    )
    acknowledged = {"acknowledged_at": None, "acknowledged_reason": None}
    found = [
        {"agent_id": "active", "name": "name", "status": "active", "last_active_date": "2025-03-03", **acknowledged},
        {"agent_id": "gone", "name": None, "status": None, "last_active_date": "2025-03-04", **acknowledged},
        {"agent_id": "idle", "name": "name", "status": "active", "last_active_date": None, **acknowledged},
        {"agent_id": "retired", "name": "name", "status": "inactive", "last_active_date": None, **acknowledged},
    ]
    before = api.get("/api/v1/agents")
    assert before.json() == found
    # Also of agents that are registered no more, and a list that a client holds is old then.
    execute(
        database,
        "INSERT INTO metric_acknowledged_agents VALUES ('gone', 'why', '2025-03-04Z'), ('never seen', 'typo', now())",
    )
    found[1] |= {"acknowledged_at": "2025-03-04T00:00:00+00:00", "acknowledged_reason": "why"}
    assert api.get("/api/v1/agents", headers={"If-None-Match": before.headers["ETag"]}).json() == found
    page = api.get("/api/v1/agents?limit=2&offset=1&format=csv")
    assert page.text == (
        "agent_id,name,status,last_active_date,acknowledged_at,acknowledged_reason\r\n"
        "gone,,,2025-03-04,2025-03-04T00:00:00+00:00,why\r\nidle,name,active,,,\r\n"
    )
    assert set(page.links) == {"next", "prev"}
    assert page.links["next"]["url"].startswith("?limit=2&offset=3&format=csv&list_version=")
    assert page.headers["X-Total-Count"] == "4"
    assert set(api.get("/api/v1/agents?limit=4").links) == set()


def test_hostile_values_stay_values_in_every_format(database: Database, api: httpx2.Client) -> None:
    hostile = [*AWKWARD, '=cmd|"/c calc"!A1', "a,b", "line\r\nbreak", "\u2028", "</script>"]
    store_agents(database, dict.fromkeys(hostile, "active"))
    agents = [row["agent_id"] for row in api.get("/api/v1/agents").json()]
    assert sorted(agents) == sorted(set(hostile))
    lines = api.get("/api/v1/agents?format=ndjson").text.split("\n")
    assert [json.loads(line)["agent_id"] for line in lines[:-1]] == agents
    table = csv.DictReader(io.StringIO(api.get("/api/v1/agents?format=csv").text, newline=""))
    assert [row["agent_id"] for row in table] == agents


def test_restatements_hold_both_rows_with_every_digit_newest_first(database: Database, api: httpx2.Client) -> None:
    store_agents(database, {"a": "active", "b'": "active"})
    store_logs(database, [Log("a", cost_usd="0.1"), Log("b'", timestamp=NOON + timedelta(days=1))])
    tomorrow = day_window(DAY + timedelta(days=1), "UTC")
    for window in (day_window(DAY, "UTC"), tomorrow):
        aggregate(database, window, run_id="first")
    assert api.get("/api/v1/restatements").json() == []
    store_logs(
        database,
        [Log("a", latency_ms=7, cost_usd="90000000000.000000001"), Log("b'", timestamp=NOON + timedelta(days=1))],
    )
    aggregate(database, run_id="second", reason=Reason.LATE_LOGS)
    aggregate(database, tomorrow, run_id="third")

    newest, older = json.loads(api.get("/api/v1/restatements").text, parse_float=Decimal)
    assert (newest["agent_id"], newest["run_id"], newest["reason"]) == ("b'", "third", "manual")
    assert (older["agent_id"], older["metric_date"], older["reason"]) == ("a", "2025-03-04", "late logs")
    assert (older["old_row"]["total_executions"], older["new_row"]["total_executions"]) == (1, 2)
    ((digest,),) = query(database, "SELECT encode(digest, 'hex') FROM agent_day_distributions WHERE agent_id = 'a'")
    assert older["new_distribution"] == digest != older["old_distribution"]
    text = api.get("/api/v1/restatements?agent_id=a").text
    assert '"total_cost_usd": 0.100000000' in text
    assert '"total_cost_usd": 90000000000.100000001' in text

    def runs(parameters: str) -> list[str]:
        return [row["run_id"] for row in api.get(f"/api/v1/restatements?{parameters}").json()]

    assert runs("") == runs("start_date=2025-03-04&end_date=2025-03-05") == ["third", "second"]
    assert runs("agent_id=a") == runs("end_date=2025-03-04") == runs("offset=1") == ["second"]
    assert runs("agent_id=b%27") == runs("start_date=2025-03-05") == runs("limit=1") == ["third"]
    assert api.get("/api/v1/restatements?agent_id=").status_code == 404
    for gone in ("agent_registry WHERE id", "agent_performance_metrics WHERE agent_id"):
        execute(database, f"DELETE FROM {gone} = 'a'")
    assert runs("agent_id=a") == ["second"]
    table = list(csv.DictReader(io.StringIO(api.get("/api/v1/restatements?format=csv").text, newline="")))
    assert json.loads(table[1]["new_row"], parse_float=Decimal) == older["new_row"]
    # As text: parsed, 0.1 would equal 0.100000000.
    assert '"total_cost_usd": 0.100000000' in table[1]["old_row"]
    for wrong in ("agent_id=%00", "start_date=2025-03-05&end_date=2025-03-04"):
        assert api.get(f"/api/v1/restatements?{wrong}").status_code == 422


def test_coverage_tells_a_true_zero_from_a_day_that_was_not_computed(database: Database, serve: Serve) -> None:
    store_agents(database, {"a": "active"})
    first = DAY - timedelta(days=6)
    logged = [first, *(first + timedelta(days=n) for n in (2, 3, 4, 5))]
    store_logs(database, [Log(agent, timestamp=NOON - (DAY - day)) for day in logged for agent in ("a", "stranger")])
    for number in (0, 1, 3, 4, 5):
        day = first + timedelta(days=number)
        aggregate(database, day_window(day, "Asia/Tokyo" if number == 5 else "UTC"), run_id=f"run {number}")
    execute(
        database,
        "DELETE FROM agent_execution_logs WHERE agent_id = 'stranger' AND timestamp::date = '2025-03-01'",
        "UPDATE metric_day_ledger SET raw_pruned_at = '2025-04-01' WHERE metric_date = '2025-03-02'",
        "UPDATE metric_day_ledger SET definition_version = '0' WHERE metric_date = '2025-02-26'",
    )
    judged(database, *(first + timedelta(days=number) for number in range(7)))
    api = serve(start_date=date(2025, 2, 26))
    days = api.get("/api/v1/coverage").json()
    assert [(day["metric_date"], day["state"]) for day in days] == [
        ("2025-03-04", "missing"),
        ("2025-03-03", "other_zone"),
        ("2025-03-02", "sealed"),
        ("2025-03-01", "dirty"),
        ("2025-02-28", "missing"),
        ("2025-02-27", "no_activity"),
        ("2025-02-26", "aggregated"),
    ]
    aggregated = days[-1]
    assert aggregated.pop("aggregated_at") is not None
    assert aggregated.pop("verified_at") == aggregated.pop("confirmed_at") is not None
    assert aggregated == {
        "metric_date": "2025-02-26",
        "state": "aggregated",
        "reason": "equal to its logs",
        "is_outdated": True,
        "source_logs": 2,
        "aggregated_logs": 1,
        "skipped_logs": 1,
        "agents": 1,
        "run_id": "run 0",
        "definition_version": "0",
        "judged_by": "content",
    }
    assert {name: days[4][name] for name in ("reason", "source_logs", "run_id", "is_outdated")} == {
        "reason": "never aggregated, 2 logs",
        "source_logs": None,
        "run_id": None,
        "is_outdated": False,
    }
    table = api.get("/api/v1/coverage?start_date=2025-02-28&end_date=2025-02-28&format=csv").text
    assert table.splitlines()[1].startswith('2025-02-28,missing,"never aggregated, 2 logs",false,,,,,,,,2')
    chosen = api.get("/api/v1/coverage?start_date=2025-02-27&end_date=2025-03-01").json()
    assert [day["metric_date"] for day in chosen] == ["2025-03-01", "2025-02-28", "2025-02-27"]


def test_days_are_judged_again_only_if_a_row_has_changed(
    database: Database, api: httpx2.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    judgements = []

    def counting(*arguments: Any) -> list[DayVerdict]:
        judgements.append(arguments)
        return judge_days(*arguments)

    def state() -> str:
        return str(api.get(f"/api/v1/coverage?start_date={DAY}").json()[0]["state"])

    monkeypatch.setattr("metrics_pipeline.api.context.judge_days", counting)
    store_agents(database, {"a": "active"})
    store_logs(database, [Log("a")])
    aggregate(database)
    judged(database, DAY)
    assert [state(), state()] == ["aggregated", "aggregated"]
    assert len(judgements) == 1
    store_logs(database, [Log("a")])
    judged(database, DAY)
    assert state() == "dirty"
    aggregate(database)
    assert state() == "aggregated"
    for damage in ["UPDATE agent_performance_metrics SET total_tokens = 9", "DELETE FROM agent_performance_metrics"]:
        execute(database, damage)
        assert state() == "damaged"
    assert len(judgements) == 5


def test_coverage_is_of_whole_days_of_this_pipeline_and_of_at_most_a_year(api: httpx2.Client, serve: Serve) -> None:
    def field(query: str) -> str:
        response = api.get(f"/api/v1/coverage?{query}")
        assert response.status_code == 422
        return response.json()["errors"][0]["field"]

    assert field("end_date=2025-03-05") == field("end_date=9999-12-31") == "end_date"
    assert field("start_date=2024-12-31") == field("start_date=2025-03-04&end_date=2025-03-03") == "start_date"
    assert field("end_date=2024-12-31") == field("end_date=0001-01-01") == "end_date"
    long_ago = serve(start_date=date(2020, 1, 1))
    assert len(long_ago.get("/api/v1/coverage?start_date=2024-03-04").json()) == 366
    assert long_ago.get("/api/v1/coverage?start_date=2024-03-03").status_code == 422
    assert len(api.get("/api/v1/coverage").json()) == 14
    assert len(serve(start_date=date(2025, 3, 3)).get("/api/v1/coverage").json()) == 2


def test_coverage_says_of_a_day_that_was_stored_and_not_looked_at_since_that_nobody_knows(
    database: Database, api: httpx2.Client
) -> None:
    store_agents(database, {"a": "active"})
    store_logs(database, [Log("a")])
    aggregate(database)
    stored = api.get("/api/v1/coverage").json()[0]
    assert (stored["state"], stored["judged_by"], stored["reason"]) == ("aggregated", "content", "equal to its logs")
    # A late log is not known before somebody looks.
    store_logs(database, [Log("a")])
    assert api.get("/api/v1/coverage").json()[0] == stored
    judged(database, DAY)
    assert api.get("/api/v1/coverage").json()[0]["state"] == "dirty"
    execute(database, "UPDATE metric_day_ledger SET run_id = 'restored'")
    unknown = api.get("/api/v1/coverage").json()[0]
    assert (unknown["state"], unknown["verified_at"], unknown["judged_by"]) == ("aggregated", None, None)
    assert unknown["reason"] == "stored, and not compared with its logs yet"


def test_the_logs_that_are_in_no_metric_are_counted_by_agent(database: Database, api: httpx2.Client) -> None:
    store_agents(database, {"a": "active", "retired": "inactive"})
    execute(database, "ALTER TABLE agent_execution_logs ALTER agent_id DROP NOT NULL")
    unknown = [f"unknown-{number:02}" for number in range(60)]
    store_logs(database, [Log("a"), *[Log("retired")] * 3, *[Log(None)] * 2, *map(Log, unknown), Log("x" * 300)])
    aggregate(database)
    rows = api.get("/api/v1/skipped").json()
    (day,) = api.get(f"/api/v1/coverage?start_date={DAY}&end_date={DAY}").json()
    assert sum(row["logs"] for row in rows) == day["skipped_logs"] == 3 + 2 + 60 + 1
    assert rows[0] == {"kind": "agent", "agent_id": "retired", "status": "inactive", "logs": 3}
    assert rows[1:49] == [{"kind": "agent", "agent_id": agent, "status": None, "logs": 1} for agent in unknown[:48]]
    # Of 63 agents 50 are named: these, and the logs without one.
    assert rows[49:] == [
        {"kind": "none", "agent_id": None, "status": None, "logs": 2},
        {"kind": "others", "agent_id": None, "status": None, "logs": 13},
    ]
    execute(database, "DELETE FROM agent_execution_logs WHERE agent_id LIKE 'unknown%'")
    aggregate(database, accept_deleted=True)
    assert api.get("/api/v1/skipped?format=csv").text.splitlines()[1:] == [
        "agent,retired,inactive,3", f"agent,{'x' * 199}…,,1", "none,,,2"
    ]  # fmt: skip
    # As a day that was stored before the agents were recorded.
    execute(database, "UPDATE metric_day_ledger SET skipped_agents = NULL")
    assert api.get("/api/v1/skipped").json() == [{"kind": "others", "agent_id": None, "status": None, "logs": 6}]
    assert api.get(f"/api/v1/skipped?date={DAY + timedelta(days=1)}").status_code == 422
    assert api.get(f"/api/v1/skipped?date={DAY - timedelta(days=1)}").json() == []
