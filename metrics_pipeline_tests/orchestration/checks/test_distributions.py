"""distributions_equal_metrics: what it looks at, and what it says of a distribution that is wrong or missing."""

from datetime import timedelta

import dagster as dg

from metrics_pipeline.metrics.windows import day_window
from metrics_pipeline.postgres.database import Database
from metrics_pipeline_tests.days import DAY, Log, aggregate, execute, store_agents, store_logs

from .evaluations import Evaluate, values

NAME = "distributions_equal_metrics"


def test_a_distribution_that_contradicts_the_metrics_is_named(database: Database, evaluate: Evaluate) -> None:
    store_agents(database, dict.fromkeys("ab", "active"))
    for day in (DAY - timedelta(days=1), DAY):
        at = day_window(day, "UTC").start
        store_logs(database, [Log(agent, latency_ms=7, metadata='{"user_id": "u"}', timestamp=at) for agent in "ab"])
        aggregate(database, day_window(day, "UTC"))
    verdict = evaluate(NAME)
    assert verdict.passed
    assert verdict.description == "All distributions equal the metrics (4)."
    execute(
        database,
        f"UPDATE agent_performance_metrics SET p95_latency_ms = 8 WHERE (agent_id, metric_date) = ('b', '{DAY}')",
    )
    execute(database, f"DELETE FROM agent_day_distributions WHERE (agent_id, metric_date) = ('a', '{DAY}')")
    verdict = evaluate(NAME)
    assert not verdict.passed
    assert verdict.severity is dg.AssetCheckSeverity.ERROR
    assert verdict.description.startswith("1 distribution contradicts the metrics, the first of 'b' on 2025-03-04. ")
    found = values(verdict)
    assert (found["distributions"], found["rows_without_distribution"], found["distributions_broken"]) == (3, 1, 1)
    assert found["days"] == "2025-02-19 to 2025-03-04"
