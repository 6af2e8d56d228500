"""stored_rows_equal_ledger, on days that were stored and then tampered with."""

from datetime import timedelta

import dagster as dg
import pytest

from metrics_pipeline.metrics.windows import day_window
from metrics_pipeline.postgres.database import Database
from metrics_pipeline_tests.days import DAY, Log, aggregate, execute, store_agents, store_logs
from metrics_pipeline_tests.examples import variants

from .evaluations import TOMORROW, Evaluate, values

NAME = "stored_rows_equal_ledger"


def store(database: Database) -> None:
    """DAY, of three agents and a retired one that is skipped, and the day before, of which nothing is skipped."""
    store_agents(database, {"a": "active", "b|c": "active", "idle": "active", "retired": "inactive"})
    store_logs(
        database,
        [
            Log("a", "success", 10, 5, "0.1"),
            Log("a", "failed", 20, 5, "0.000000001", "timeout"),
            Log("b|c", "failed", 30, 7, "2"),
            Log("b|c", "running"),
            Log("retired", "success", 40, 11, "4"),
            Log("a", "success", 50, 13, "8", timestamp=day_window(DAY - timedelta(days=1), "UTC").start),
        ],
    )
    for day in (DAY - timedelta(days=1), DAY):
        aggregate(database, day_window(day, "UTC"))


def test_days_that_are_as_they_were_stored_pass(stored: Database, evaluate: Evaluate) -> None:
    verdict = evaluate(NAME)
    assert verdict.passed
    assert verdict.severity is dg.AssetCheckSeverity.ERROR
    assert verdict.description == "All 2 stored days add up."
    assert values(verdict) == {
        "days": "2025-03-03 to 2025-03-04",
        "days_checked": 2,
        "days_broken": 0,
        "days_expired": 0,
        "days_without_cost_to_compare": 0,
        "days_without_ledger": 0,
        "executions": 5,
        "broken_days": "None.",
    }


@pytest.mark.parametrize(
    ("tampering", "day", "found"),
    variants(
        [
            ("DELETE FROM agent_performance_metrics WHERE agent_id = 'idle'", 4, "rows 2, but agents in the ledger 3"),
            (
                """UPDATE agent_performance_metrics
                  SET total_executions = 3, success_rate = round(1/3.0, 6), avg_cost_per_execution = 0.033333334
                WHERE agent_id = 'a'""",
                4,
                "executions 5, but aggregated logs 4",
            ),
            (
                "UPDATE agent_performance_metrics SET error_distribution = '{}' WHERE agent_id = 'b|c'",
                4,
                "errors 1, but failed executions 2&#59; rows that contradict themselves&#58; &#39;b&#124;c&#39;",
            ),
            (
                """UPDATE agent_performance_metrics SET total_cost_usd = 4, avg_cost_per_execution = 2
                WHERE agent_id = 'b|c'""",
                4,
                "cost in nano-dollars 4100000001, but logs 2100000001",
            ),
            ("UPDATE agent_performance_metrics SET total_cost_usd = 3 WHERE agent_id = 'b|c'", 4, "&#39;b&#124;c&#39;"),
            ("UPDATE agent_performance_metrics SET total_tokens = 12", 3, "tokens 36, but ledger 13"),
            ("UPDATE agent_performance_metrics SET success_rate = 0.5 WHERE agent_id = 'idle'", 3, "&#39;idle&#39;"),
            ("UPDATE agent_performance_metrics SET p50_latency_ms = 99 WHERE agent_id = 'a'", 3, "&#39;a&#39;"),
            (
                "UPDATE agent_performance_metrics SET avg_latency_ms = 99 WHERE agent_id = 'a'",
                4,
                "its rows were altered",
            ),
            (
                "UPDATE agent_performance_metrics SET unique_users = 1 WHERE agent_id = 'idle'",
                3,
                "its rows were altered",
            ),
            (
                "UPDATE metric_day_ledger SET skipped_logs = skipped_logs + 1",
                3,
                "source logs 1, but aggregated and skipped 2",
            ),
        ]
    ),
)
def test_a_stored_day_that_somebody_changed_is_named(
    stored: Database, evaluate: Evaluate, tampering: str, day: int, found: str
) -> None:
    where = "AND" if "WHERE" in tampering else "WHERE"
    execute(stored, f"{tampering} {where} metric_date = '2025-03-0{day}'")
    verdict = evaluate(NAME)
    assert not verdict.passed
    assert verdict.severity is dg.AssetCheckSeverity.ERROR
    assert f"1 of 2 stored days do not add up: 2025-03-0{day}." in verdict.description
    assert values(verdict)["days_broken"] == 1
    assert found in values(verdict)["broken_days"]


