"""`/api/v1/activity`: the metrics of windows equal the oracle over the logs, in every grouping and form."""

import csv
import io
import json
from datetime import date, timedelta
from decimal import Decimal
from typing import Any

import httpx2
import pytest

from metrics_pipeline.metrics.dimensions import parse_dimensions
from metrics_pipeline.metrics.windows import day_window
from metrics_pipeline.pipeline.aggregation import AggregationOptions, compute_day, store_day
from metrics_pipeline.pipeline.opening import open_logs
from metrics_pipeline.postgres.database import Database
from metrics_pipeline.store.publishing import Reason
from metrics_pipeline_tests.days import DAY, Log, aggregate, execute, store_agents, store_logs
from metrics_pipeline_tests.examples import variants
from metrics_pipeline_tests.oracle import expected_windows

FIRST = DAY - timedelta(days=5)
PATH = f"/api/v1/activity?start_date={FIRST}&end_date={DAY}"


def rows(api: httpx2.Client, query: str = "") -> list[dict[str, Any]]:
    answer = api.get(f"{PATH}&{query}")
    assert answer.status_code == 200, answer.text
    return json.loads(answer.text, parse_float=Decimal)


def store(database: Database) -> None:
    """Six days of three agents, of which c logs on the last day only; no raw log is left."""
    store_agents(database, dict.fromkeys("abc", "active"))
    logs = [
        Log(agent, status, latency, 7, cost, error, f'{{"user_id": "{user}"}}', day_window(day, "UTC").start)
        for day in (FIRST + timedelta(days=n) for n in range(6))
        for agent, status, latency, cost, error, user in [
            ("a", "success", 100 + day.day, "0.1", None, f"u{day.day}"),
            ("a", "failed", 900, "0.000000001", "timeout", "u1"),
            ("b", "failed", -3, None, None, "u1"),
            ("b", "running", None, "12345678901.5", None, "u2"),
        ]
    ]
    store_logs(database, [*logs, Log("c", timestamp=day_window(DAY, "UTC").start)])
    for number in range(6):
        aggregate(database, day_window(FIRST + timedelta(days=number), "UTC"))


@pytest.mark.parametrize(
    ("group_by", "groups"),
    [
        ("", ()),
        ("group_by=agent", ("agent",)),
        ("group_by=day", ("day",)),
        ("group_by=week", ("week",)),
        ("group_by=month,agent", ("agent", "month")),
    ],
)
def test_every_group_equals_the_oracle_after_the_logs_are_gone(
    group_by: str, groups: tuple[str, ...], stored: Database, api: httpx2.Client
) -> None:
    with stored.snapshot() as snapshot:
        expected = expected_windows(snapshot, FIRST, DAY, groups)
    execute(stored, "DELETE FROM agent_execution_logs")
    answers = rows(api, group_by)
    assert len(answers) == len(expected)
    for answer, wanted in zip(answers, expected, strict=True):
        assert answer["is_exact"] is True
        for name, value in wanted.items():
            given = date.fromisoformat(answer[name]) if isinstance(value, date) else answer[name]
            if name == "error_distribution":
                value = {each["error_type"]: each["executions"] for each in value}
            assert given == value, name


def test_error_types_are_counted_in_a_row_each(stored: Database, api: httpx2.Client) -> None:
    assert rows(api, "group_by=agent,error_type") == [
        {"agent_id": "a", "error_type": "timeout", "failed_executions": 6},
        {"agent_id": "b", "error_type": "unknown", "failed_executions": 6},
    ]


def test_rows_are_sorted_filtered_paged_and_of_one_agent(stored: Database, api: httpx2.Client) -> None:
    def agents(query: str) -> list[str]:
        return [row["agent_id"] for row in rows(api, f"group_by=agent&{query}")]

    assert agents("sort=-total_cost_usd") == ["b", "a", "c"]
    # c has no latency.
    assert agents("sort=p95_latency_ms") == ["b", "a", "c"]
    assert agents("sort=-p95_latency_ms") == ["a", "b", "c"]
    assert agents("min_executions=2") == ["a", "b"]
    assert agents("agent_id=c") == ["c"]
    page = api.get(f"/api/v1/activity?group_by=agent&limit=1&end_date={DAY}")
    assert page.headers["Link"].startswith(
        f"<?group_by=agent&limit=1&end_date={DAY}&start_date=2025-02-03&offset=1&list_version="
    )


