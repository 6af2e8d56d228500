"""Series, summaries and days over HTTP, with answers computed by hand."""

import csv
import io
import json
from datetime import date, datetime, timedelta
from decimal import Decimal
from urllib.parse import quote

import httpx2
import pytest

from metrics_pipeline.api.models.summary import SUMMARY_OF_WINDOW
from metrics_pipeline.metrics.catalog import AGENT_DAY
from metrics_pipeline.metrics.windows import day_window
from metrics_pipeline.postgres.database import Database
from metrics_pipeline_tests.days import DAY, NOON, Log, aggregate, execute, store_agents, store_logs

from .serving import Serve

DAY_BEFORE = DAY - timedelta(days=1)


def exact(response: httpx2.Response) -> object:
    """The body with its numbers as they are written."""
    return json.loads(response.text, parse_float=Decimal)


@pytest.fixture
def two_days(database: Database) -> Database:
    """Agent a with three logs on DAY and one the day before, agent b with none, and agent c inactive."""
    store_agents(database, {"a": "active", "b": "active", "c": "inactive"})
    store_logs(
        database,
        [
            Log("a", "success", 100, 10, "0.000000001", metadata='{"user_id": "u", "human_intervention": true}'),
            Log("a", "success", 201, 20, "12345678901.123456789"),
            Log("a", "failed", 300, None, None, "timeout"),
            Log("a", "failed", 50, 5, "2.5", "auth", timestamp=NOON - timedelta(days=1)),
            Log("c"),
        ],
    )
    for day in (DAY_BEFORE, DAY):
        aggregate(database, day_window(day, "UTC"), run_id=f"run of {day}")
    return database


def test_a_series_has_every_column_of_every_stored_day_newest_first_with_the_digits_of_the_database(
    two_days: Database, api: httpx2.Client
) -> None:
    response = api.get("/api/v1/metrics/a")
    assert response.status_code == 200
    assert response.headers["Content-Type"] == "application/json"
    newest, older = exact(response)
    created = newest.pop("created_at")
    assert datetime.fromisoformat(created).utcoffset() == timedelta(0)
    assert newest == {
        "agent_id": "a",
        "metric_date": "2025-03-04",
        "total_executions": 3,
        "successful_executions": 2,
        "failed_executions": 1,
        "success_rate": Decimal("0.666667"),
        "avg_latency_ms": 200,
        "p50_latency_ms": 201,
        "p95_latency_ms": 290,
        "p99_latency_ms": 298,
        "total_tokens": 30,
        "total_cost_usd": Decimal("12345678901.123456790"),
        "avg_cost_per_execution": Decimal("4115226300.374485597"),
        "error_distribution": {"timeout": 1},
        "human_interventions": 1,
        "unique_users": 1,
        "updated_at": None,
    }
    # As text: parsed, 0.5 would equal 0.500000000.
    assert '"total_cost_usd":12345678901.123456790,' in response.text
    assert '"total_cost_usd":2.500000000,' in response.text
    assert (older["metric_date"], older["error_distribution"]) == ("2025-03-03", {"auth": 1})


def test_the_same_rows_come_as_csv_and_as_ndjson(two_days: Database, api: httpx2.Client) -> None:
    objects = exact(api.get("/api/v1/metrics/a"))
    lines = api.get("/api/v1/metrics/a", params={"format": "ndjson"})
    assert lines.headers["Content-Type"] == "application/x-ndjson"
    assert [json.loads(line, parse_float=Decimal) for line in lines.text.splitlines()] == objects
    table = api.get("/api/v1/metrics/a", headers={"Accept": "text/csv"})
    assert table.headers["Content-Type"] == "text/csv; charset=utf-8; header=present"
    rows = list(csv.DictReader(io.StringIO(table.text, newline="")))
    names = [column.name for column in AGENT_DAY.columns] + ["created_at", "updated_at"]
    assert list(rows[0]) == list(objects[0]) == names
    assert [row["total_cost_usd"] for row in rows] == ["12345678901.123456790", "2.500000000"]
    assert [json.loads(row["error_distribution"]) for row in rows] == [{"timeout": 1}, {"auth": 1}]
    assert rows[0]["created_at"] == objects[0]["created_at"]
    assert rows[0]["updated_at"] == ""
    assert api.get("/api/v1/metrics/b?start_date=2020-01-01&end_date=2020-01-02&format=csv").text == (
        ",".join(names) + "\r\n"
    )


