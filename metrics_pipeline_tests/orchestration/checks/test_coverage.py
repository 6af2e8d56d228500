"""Agents without a row, and logs without an agent."""

from datetime import timedelta

import dagster as dg

from metrics_pipeline.metrics.windows import day_window
from metrics_pipeline.postgres.database import Database
from metrics_pipeline.store.acknowledgements import acknowledge, take_back
from metrics_pipeline_tests.days import DAY, Log, aggregate, execute, store_agents, store_logs
from metrics_pipeline_tests.orchestration.test_markdown import HOSTILE, HOSTILE_IN_A_CELL

from .evaluations import Evaluate, values

ROWS, LOGS = "active_agents_have_rows", "no_skipped_logs"


def test_every_active_agent_has_its_row_of_the_newest_stored_day(database: Database, evaluate: Evaluate) -> None:
    nothing = evaluate(ROWS)
    assert (nothing.passed, nothing.description) == (True, "No day is stored yet.")
    store_agents(database, {"a": "active", "gone": "inactive"})
    for day in (DAY - timedelta(days=1), DAY):
        aggregate(database, day_window(day, "UTC"))
    stored = evaluate(ROWS)
    assert stored.passed
    assert values(stored) == {"day": "2025-03-04", "active_agents": 1, "agents_without_row": 0, "agents": "None."}
    assert list(nothing.metadata) == list(stored.metadata)


def test_an_agent_that_was_activated_since_is_named_until_the_day_is_stored_again(
    database: Database, evaluate: Evaluate
) -> None:
    store_agents(database, {"a": "active"})
    aggregate(database)
    store_agents(database, {HOSTILE: "active", **{f"z {n:02}": "active" for n in range(25)}})
    verdict = evaluate(ROWS)
    assert not verdict.passed
    assert verdict.severity is dg.AssetCheckSeverity.WARN
    assert verdict.description == "26 active agents have no row of 2025-03-04. Materialise the day again to add them."
    table = values(verdict)["agents"]
    assert f"| {HOSTILE_IN_A_CELL} | name |" in table
    assert table.endswith("\n\nand 6 more")
    assert len(table.splitlines()) == 2 + 20 + 2
    aggregate(database)
    assert evaluate(ROWS).passed


def test_skipped_logs_are_counted_and_their_agents_named_with_the_reason(
    database: Database, evaluate: Evaluate
) -> None:
    execute(database, "ALTER TABLE agent_execution_logs ALTER agent_id DROP NOT NULL")
    store_agents(database, {"a": "active", "retired": "inactive"})
    store_logs(database, [Log("a"), *[Log("retired")] * 3, *[Log(HOSTILE)] * 2, Log(None)])
    before = day_window(DAY - timedelta(days=1), "UTC")
    store_logs(database, [Log(agent, timestamp=before.start) for agent in ("a", "retired")])
    for window in (before, day_window(DAY, "UTC")):
        aggregate(database, window)
    verdict = evaluate(LOGS)
    assert not verdict.passed
    assert verdict.severity is dg.AssetCheckSeverity.WARN
    assert verdict.asset_key == dg.AssetKey("agent_execution_logs")
    assert verdict.description == (
        "7 of 9 logs on 2 days are in no metric; their agents (3 found) are inactive or not registered."
    )
    assert values(verdict)["agents"].splitlines()[2:] == [
        "| retired | inactive |  | 4 | 2 |",
        f"| {HOSTILE_IN_A_CELL} | not registered |  | 2 | 1 |",
        "| NULL | not registered |  | 1 | 1 |",
    ]
    # Pruned logs are still counted, but their agents can no longer be named.
    execute(database, "UPDATE metric_day_ledger SET raw_pruned_at = now(), raw_pruned_logs = 9")
    sealed = evaluate(LOGS)
    assert (values(sealed)["logs_skipped"], values(sealed)["agents"]) == (7, "None.")
    assert values(evaluate(LOGS, lookback_days=1))["logs_skipped"] == 6


def test_skipped_logs_of_acknowledged_agents_only_pass(database: Database, evaluate: Evaluate) -> None:
    store_agents(database, {"a": "active", "retired": "inactive"})
    store_logs(database, [Log("a"), *[Log("retired")] * 3, Log("unregistered")])
    aggregate(database)
    with database.begin() as connection:
        acknowledge(connection, ["retired"], "retired in May")
    verdict = evaluate(LOGS)
    assert not verdict.passed
    assert values(verdict)["agents_acknowledged"] == 1
    assert values(verdict)["agents"].splitlines()[2:] == [
        "| unregistered | not registered |  | 1 | 1 |",
        "| retired | inactive | yes | 3 | 1 |",
    ]
    with database.begin() as connection:
        acknowledge(connection, ["unregistered"], "a test client")
    verdict = evaluate(LOGS)
    assert verdict.passed
    assert verdict.description == "4 of 5 logs on 1 day are in no metric, all of acknowledged agents."
    # Nobody can tell whose the missing log was.
    execute(database, "DELETE FROM agent_execution_logs WHERE agent_id = 'unregistered'")
    assert not evaluate(LOGS).passed
    with database.begin() as connection:
        assert take_back(connection, ["retired", "a"]) == ["retired"]
    assert values(evaluate(LOGS))["agents_acknowledged"] == 0


def test_logs_that_are_all_in_the_metrics_pass(database: Database, evaluate: Evaluate) -> None:
    store_agents(database, {"a": "active"})
    store_logs(database, [Log("a"), Log("a")])
    # Not stored yet, these are not skipped either.
    assert evaluate(LOGS).description == "All logs are in the metrics: 0 logs of 0 stored days."
    aggregate(database)
    verdict = evaluate(LOGS)
    assert verdict.passed
    assert verdict.description == "All logs are in the metrics: 2 logs of 1 stored day."
    assert values(verdict)["agents_skipped"] == 0
