"""Contradictions in a stored day, computed by hand."""

from dataclasses import replace
from datetime import date

import pytest

from metrics_pipeline.metrics.conservation import (
    AgentLogs,
    LogCosts,
    SkippedAgent,
    StoredTotals,
    contradictions,
    is_cost_compared,
    log_costs,
    skipped_agents,
)
from metrics_pipeline.metrics.fingerprint import SourceFingerprint
from metrics_pipeline_tests.ledger_rows import DAY, PRUNED_AT, ledger_row

#: Ten logs that cost 50 nano-dollars: six successful, three failed, one running.
LOGS = SourceFingerprint(logs=10, successful=6, failed=3, latency_ms=0, tokens=70, cost_nano_usd=50, content_hash=0)
ALL = StoredTotals(
    ledger=ledger_row(LOGS),
    rows=2,
    executions=10,
    successful=6,
    failed=3,
    errors=3,
    tokens=70,
    cost_nano_usd=50,
    contradictory_agents=(),
    digest="columns:1",
)
#: The same day with two of the successful ones skipped, of 20 tokens and 15 nano-dollars.
SOME = replace(
    ALL,
    ledger=ledger_row(LOGS, aggregated_logs=8, skipped_logs=2),
    executions=8,
    successful=4,
    tokens=50,
    cost_nano_usd=35,
)
SAME_LOGS = LogCosts(logs=10, cost_nano_usd=50, aggregated_cost_nano_usd=35)


def test_days_that_add_up_have_no_contradiction() -> None:
    assert contradictions(ALL, None) == []
    assert contradictions(SOME, SAME_LOGS) == []
    assert contradictions(SOME, None) == []
    assert is_cost_compared(ALL, None)
    assert is_cost_compared(SOME, SAME_LOGS)
    assert not is_cost_compared(SOME, None)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            {"ledger": ledger_row(LOGS, raw_pruned_at=PRUNED_AT, raw_pruned_logs=11)},
            ["pruned logs 11, but source logs 10"],
        ),
        (
            {"ledger": ledger_row(LOGS, source_logs=11)},
            ["source logs 11, but aggregated and skipped 10", "source logs 11, but fingerprint 10"],
        ),
        ({"executions": 9}, ["executions 9, but aggregated logs 10"]),
        ({"rows": 1}, ["rows 1, but agents in the ledger 2"]),
        ({"errors": 4}, ["errors 4, but failed executions 3"]),
        ({"failed": 2, "errors": 2}, ["failed executions 2, but ledger 3"]),
        ({"successful": 7}, ["successful executions 7, but ledger 6"]),
        ({"tokens": 71}, ["tokens 71, but ledger 70"]),
        ({"contradictory_agents": ("a|b", "c")}, ["rows that contradict themselves: 'a|b', 'c'"]),
        ({"ledger": ledger_row(LOGS, rows_digest="columns:2")}, ["its rows were altered after they were stored"]),
        ({"ledger": ledger_row(LOGS, rows_digest="columns:1")}, []),
        ({"ledger": ledger_row(LOGS, rows_digest="other columns:2")}, []),
        (
            {"ledger": ledger_row(LOGS, breakdown_digest="columns:2"), "breakdown_digest": "columns:1"},
            ["its rows by value were altered after they were stored"],
        ),
        ({"ledger": ledger_row(LOGS, breakdown_digest="columns:1"), "breakdown_digest": "columns:1"}, []),
        ({"ledger": ledger_row(LOGS, breakdown_digest="columns:2")}, []),  # its rows by value were not read
        ({"breakdown_digest": "columns:1"}, []),  # stored by an older version
    ],
)
def test_a_sum_that_differs_is_named_with_both_numbers(change: dict[str, object], expected: list[str]) -> None:
    assert contradictions(replace(ALL, **change), None) == expected


def test_with_skipped_logs_the_rows_may_lack_at_most_those() -> None:
    assert contradictions(replace(SOME, successful=6, failed=1, errors=1), None) == []
    assert contradictions(replace(SOME, successful=3), None) == [
        "successful executions 3, which 6 in the ledger and 2 skipped logs do not allow"
    ]
    assert contradictions(replace(SOME, failed=4, errors=4), None) == [
        "failed executions 4, which 3 in the ledger and 2 skipped logs do not allow"
    ]


def test_a_cost_is_compared_with_the_logs_where_the_ledger_cannot_confirm_it() -> None:
    assert contradictions(replace(SOME, cost_nano_usd=36), SAME_LOGS) == ["cost in nano-dollars 36, but logs 35"]
    assert contradictions(replace(SOME, cost_nano_usd=50), SAME_LOGS) == ["cost in nano-dollars 50, but logs 35"]
    # Two costs of 0.4 nano-dollars, which the ledger's total leaves out, were rounded up to one.
    finer = replace(ALL, cost_nano_usd=51)
    assert contradictions(finer, replace(SAME_LOGS, aggregated_cost_nano_usd=51)) == []
    assert contradictions(finer, replace(SAME_LOGS, aggregated_cost_nano_usd=52)) == [
        "cost in nano-dollars 51, but logs 52"
    ]


@pytest.mark.parametrize("costs", [None, replace(SAME_LOGS, logs=11), replace(SAME_LOGS, cost_nano_usd=49)])
def test_logs_that_are_gone_or_have_changed_say_nothing_of_a_cost(costs: LogCosts | None) -> None:
    day = replace(SOME, cost_nano_usd=36)
    assert contradictions(day, costs) == []
    assert not is_cost_compared(day, costs)


#: What three agents and nobody logged on two days.
LOGGED = [
    AgentLogs(DAY, "a", 5, 10, 11),
    AgentLogs(DAY, "b", 2, 20, 20),
    AgentLogs(DAY, None, 3, 30, 30),
    AgentLogs(date(2025, 3, 5), "b", 4, 40, 40),
    AgentLogs(date(2025, 3, 5), "c", 6, 50, 50),
]


def test_a_day_costs_what_all_its_logs_cost_and_its_rows_what_those_of_their_agents_cost() -> None:
    assert log_costs(LOGGED, {DAY: {"a", "idle"}}) == {
        DAY: LogCosts(logs=10, cost_nano_usd=60, aggregated_cost_nano_usd=11),
        date(2025, 3, 5): LogCosts(logs=10, cost_nano_usd=90, aggregated_cost_nano_usd=0),
    }


def test_agents_are_skipped_on_the_days_on_which_they_have_logs_and_no_row_most_logs_first() -> None:
    with_rows = {DAY: {"a"}, date(2025, 3, 5): {"a"}}
    assert skipped_agents(LOGGED, with_rows) == [
        SkippedAgent("b", 6, 2),
        SkippedAgent("c", 6, 1),
        SkippedAgent(None, 3, 1),
    ]
    assert skipped_agents(LOGGED, {DAY: {"a", "b"}, date(2025, 3, 5): {"b", "c"}}) == [SkippedAgent(None, 3, 1)]