def test_a_series_covers_thirty_days_up_to_today_or_the_days_that_are_asked_for(
    two_days: Database, api: httpx2.Client
) -> None:
    move = "UPDATE agent_performance_metrics SET metric_date = '{}' WHERE metric_date <> '2025-03-04'"
    execute(two_days, move.format("2025-02-04"))

    def days(**parameters: str) -> list[str]:
        return [row["metric_date"] for row in api.get("/api/v1/metrics/a", params=parameters).json()]

    assert days() == ["2025-03-04", "2025-02-04"]  # 2025-02-04 to 2025-03-05
    assert days(order="asc") == ["2025-02-04", "2025-03-04"]
    assert days(start_date="2025-02-05") == ["2025-03-04"]
    assert days(end_date="2025-03-03") == ["2025-02-04"]
    assert days(start_date="2025-03-04", end_date="2025-03-04") == ["2025-03-04"]
    assert days(start_date="2025-02-01", end_date="2025-02-03") == []
    execute(two_days, move.format("2025-02-03"))
    assert days() == ["2025-03-04"]


AWKWARD_IDS = [
    "team/agent", "a b", "Überwacher ☃", "100%", "a%2Fb", "x/summary", "summary", "aggregate/trigger", "?q=1&r#s",
    "'; --", '"', "a+b", "/", "trailing/", "//", "[bold]", "a\nb", "a;b=c", "",
]  # fmt: skip


def test_any_agent_id_has_its_series_and_its_summary(database: Database, api: httpx2.Client) -> None:
    store_agents(database, dict.fromkeys(AWKWARD_IDS, "active"))
    store_logs(database, [Log(agent, latency_ms=number) for number, agent in enumerate(AWKWARD_IDS)])
    aggregate(database)
    for number, agent in enumerate(AWKWARD_IDS):
        path = f"/api/v1/metrics/{quote(agent, safe='')}"
        (row,) = api.get(path).json()
        assert (row["agent_id"], row["avg_latency_ms"]) == (agent, number)
        summary = api.get(f"{path}/summary").json()
        assert (summary["agent_id"], summary["avg_latency"]) == (agent, number)
    # Slashes need no encoding, except where they would name the summary.
    assert api.get("/api/v1/metrics/team/agent").json()[0]["agent_id"] == "team/agent"
    assert api.get("/api/v1/metrics/team/agent/summary").json()["agent_id"] == "team/agent"
    assert api.get("/api/v1/metrics/x/summary").status_code == 404
    assert api.get("/api/v1/metrics/aggregate/trigger").status_code == 405


def test_an_unknown_agent_is_a_404_that_says_where_to_look(api: httpx2.Client) -> None:
    for path in ["unknown", "%00", "%FF", "a%00", "unknown/summary", "%FF/summary"]:
        response = api.get(f"/api/v1/metrics/{path}")
        assert response.status_code == 404
        assert response.headers["Content-Type"] == "application/problem+json"
        problem = response.json()
        assert problem["type"] == "urn:metrics-pipeline:problem:unknown-agent"
        assert "GET /api/v1/agents" in problem["detail"]
        assert problem["request_id"] == response.headers["X-Request-ID"]


def test_an_agent_is_known_by_the_registry_or_by_stored_metrics(two_days: Database, api: httpx2.Client) -> None:
    assert api.get("/api/v1/metrics/c").json() == []
    execute(two_days, "DELETE FROM agent_registry")
    assert api.get("/api/v1/metrics/c").status_code == 404
    assert len(api.get("/api/v1/metrics/b").json()) == 2
    assert api.get("/api/v1/metrics/b?start_date=2020-01-01&end_date=2020-01-01").json() == []