def test_a_window_is_compared_with_the_days_before(stored: Database, api: httpx2.Client) -> None:
    last = f"/api/v1/activity?start_date={DAY}&end_date={DAY}&group_by=agent&compare=previous"
    by_agent = {row["agent_id"]: row for row in json.loads(api.get(last).text, parse_float=Decimal)}
    a, c = by_agent["a"], by_agent["c"]
    assert a["previous"]["total_executions"] == 2
    assert (a["change"]["total_executions"], a["change"]["p95_latency_ms"]) == (
        0,
        a["p95_latency_ms"] - a["previous"]["p95_latency_ms"],
    )
    assert (c["previous"]["success_rate"], c["change"]["success_rate"], c["change"]["total_executions"]) == (
        None,
        None,
        1,
    )
    assert a["is_comparable"] is True
    whole = rows(api, "compare=previous")[0]
    assert (whole["previous"], whole["change"], whole["is_comparable"]) == (None, None, False)


def test_only_the_chosen_fields_are_answered_also_of_the_days_before(stored: Database, api: httpx2.Client) -> None:
    whole = {row["agent_id"]: row for row in rows(api, "group_by=agent")}
    # Without a distribution the sums are the same, and nothing says that one is missing.
    execute(stored, "DELETE FROM agent_day_distributions", "UPDATE metric_day_ledger SET run_id = run_id")
    chosen = rows(api, "group_by=agent&fields=success_rate_high,total_cost_usd&sort=-total_cost_usd")
    assert chosen == [
        {name: whole[agent][name] for name in ("agent_id", "success_rate_high", "total_cost_usd")} for agent in "bac"
    ]
    last = f"start_date={DAY}&end_date={DAY}&compare=previous&agent_id=a&fields=failed_executions"
    assert json.loads(api.get(f"/api/v1/activity?{last}").text) == [
        {
            "failed_executions": 1,
            "previous": {"failed_executions": 1},
            "change": {"failed_executions": 0},
            "is_comparable": True,
        }
    ]
    assert rows(api, "fields=p95_latency_ms") == [{"p95_latency_ms": None}]


def test_latencies_are_counted_by_day_and_interval(stored: Database, api: httpx2.Client) -> None:
    path = f"/api/v1/latencies?start_date={DAY}&end_date={DAY}&agent_id="
    assert api.get(f"{path}a").json() == [
        {"metric_date": str(DAY), "from_ms": 100, "below_ms": 150, "executions": 1},
        {"metric_date": str(DAY), "from_ms": 700, "below_ms": 1000, "executions": 1},
    ]
    # -3 is below the first interval; the other log of b has no latency.
    assert api.get(f"{path}b&format=csv").text.splitlines()[1:] == [f"{DAY},,0,1"]
    assert api.get(f"{path}typo").status_code == 404


def test_a_day_without_distribution_makes_percentiles_null_and_is_named(stored: Database, api: httpx2.Client) -> None:
    held = api.get(PATH).headers["ETag"]
    assert api.get(PATH, headers={"If-None-Match": held}).status_code == 304
    execute(
        stored,
        f"DELETE FROM agent_day_distributions WHERE metric_date = '{DAY}' AND agent_id = 'a'",
        f"UPDATE metric_day_ledger SET run_id = run_id WHERE metric_date = '{DAY}'",
    )
    (row,) = rows(api)
    assert (row["p95_latency_ms"], row["unique_users"], row["is_exact"]) == (None, None, False)
    assert row["days_without_distribution"] == [str(DAY)]
    assert row["total_executions"] == 25
    (line,) = csv.DictReader(io.StringIO(api.get(f"{PATH}&format=csv").text))
    assert (line["p95_latency_ms"], line["total_cost_usd"]) == ("", str(row["total_cost_usd"]))


@pytest.mark.parametrize(
    ("query", "field"),
    variants(
        [
            ("group_by=tenant", "group_by"),
            ("group_by=day,week", "group_by"),
            ("group_by=agent,agent", "group_by"),
            ("group_by=day&compare=previous", "compare"),
            ("group_by=error_type&fields=success_rate", "fields"),
            ("fields=latency", "fields"),
            ("sort=agent_id", "sort"),
            ("sort=created_at", "sort"),
            ("start_date=2024-01-01", "start_date"),
        ]
    ),
)
def test_what_cannot_be_answered_is_refused_by_name(query: str, field: str, api: httpx2.Client) -> None:
    answer = api.get(f"/api/v1/activity?end_date={DAY}&{query}")
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, field)


