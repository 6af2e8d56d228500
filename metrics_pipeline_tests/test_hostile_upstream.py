"""Any logs of any agents: every reader of their day agrees with the oracle, and none fails."""

import json
import re
from collections.abc import Callable
from decimal import Decimal
from typing import Any
from urllib.parse import quote

import dagster as dg
import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metrics_pipeline.metrics.reconciliation import DayState
from metrics_pipeline.orchestration.reconciling import judge
from metrics_pipeline.orchestration.reports import day_metadata
from metrics_pipeline.pipeline.aggregation import AggregationOptions, preview_day
from metrics_pipeline.pipeline.opening import open_logs
from metrics_pipeline.postgres.database import Database
from metrics_pipeline_tests.api.conftest import serve as serve
from metrics_pipeline_tests.api.serving import Serve
from metrics_pipeline_tests.days import (
    DAY,
    WINDOW,
    Log,
    aggregate,
    assert_exact_twice,
    empty,
    execute,
    query,
    store_agents,
    store_logs,
)
from metrics_pipeline_tests.examples import examples
from metrics_pipeline_tests.oracle import expected_metrics
from metrics_pipeline_tests.orchestration.checks.conftest import run_check as run_check
from metrics_pipeline_tests.orchestration.conftest import instance as instance
from metrics_pipeline_tests.retention.runs import prune
from metrics_pipeline_tests.test_exactness_properties import AWKWARD, logs
from metrics_pipeline_tests.test_exactness_properties import loose_database as loose_database

CHECKS = [
    "stored_rows_equal_ledger",
    "freshness",
    "no_missing_or_dirty_days",
    "active_agents_have_rows",
    "no_unusual_changes",
    "no_skipped_logs",
    "no_suspicious_values",
]
AGENTS = [agent for agent in AWKWARD if agent] + ["a/summary", "%2F", "?x=1#y", "../..", "é" * 1000, "u" * 2600]
#: A 64-bit id, an instant that no calendar has, and a cost that no column of ours holds, of an agent that nobody knows.
NOWHERE = """INSERT INTO agent_execution_logs (agent_id, "timestamp", status, cost_usd, metadata)
    VALUES (repeat('nobody', 200000), '-infinity', NULL, 'NaN', '[]'),
           (repeat('nobody', 200000), 'infinity', repeat('x', 1000000), '-Infinity', 'null'),
           (repeat('nobody', 200000), '2025-03-04 12:00Z', 'failed', '1e400', '{"USER_ID": 1, "user_id ": 2}')"""


@st.composite
def hostile_days(draw: st.DrawFn) -> tuple[dict[str, str], list[Log]]:
    agents = draw(
        st.dictionaries(st.sampled_from(AGENTS), st.sampled_from(["active", "active", "", "it's"]), max_size=6)
    )
    return agents, draw(st.lists(logs(WINDOW, [*agents, "unregistered", None]), max_size=15))


@pytest.mark.long
@examples(6)
@given(day=hostile_days())
def test_everybody_who_reads_the_day_says_what_the_oracle_says(
    loose_database: Database,
    serve: Serve,
    instance: dg.DagsterInstance,
    run_check: Callable[..., dg.ExecuteInProcessResult],
    day: tuple[dict[str, str], list[Log]],
) -> None:
    database, (agents, logs_of_day) = loose_database, day
    empty(database)
    store_agents(database, agents)
    store_logs(database, logs_of_day)
    execute(database, NOWHERE)
    preview = preview_day(database, open_logs(database), WINDOW, AggregationOptions())
    report = day_metadata(assert_exact_twice(database))
    with database.engine.connect() as connection:
        expected = expected_metrics(connection, WINDOW.start, WINDOW.end)
    executions = sum(row["total_executions"] for row in expected.values())
    cost = sum(row["total_cost_usd"] for row in expected.values())

    assert (preview.inserted, preview.executions, preview.cost_usd) == (len(expected), executions, cost)
    assert (report["agents"].value, report["executions"].value) == (len(expected), executions)
    skipped = 1 + sum(
        expected.get(log.agent_id or "") is None or log.agent_id is None for log in in_window(logs_of_day)
    )
    assert report["logs_skipped"].value == skipped
    assert len(repr(report)) < 200_000

    logs = open_logs(database)
    [verdict] = judge(instance, database, logs, "UTC", [DAY])
    assert verdict.state is DayState.AGGREGATED
    assert preview_day(database, logs, WINDOW, AggregationOptions()).inserted == 0
    assert DAY not in {day.metric_date for day in prune(database, is_dry_run=True).held_back}
    assert_api_says(serve(start_date=DAY), expected)
    for check in CHECKS:
        result = run_check(check, start_date=DAY)
        assert result.success, check
        [evaluation] = result.get_asset_check_evaluations()
        assert len(repr(evaluation.metadata)) < 100_000

    # A correction is kept as it was, whatever the agent is called.
    before = dict(query(database, "SELECT agent_id, to_jsonb(m) FROM agent_performance_metrics m"))
    store_logs(database, [Log(agent, "failed", 7, 7, "0.000000001", agent) for agent in expected])
    aggregate(database)
    replaced = dict(query(database, "SELECT agent_id, old_row FROM metric_restatements"))
    assert replaced == {agent: {name: before[agent][name] for name in replaced[agent]} for agent in expected}
    assert_exact_twice(database)


def in_window(logs_of_day: list[Log]) -> list[Log]:
    return [log for log in logs_of_day if WINDOW.start <= log.timestamp < WINDOW.end]


def assert_api_says(api: httpx2.Client, expected: dict[str, dict[str, Any]]) -> None:
    """The day's page, each agent's series and the sums of its summary equal the oracle's, digit by digit."""
    rows = exact(api.get("/api/v1/metrics", params={"date": str(DAY), "limit": 1000}))
    assert {row["agent_id"]: {name: row[name] for name in expected[row["agent_id"]]} for row in rows} == expected
    known = {row["agent_id"] for row in exact(api.get("/api/v1/agents", params={"limit": 1000}))}
    assert known >= set(expected)
    for agent, metrics in expected.items():
        path = f"/api/v1/metrics/{quote(agent, safe='')}"
        [row] = exact(api.get(path, params={"start_date": str(DAY), "end_date": str(DAY)}))
        assert {name: row[name] for name in metrics} == metrics
        assert exact(api.get(f"{path}/summary", params={"days": 1}))["agent_id"] == agent
    assert api.get("/api/v1/coverage", params={"start_date": str(DAY), "end_date": str(DAY)}).status_code == 200
    assert api.get("/metrics").status_code == 200


def exact(answer: httpx2.Response) -> Any:
    assert answer.status_code == 200, answer.text
    return json.loads(answer.text, parse_float=Decimal)


def test_long_names_and_error_types_are_shortened_and_none_is_taken_for_another(database: Database) -> None:
    long = "x" * 1_000_000
    store_agents(database, {"a": "active"})
    execute(database, "ALTER TABLE agent_execution_logs ALTER agent_id DROP NOT NULL")
    store_logs(database, [Log("a", "failed", error_type=long + end) for end in "112"])
    store_logs(database, [Log(long), Log(None)])
    report = day_metadata(aggregate(database))
    assert len(repr(report)) < 10_000
    errors = report["error_distribution"].value
    assert sorted(errors.values()) == [1, 2]
    assert all(re.fullmatch("x{200}…[0-9a-f]{16}", error) for error in errors)
    [one] = [agent for agent in report["skipped_agents"].value if agent["agent_id"] is not None]
    assert one["agent_id"].startswith("x" * 500 + "… (1,000,000 characters, SHA-256 ")