def test_a_summary_has_the_means_the_weighted_figures_and_the_period_before(
    two_days: Database, api: httpx2.Client
) -> None:
    response = api.get("/api/v1/metrics/a/summary", params={"days": 1})
    current = {
        "avg_success_rate": Decimal("0.666667"),
        "avg_latency": Decimal("200.000"),
        "total_executions": 3,
        "total_cost": Decimal("12345678901.123456790"),
        "success_rate": Decimal("0.666667"),
        "latency_ms": Decimal("200.000"),
        "cost_per_execution": Decimal("4115226300.374485597"),
        "human_intervention_rate": Decimal("0.333333"),
        "successful_executions": 2,
        "failed_executions": 1,
        "human_interventions": 1,
        "total_tokens": 30,
        "error_distribution": {"timeout": 1},
    }
    previous = {
        "avg_success_rate": Decimal("0.000000"),
        "avg_latency": Decimal("50.000"),
        "total_executions": 1,
        "total_cost": Decimal("2.500000000"),
        "success_rate": Decimal("0.000000"),
        "latency_ms": Decimal("50.000"),
        "cost_per_execution": Decimal("2.500000000"),
        "human_intervention_rate": Decimal("0.000000"),
        "successful_executions": 0,
        "failed_executions": 1,
        "human_interventions": 0,
        "total_tokens": 5,
        "error_distribution": {"auth": 1},
    }
    # What comes from the distributions is compared with /activity elsewhere.
    answer = exact(response)
    for part in (answer, answer["previous"], answer["change"]):
        for name in SUMMARY_OF_WINDOW:
            part.pop(name, None)
    assert answer == {
        "agent_id": "a",
        "days": 1,
        "is_comparable": True,
        "start_date": "2025-03-04",
        "end_date": "2025-03-04",
        "days_stored": 1,
        **current,
        "previous": {"start_date": "2025-03-03", "end_date": "2025-03-03", "days_stored": 1, **previous},
        "change": {
            **{name: value - previous[name] for name, value in current.items() if name != "error_distribution"},
            "error_distribution": {"auth": -1, "timeout": 1},
        },
    }
    assert '"total_cost":12345678901.123456790,' in response.text
    both = exact(api.get("/api/v1/metrics/a/summary", params={"days": 2}))
    assert (both["start_date"], both["end_date"], both["days_stored"]) == ("2025-03-03", "2025-03-04", 2)
    assert both["avg_success_rate"] == Decimal("0.333334")  # of 0.666667 and 0
    assert both["success_rate"] == Decimal("0.500000")
    assert both["latency_ms"] == Decimal("162.500")  # (3 * 200 + 50) / 4
    assert both["error_distribution"] == {"auth": 1, "timeout": 1}
    assert both["previous"]["days_stored"] == 0
    assert both["change"]["success_rate"] is None


def test_a_summary_ends_yesterday_in_the_pipeline_s_zone(two_days: Database, serve: Serve) -> None:
    summary = serve(time_zone="Pacific/Kiritimati").get("/api/v1/metrics/a/summary").json()  # 14 hours ahead
    assert (summary["start_date"], summary["end_date"]) == ("2025-02-03", "2025-03-04")
    summary = serve(now=datetime.fromisoformat("2025-03-05T10:00Z"), time_zone="Pacific/Kiritimati").get(
        "/api/v1/metrics/a/summary"
    )
    assert summary.json()["end_date"] == "2025-03-05"


def test_a_day_lists_its_agents_sorted_and_in_pages(database: Database, api: httpx2.Client) -> None:
    store_agents(database, dict.fromkeys("abcd", "active"))
    store_logs(database, [Log(agent, cost_usd=cost) for agent, cost in [("a", "1"), ("b", "3"), ("c", "1")]])
    aggregate(database)

    def agents(query: str) -> str:
        return "".join(row["agent_id"] for row in api.get(f"/api/v1/metrics?{query}").json())

    assert agents("") == agents("date=2025-03-04&sort=agent_id") == "abcd"
    assert agents("sort=-agent_id") == "dcba"
    assert agents("sort=total_cost_usd") == "dacb"
    assert agents("sort=-total_cost_usd") == "bacd"  # equal costs in the order of the ids
    assert agents("sort=-updated_at") == "abcd"
    first = api.get("/api/v1/metrics?date=2025-03-04&sort=-total_cost_usd&limit=3")
    assert [row["agent_id"] for row in first.json()] == ["b", "a", "c"]
    assert set(first.links) == {"next"}
    second = api.get(str(httpx2.URL("/api/v1/metrics").join(first.links["next"]["url"])))
    assert [row["agent_id"] for row in second.json()] == ["d"]
    assert set(second.links) == {"prev"}
    assert "limit=3&offset=0&list_version=" in second.links["prev"]["url"]
    assert first.headers["X-Total-Count"] == second.headers["X-Total-Count"] == "4"
    assert agents("min_executions=1") == "abc"
    assert api.get("/api/v1/metrics?min_executions=1&limit=1").headers["X-Total-Count"] == "3"
    assert api.get("/api/v1/metrics?limit=4").links == {}
    beyond = api.get("/api/v1/metrics?offset=4")
    assert (beyond.status_code, beyond.json()) == (200, [])