def test_a_cost_that_has_nothing_left_to_be_compared_with_is_counted_and_not_blamed(
    stored: Database, evaluate: Evaluate
) -> None:
    dearer = """UPDATE agent_performance_metrics SET total_cost_usd = 4, avg_cost_per_execution = 2
                 WHERE agent_id = 'b|c' AND metric_date = '2025-03-04'"""
    execute(stored, dearer, "UPDATE metric_day_ledger SET rows_digest = NULL")  # as older versions stored it
    assert not evaluate(NAME).passed
    # Beyond the look-back window, pruned, or with logs that have changed since: that day is dirty, not broken.
    assert evaluate(NAME, lookback_days=1, now=TOMORROW + timedelta(days=1)).passed
    execute(stored, "UPDATE metric_day_ledger SET raw_pruned_at = now(), raw_pruned_logs = 5 WHERE skipped_logs > 0")
    sealed = evaluate(NAME)
    assert sealed.passed
    assert values(sealed)["days_without_cost_to_compare"] == 1
    execute(stored, "UPDATE metric_day_ledger SET raw_pruned_at = NULL")
    store_logs(stored, [Log("b|c", "success", cost_usd="2")])
    late = evaluate(NAME)
    assert late.passed
    assert values(late)["days_without_cost_to_compare"] == 1


def test_costs_finer_than_a_nano_dollar_and_costs_that_are_none_add_up(database: Database, evaluate: Evaluate) -> None:
    store_agents(database, {"a": "active", "b": "active"})
    store_logs(database, [Log("a", cost_usd="0.0000000006"), Log("a", cost_usd="0.0000000006"), Log("b", cost_usd="1")])
    store_logs(database, [Log("b", cost_usd=cost) for cost in ("NaN", "Infinity", "-Infinity", None)])
    aggregate(database)
    verdict = evaluate(NAME)
    assert verdict.passed
    assert values(verdict)["days_without_cost_to_compare"] == 0
    execute(
        database,
        """UPDATE agent_performance_metrics SET total_cost_usd = 3, avg_cost_per_execution = 0.6
            WHERE agent_id = 'b'""",
    )
    assert "cost in nano-dollars 3000000001, but logs 1000000001" in values(evaluate(NAME))["broken_days"]


def test_days_that_were_stored_before_the_ledger_are_counted_only(stored: Database, evaluate: Evaluate) -> None:
    execute(stored, "DELETE FROM metric_day_ledger WHERE metric_date = '2025-03-03'")
    verdict = evaluate(NAME)
    assert verdict.passed
    assert values(verdict)["days_checked"] == values(verdict)["days_without_ledger"] == 1


def test_days_whose_metrics_expired_are_counted_only_and_others_that_lost_theirs_are_broken(
    stored: Database, evaluate: Evaluate
) -> None:
    execute(stored, "UPDATE metric_day_ledger SET raw_pruned_at = now(), raw_pruned_logs = source_logs")
    execute(
        stored,
        "DELETE FROM agent_performance_metrics WHERE metric_date = '2025-03-03'",
        "UPDATE metric_day_ledger SET metrics_expired_at = now() WHERE metric_date = '2025-03-03'",
    )
    verdict = evaluate(NAME)
    assert verdict.passed
    assert (values(verdict)["days_expired"], values(verdict)["days_checked"]) == (1, 1)
    # A partition that came and went while it was pruned once had more logs deleted than were aggregated.
    execute(stored, "UPDATE metric_day_ledger SET raw_pruned_logs = source_logs + 1")
    assert "| 2025-03-03 | pruned logs 2, but source logs 1 |" in values(evaluate(NAME))["broken_days"]
    execute(stored, "UPDATE metric_day_ledger SET metrics_expired_at = NULL")
    assert "| 2025-03-03 | executions 0, but aggregated logs 1" in values(evaluate(NAME))["broken_days"]


def test_nothing_stored_has_the_same_metadata(database: Database, stored: Database, evaluate: Evaluate) -> None:
    full = list(evaluate(NAME).metadata)
    execute(stored, "DELETE FROM metric_day_ledger", "DELETE FROM agent_performance_metrics")
    nothing = evaluate(NAME)
    assert nothing.passed
    assert list(nothing.metadata) == full
    assert values(nothing)["days"] == "none"