@pytest.fixture
def by_model(database: Database) -> Database:
    """Three days, of which the second is not broken down by model; on the third agent a has 51 models."""
    store_agents(database, dict.fromkeys("ab", "active"))
    for number, metadata in enumerate(['{"model": "m"}', '{"model": "m"}', '{"model": "(other)"}']):
        at = day_window(DAY - timedelta(days=2 - number), "UTC").start
        store_logs(database, [Log(agent, "success", 10, 1, "0.1", None, metadata, at) for agent in "ab"])
    store_logs(database, [Log(metadata=f'{{"model": "x{number:02}"}}') for number in range(50)])
    for number, dimensions in enumerate(["model", "", "model"]):
        window = day_window(DAY - timedelta(days=2 - number), "UTC")
        logs = open_logs(database, parse_dimensions(dimensions) if dimensions else ())
        computed = compute_day(database, logs, window, AggregationOptions())
        store_day(database, computed, run_id="a run", reason=Reason.MANUAL)
    execute(database, "DELETE FROM agent_execution_logs")
    return database


@pytest.mark.usefixtures("by_model")
def test_a_dimension_groups_and_filters_and_names_the_days_that_lack_it(api: httpx2.Client) -> None:
    found = {(row["value_kind"], row["value"]): row for row in rows(api, "group_by=model")}
    # Of 51 models with one execution each "x49" sorts last.
    assert len(found) == 1 + 1 + 49 + 1
    assert ("value", "x49") not in found
    executions = {key: row["total_executions"] for key, row in found.items()}
    assert [executions["value", "m"], executions["value", "(other)"], executions["other", "(other)"]] == [2, 2, 1]
    assert {str(row["days_without_dimension"]) for row in found.values()} == {str([str(DAY - timedelta(days=1))])}
    assert (found["value", "m"]["is_complete"], found["other", "(other)"]["is_complete"]) == (False, True)
    of_days = rows(api, "group_by=day,agent&model=m")
    assert [(row["metric_date"], row["agent_id"], row["total_executions"], row["is_complete"]) for row in of_days] == [
        (str(DAY - timedelta(days=2)), agent, 1, True) for agent in "ab"
    ]
    assert [row["value_kind"] for row in rows(api, "model=(other)")] == ["other"]
    assert [row["value"] for row in rows(api, "group_by=model&sort=-total_executions&limit=2")] == ["(other)", "m"]
    assert rows(api, "model=nothing") == []


@pytest.mark.usefixtures("by_model")
def test_the_values_of_a_dimension_have_the_chosen_fields_and_are_walked_through(api: httpx2.Client) -> None:
    whole = rows(api, "group_by=model")
    names = ["value_kind", "value", "p50_latency_ms", "total_executions", "days_without_dimension", "is_complete"]
    chosen = rows(api, "group_by=model&fields=p50_latency_ms,total_executions")
    assert chosen == [{name: row[name] for name in names} for row in whole]
    sums = rows(api, "group_by=model&fields=total_executions")
    assert sums == [{name: row[name] for name in names if name != "p50_latency_ms"} for row in whole]
    assert whole == rows(api, "group_by=model")
    walked, url = [], f"{PATH}&group_by=model&limit=20"
    while url:
        answer = api.get(url)
        assert answer.headers["X-Total-Count"] == str(len(whole))
        walked += json.loads(answer.text, parse_float=Decimal)
        url = f"/api/v1/activity{answer.links['next']['url']}" if "next" in answer.links else ""
    assert walked == whole