def test_a_day_without_activity_is_a_list_and_one_that_was_not_computed_a_404(
    database: Database, api: httpx2.Client
) -> None:
    problem = api.get("/api/v1/metrics?date=2025-03-04")
    assert problem.status_code == 404
    assert problem.json()["type"] == "urn:metrics-pipeline:problem:day-not-aggregated"
    aggregate(database)
    assert api.get("/api/v1/metrics?date=2025-03-04").json() == []
    store_agents(database, {"a": "active"})
    aggregate(database)
    assert [row["total_executions"] for row in api.get("/api/v1/metrics?date=2025-03-04").json()] == [0]
    aggregate(database, day_window(DAY - timedelta(days=1), "UTC"))
    execute(
        database,
        "DELETE FROM agent_performance_metrics WHERE metric_date = '2025-03-03'",
        "UPDATE metric_day_ledger SET metrics_expired_at = '2025-03-05' WHERE metric_date = '2025-03-03'",
    )
    expired = api.get("/api/v1/metrics?date=2025-03-03")
    assert (expired.status_code, expired.json()["type"]) == (410, "urn:metrics-pipeline:problem:day-expired")
    # Rows that were stored before this pipeline have no row in the ledger.
    execute(database, "DELETE FROM metric_day_ledger")
    assert len(api.get("/api/v1/metrics?date=2025-03-04").json()) == 1


WRONG = {
    "start_date=2025-3-4": "start_date",
    "start_date=20250304": "start_date",
    "start_date=1741046400": "start_date",
    "start_date=2025-02-30": "start_date",
    "end_date=2025-03-04T00:00:00": "end_date",
    "end_date=": "end_date",
    "start_date=2025-03-05&end_date=2025-03-04": "start_date",
    "start_date=2014-01-01&end_date=2025-01-01": "start_date",
    "start_dat=2025-03-04": "start_dat",
    "format=xml": "format",
}


def test_an_unknown_parameter_is_answered_with_those_that_exist(api: httpx2.Client) -> None:
    detail = api.get("/api/v1/metrics/a/summary?from=2025-03-01").json()["detail"]
    assert detail == ("from: there is no such parameter. The parameters are: days, start_date, end_date, decimals.")


def test_a_parameter_that_cannot_be_used_is_a_422_that_names_it(api: httpx2.Client) -> None:
    paths = {f"a?{query}": field for query, field in WRONG.items()}
    paths |= {f"a/summary?days={days}": "days" for days in ["0", "367", "-1", "1.5", "x", ""]}
    for path, field in paths.items():
        response = api.get(f"/api/v1/metrics/{path}")
        assert response.status_code == 422, path
        assert response.headers["Content-Type"] == "application/problem+json"
        problem = response.json()
        assert [(error["field"], error["location"]) for error in problem["errors"]] == [(field, "query")]
        assert problem["status"] == 422
        assert field in problem["detail"]


def test_the_ends_of_the_calendar_are_no_defect(two_days: Database, api: httpx2.Client) -> None:
    assert api.get("/api/v1/metrics/a?end_date=0001-01-01").json() == []
    assert api.get("/api/v1/metrics/a?start_date=9999-12-31&end_date=9999-12-31").json() == []
    assert api.get(f"/api/v1/metrics?date={date.max}").status_code == 404
    assert api.get("/api/v1/metrics/a?start_date=9999-12-31").status_code == 422
