"""breakdowns_add_up, on a day by model that was tampered with, and on one of very many models."""

import dagster as dg
import pytest

from metrics_pipeline.metrics.dimensions import parse_dimensions
from metrics_pipeline.pipeline.aggregation import AggregationOptions, compute_day, store_day
from metrics_pipeline.pipeline.opening import open_logs
from metrics_pipeline.postgres.database import Database
from metrics_pipeline.store.publishing import Reason
from metrics_pipeline_tests.days import WINDOW, Log, execute, store_agents, store_logs

from .evaluations import Evaluate, values

NAME = "breakdowns_add_up"


def aggregate_by_model(database: Database) -> None:
    logs = open_logs(database, parse_dimensions("model"))
    computed = compute_day(database, logs, WINDOW, AggregationOptions())
    store_day(database, computed, run_id="a run", reason=Reason.MANUAL)


def store(database: Database) -> None:
    store_agents(database, {"a": "active", "b": "active", "idle": "active"})
    models = [("a", "m", "0.000000001"), ("a", "n", "2"), ("b", "m", None)]
    store_logs(
        database,
        [Log(agent, "failed", 1, 2, cost, "timeout", f'{{"model": "{model}"}}') for agent, model, cost in models],
    )
    aggregate_by_model(database)


def test_a_day_as_it_was_stored_passes(stored: Database, evaluate: Evaluate) -> None:
    verdict = evaluate(NAME)
    assert (verdict.passed, verdict.description) == (True, "The rows by value add up to the agents' rows (3).")
    assert values(verdict)["most_values"] == {"model": 2}


@pytest.mark.parametrize(
    ("tampering", "first", "sums"),
    [
        ("DELETE FROM agent_dimension_metrics", "total_executions of 'a'", 14),
        ("DELETE FROM agent_dimension_metrics WHERE value = 'n'", "total_executions of 'a'", 5),
        (
            "UPDATE agent_dimension_metrics SET total_cost_usd = total_cost_usd + 0.000000001 WHERE agent_id = 'b'",
            "total_cost_usd of 'b'",
            1,
        ),
        (
            """UPDATE agent_dimension_metrics SET error_distribution = '{"other": 1}' WHERE value = 'n'""",
            "error_distribution of 'a'",
            1,
        ),
    ],
)
def test_values_that_do_not_add_up_are_named(
    tampering: str, first: str, sums: int, stored: Database, evaluate: Evaluate
) -> None:
    execute(stored, tampering)
    verdict = evaluate(NAME)
    assert (verdict.passed, verdict.severity) == (False, dg.AssetCheckSeverity.ERROR)
    assert f"the first is {first} by model on 2025-03-04" in str(verdict.description)
    assert values(verdict)["sums_broken"] == sums


def test_a_key_with_very_many_values_is_named(database: Database, evaluate: Evaluate) -> None:
    store_agents(database, {"a": "active"})
    store_logs(database, [Log(metadata=f'{{"model": "{number}"}}') for number in range(1_001)])
    aggregate_by_model(database)
    verdict = evaluate(NAME)
    assert (verdict.passed, verdict.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert "model (1,001 values)" in str(verdict.description)