def test_two_values_are_compared_with_the_interval_of_their_difference(database: Database, api: httpx2.Client) -> None:
    store_agents(database, {"a": "active"})
    store_logs(
        database,
        [
            Log(
                "a",
                "failed" if number % fails == 0 else "success",
                latency + number,
                metadata=f'{{"model": "{model}"}}',
            )
            for model, fails, latency, logs in (("old", 5, 100, 200), ("new", 50, 900, 200), ("rare", 9, 1, 29))
            for number in range(logs)
        ],
    )
    logs = open_logs(database, parse_dimensions("model"))
    computed = compute_day(database, logs, day_window(DAY, "UTC"), AggregationOptions())
    store_day(database, computed, run_id="a run", reason=Reason.MANUAL)
    path = f"/api/v1/metrics/a/compare?dimension=model&start_date={DAY}&end_date={DAY}"
    answer = api.get(f"{path}&a=old&b=new")
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert (found["a"]["executions"], found["a"]["success_rate"], found["b"]["success_rate"]) == (200, 0.8, 0.98)
    rate, p95 = found["success_rate"], found["p95_latency_ms"]
    # Wilson: 0.8 of 200 is (0.7393, 0.8496), 0.98 of 200 is (0.9497, 0.9922).
    assert (rate["difference"], round(rate["low"], 3), round(rate["high"], 3)) == (0.18, 0.122, 0.242)
    assert (rate["verdict"], p95["difference"], p95["verdict"]) == ("higher", 800.0, "higher")
    assert p95["low"] < 800 < p95["high"]
    few = api.get(f"{path}&a=old&b=rare").json()
    assert (few["success_rate"]["verdict"], few["success_rate"]["low"]) == ("too few", None)
    absent = api.get(f"{path}&a=old&b=never").json()
    assert (absent["b"]["executions"], absent["success_rate"]["difference"]) == (0, None)
    assert api.get(f"{path}&a=old&b=new", headers={"If-None-Match": answer.headers["ETag"]}).status_code == 304
    assert api.get(f"{path.replace('model', 'version')}&a=1&b=2").status_code == 422


@pytest.mark.usefixtures("by_model")
def test_an_unknown_dimension_or_one_that_no_day_has_is_refused(api: httpx2.Client) -> None:
    for query, field in (("group_by=version", "group_by"), ("version=1", "version")):
        answer = api.get(f"{PATH}&{query}")
        assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, field)
        assert "Stored days have: model." in answer.json()["detail"]
    between = DAY - timedelta(days=1)
    answer = api.get(f"/api/v1/activity?start_date={between}&end_date={between}&group_by=model")
    assert answer.status_code == 422
    assert "No stored day from 2025-03-03 to 2025-03-03 is broken down by model" in answer.json()["detail"]


def test_an_unknown_agent_is_a_404(api: httpx2.Client) -> None:
    assert api.get(f"{PATH}&agent_id=typo").status_code == 404


def test_a_summary_of_any_period_has_the_figures_of_the_window(stored: Database, api: httpx2.Client) -> None:
    query = f"start_date={DAY - timedelta(days=1)}&end_date={DAY}"
    summary = json.loads(api.get(f"/api/v1/metrics/a/summary?{query}").text, parse_float=Decimal)
    (window,) = json.loads(api.get(f"/api/v1/activity?agent_id=a&{query}").text, parse_float=Decimal)
    names = ["p50_latency_ms", "p95_latency_ms", "p99_latency_ms", "unique_users", "is_exact", "success_rate",
             "cost_per_unassisted_success", "days_without_distribution", "human_intervention_rate"]  # fmt: skip
    assert {name: summary[name] for name in names} == {name: window[name] for name in names}
    assert (summary["days"], summary["is_comparable"], summary["previous"]["days_stored"]) == (2, True, 2)
    assert summary["change"]["p50_latency_ms"] == summary["p50_latency_ms"] - summary["previous"]["p50_latency_ms"]
    text = api.get(f"/api/v1/metrics/a/summary?{query}&decimals=string").json()
    assert text["total_cost"] == str(summary["total_cost"])
    # A day that gets or loses its distribution changes the summary, although no row of metrics changes.
    tag = api.get(f"/api/v1/metrics/a/summary?{query}").headers["ETag"]
    execute(stored, f"DELETE FROM agent_day_distributions WHERE metric_date = '{DAY}'")
    assert api.get(f"/api/v1/metrics/a/summary?{query}", headers={"If-None-Match": tag}).status_code == 200
    both = api.get(f"/api/v1/metrics/a/summary?days=3&start_date={DAY}")
    assert (both.status_code, both.json()["errors"][0]["field"]) == (422, "days")


def test_info_names_zone_days_retention_and_versions(stored: Database, api: httpx2.Client) -> None:
    info = api.get("/api/v1/info").json()
    assert info["time_zone"] == "UTC"
    assert (info["newest_stored_day"], info["newest_whole_day"]) == (str(DAY), str(DAY))
    assert (info["raw_log_days"], info["metric_days"], info["alert_days"]) == (30, 365, 90)
    assert info["dagster_url"] == "http://127.0.0.1:3000"
    assert info["dimensions"] == []
    assert api.get("/api/v1/info").json()["stored_version"] == info["stored_version"]
    aggregate(stored)
    assert api.get("/api/v1/info").json()["stored_version"] != info["stored_version"]
