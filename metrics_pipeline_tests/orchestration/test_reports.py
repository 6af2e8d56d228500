"""The UI's report of a day shows any agent's name, and no name changes its layout."""

import html
from datetime import date

import pytest

from metrics_pipeline.metrics.dimensions import parse_dimensions
from metrics_pipeline.orchestration.reports import alert_metadata, day_metadata
from metrics_pipeline.pipeline.aggregation import AggregationOptions, compute_day, store_day
from metrics_pipeline.pipeline.opening import open_logs
from metrics_pipeline.postgres.database import Database
from metrics_pipeline.store.answers.alerts import alert_changes
from metrics_pipeline.store.publishing import Reason
from metrics_pipeline_tests.api.alerts import store_alerts
from metrics_pipeline_tests.days import NOON, WINDOW, Log, aggregate, execute, store_agents, store_logs


@pytest.mark.parametrize(
    "agent",
    [
        "support-triage/claude_4.1",
        "a|b \\| c",
        "two\nlines\r\n| fake | 9 | 9 | 1 | 1 | 1 |",
        "[link](javascript:alert(1)) <img src=x onerror=alert(1)> **bold** `code` https://example.org &amp;",
    ],
)
def test_the_table_of_failing_agents_has_one_row_per_agent_whatever_its_name(database: Database, agent: str) -> None:
    store_agents(database, {agent: "active", "fine": "active"})
    store_logs(database, [Log(agent, "failed", 10, cost_usd="0.5"), Log(agent), Log("fine")])
    heading, _, row = day_metadata(aggregate(database))["agents_with_most_failures"].value.split("\n")
    cells = row.removeprefix("| ").removesuffix(" |").split(" | ")
    assert len(cells) == heading.count("|") - 1 == 3
    assert [html.unescape(cell) for cell in cells] == [agent, "1", "2"]
    assert not set("[]()<>*`:/\\\r") & set(row)


def test_a_day_is_told_first_in_units_that_people_read_and_timings_last(database: Database) -> None:
    store_agents(database, {"a": "active", "idle": "active"})
    store_logs(database, [Log("a", "failed", 1234, 2_000_000, cost_usd="1499.996")] + [Log("a", token_count=0)] * 3)
    metadata = day_metadata(aggregate(database))
    assert list(metadata)[:3] == ["day", "in_short", "warning"]
    assert metadata["day"].value == "Tuesday, 2025-03-04"
    assert metadata["in_short"].value == (
        "4 executions of 2 agents, 1 failed (25.00%), $1,500.00, 2,000,000 tokens, p95 1,234 ms, 0 users"
    )
    assert metadata["failure_rate"].value == 0.25
    assert metadata["cost_per_execution_usd"].value == 374.999
    assert metadata["agents_with_highest_cost"].value.splitlines()[2] == "| a | 1,500.00 | 4 |"
    assert all(name.startswith("seconds_") for name in list(metadata)[-6:-1])


def test_what_the_logs_do_not_have_is_unknown_and_not_zero_in_the_report_of_a_day(database: Database) -> None:
    store_agents(database, {"a": "active"})
    execute(database, "ALTER TABLE agent_execution_logs DROP cost_usd, DROP latency_ms")
    insert = "INSERT INTO agent_execution_logs (agent_id, status, timestamp, metadata)"
    execute(database, f"""{insert} VALUES ('a', 'success', '{NOON}', '{{"model": "m"}}')""")
    computed = compute_day(database, open_logs(database, parse_dimensions("model")), WINDOW, AggregationOptions())
    stored = store_day(database, computed, run_id="a run", reason=Reason.MANUAL)
    metadata = day_metadata(stored)
    assert metadata["in_short"].value == (
        "1 execution of 1 agent, 0 failed (0.00%), cost unknown, 0 tokens, p95 unknown, 0 users"
    )
    assert {name for name, value in metadata.items() if value.value is None} == {
        "cost_usd", "cost_per_execution_usd", "agents_with_highest_cost", "p95_latency_ms", "agents_with_worst_p95",
    }  # fmt: skip
    assert metadata["top_model"].value.splitlines()[2] == "| m | value | 1 | 0 | unknown |"


def test_the_values_of_a_dimension_are_a_table(database: Database) -> None:
    store_agents(database, {"a": "active", "b": "active"})
    store_logs(
        database,
        [
            Log("a", "failed", 1, 5, "0.5", None, '{"model": "m|n"}'),
            Log("b", "success", 1, 5, "0.25", None, '{"model": "m|n"}'),
            Log("b"),
        ],
    )
    logs = open_logs(database, parse_dimensions("model"))
    computed = compute_day(database, logs, WINDOW, AggregationOptions())
    metadata = day_metadata(store_day(database, computed, run_id="a run", reason=Reason.MANUAL))
    _, _, first, second = metadata["top_model"].value.split("\n")
    assert [html.unescape(cell) for cell in first.strip("| ").split(" | ")] == ["m|n", "value", "2", "1", "0.75"]
    assert [html.unescape(cell) for cell in second.strip("| ").split(" | ")][:3] == ["(none)", "none", "1"]
    assert (metadata["dimensions"].value, metadata["rows_by_value"].value) == ("model=metadata.model", 3)


def test_a_run_says_what_became_of_alerts_when_it_stored_the_day(database: Database) -> None:
    store_alerts(database, "<a>")
    execute(database, "UPDATE metric_alert_transitions SET run_id = 'r' WHERE opened_on = '2025-03-01'")
    with database.connect() as connection:
        found = alert_metadata(alert_changes(connection, "r", date(2025, 3, 1)))
        other_run = alert_metadata(alert_changes(connection, "r2", date(2025, 3, 1)))
    assert {name: value.value for name, value in found.items() if name != "alerts"} == {
        "alerts_opened": 0, "alerts_changed": 0, "alerts_resolved": 0, "alerts_withdrawn": 2,
    }  # fmt: skip
    why = "success rate 0.5, usual from 0.9315 to 1.0"
    row = f"| <a> | withdrawn, warning: unusual success rate, 2025-03-01 | {why} |"
    assert html.unescape(found["alerts"].value).splitlines()[2:] == [row, row]
    assert [*other_run] == [*found]
    assert other_run["alerts"].value == "None changed."
