"""Totals over all agents of a day, computed by hand."""

from metrics_pipeline.metrics.calculator import DayTotals

from .test_calculator import logs, totals_of


def test_they_are_of_all_executions_and_users_in_scope_and_of_no_others() -> None:
    frame = logs(
        *({"agent_id": "a", "latency_ms": latency, "user_id": "u"} for latency in (10, 20, 30)),
        {"agent_id": "b", "latency_ms": 20, "user_id": "u"},
        {"agent_id": "b", "latency_ms": 1000, "user_id": "v"},
        {"agent_id": "b"},
        {"agent_id": "retired", "latency_ms": 90_000, "user_id": "w"},
    )
    # 10, 20, 20, 30, 1000: position 0.95 * 4 = 3.8, so 30 + 0.8 * 970 = 806.
    assert totals_of(frame, ["a", "b", "idle"]) == DayTotals(p95_latency_ms=806, unique_users=2)
    # 10, 20, 30: position 1.9, so 20 + 0.9 * 10 = 29.
    assert totals_of(frame, ["a"]) == DayTotals(p95_latency_ms=29, unique_users=1)
    assert totals_of(frame, []) == totals_of(frame, ["idle"]) == totals_of(logs(), ["a"]) == DayTotals(0, 0)
