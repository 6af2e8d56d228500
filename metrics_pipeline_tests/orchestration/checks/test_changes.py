"""no_unusual_changes, on stored days. What is unusual is tested by hand elsewhere."""

from datetime import date, timedelta

import dagster as dg
import pytest

from metrics_pipeline.postgres.database import Database
from metrics_pipeline.store.acknowledgements import acknowledge
from metrics_pipeline_tests.days import DAY, execute
from metrics_pipeline_tests.orchestration.test_markdown import HOSTILE, HOSTILE_IN_A_CELL

from .evaluations import TOMORROW, Evaluate, values

NAME = "no_unusual_changes"


def store(database: Database) -> None:
    """Nine weeks of two agents with 100 executions each day; DAY is the last of them."""
    execute(
        database,
        """INSERT INTO agent_performance_metrics
           SELECT agent, day, 100, 90, 10, 0.9, 400, 300, 1000, 2000, 5000, 50, 0.5, '{"timeout": 10}', 0, 7
             FROM unnest(CAST(:agents AS text[])) AS agent,
                  generate_series(CAST(:first AS date), CAST(:last AS date), '1 day') AS day""",
        """INSERT INTO metric_day_ledger
           SELECT DISTINCT metric_date, 'UTC', metric_date, metric_date + 1, 200, 200, 0, 2,
                  '{"logs": 200, "successful": 180, "failed": 20, "latency_ms": 80000, "tokens": 10000,
                    "cost_nano_usd": 100000000000, "content_hash": 0}', '1', now(), now(), 'a run'
             FROM agent_performance_metrics""",
        agents=["a", HOSTILE],
        first=DAY - timedelta(weeks=9),
        last=DAY,
    )


def test_a_day_like_those_before_it_passes(stored: Database, evaluate: Evaluate) -> None:
    verdict = evaluate(NAME)
    assert verdict.passed
    assert verdict.description == "None of the agents with enough history (2) changed on 2025-03-04."
    assert values(verdict) == {
        "day": "2025-03-04",
        "agents": 2,
        "agents_with_enough_history": 2,
        "agents_changed": 0,
        "agents_acknowledged": 0,
        "changed_success_rate": 0,
        "changed_p95_latency_ms": 0,
        "changed_avg_cost_per_execution": 0,
        "changed_total_executions": 0,
        "changes": "None.",
    }


def test_agents_that_changed_are_named_with_what_is_usual_for_them(stored: Database, evaluate: Evaluate) -> None:
    execute(
        stored,
        """UPDATE agent_performance_metrics SET success_rate = 0.5, p95_latency_ms = 4000
            WHERE metric_date = '2025-03-04' AND agent_id <> 'a'""",
    )
    verdict = evaluate(NAME)
    assert not verdict.passed
    assert verdict.severity is dg.AssetCheckSeverity.WARN
    assert verdict.description == "1 of 2 agents changed on 2025-03-04: 1 in success_rate, 1 in p95_latency_ms."
    assert values(verdict)["agents_changed"] == 1
    with stored.begin() as connection:
        acknowledge(connection, [HOSTILE], "moved to another product")
    acknowledged = evaluate(NAME)
    assert acknowledged.passed
    assert (values(acknowledged)["agents_acknowledged"], values(acknowledged)["agents_with_enough_history"]) == (1, 1)
    assert values(verdict)["changes"].splitlines()[2:] == [
        f"| {HOSTILE_IN_A_CELL} | p95&#95;latency&#95;ms | 4,000 | 500 | 1,500 | 100 | 1,000 | 1,000 |",
        f"| {HOSTILE_IN_A_CELL} | success&#95;rate | 0.5 | 0.77509 | 1 | 100 | 0.9 | 0.9 |",
    ]


@pytest.mark.parametrize("last", [DAY, DAY - timedelta(days=3)])
def test_it_looks_at_the_newest_stored_day_whichever_that_is(stored: Database, evaluate: Evaluate, last: date) -> None:
    execute(stored, "DELETE FROM metric_day_ledger WHERE metric_date > :last", last=last)
    execute(
        stored, "UPDATE agent_performance_metrics SET avg_cost_per_execution = 5 WHERE metric_date = :last", last=last
    )
    assert evaluate(NAME).description == f"2 of 2 agents changed on {last}: 2 in avg_cost_per_execution."
    # A day that has not ended is no evidence yet.
    early = evaluate(NAME, now=TOMORROW - timedelta(days=2))
    assert early.passed is (last == DAY)


def test_nothing_stored_has_the_same_metadata(database: Database, evaluate: Evaluate, stored: Database) -> None:
    full = list(evaluate(NAME).metadata)
    execute(database, "DELETE FROM metric_day_ledger", "DELETE FROM agent_performance_metrics")
    nothing = evaluate(NAME)
    assert nothing.passed
    assert list(nothing.metadata) == full
