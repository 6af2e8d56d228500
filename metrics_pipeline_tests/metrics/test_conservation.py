"""What does not add up of a stored day, by hand."""

from dataclasses import replace
from datetime import date

import pytest

from metrics_pipeline.metrics.conservation import LogCosts, StoredTotals, contradictions, expired_days, is_cost_compared
from metrics_pipeline.metrics.fingerprint import SourceFingerprint

#: Ten logs that cost 50 nano-dollars: six successful, three failed, one running.
LOGS = SourceFingerprint(logs=10, successful=6, failed=3, latency_ms=0, tokens=70, cost_nano_usd=50, content_hash=0)
ALL = StoredTotals(
    metric_date=date(2025, 3, 4),
    source_logs=10,
    aggregated_logs=10,
    skipped_logs=0,
    agents=2,
    fingerprint=LOGS,
    is_sealed=False,
    rows=2,
    executions=10,
    successful=6,
    failed=3,
    errors=3,
    tokens=70,
    cost_nano_usd=50,
    contradictory_agents=(),
)
#: The same day with two of the successful ones skipped, of 20 tokens and 15 nano-dollars.
SOME = replace(ALL, aggregated_logs=8, skipped_logs=2, executions=8, successful=4, tokens=50, cost_nano_usd=35)
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
            {"source_logs": 11},
            ["source logs 11, but aggregated and skipped 10", "source logs 11, but fingerprint 10"],
        ),
        ({"executions": 9}, ["executions 9, but aggregated logs 10"]),
        ({"rows": 1}, ["rows 1, but agents in the ledger 2"]),
        ({"errors": 4}, ["errors 4, but failed executions 3"]),
        ({"failed": 2, "errors": 2}, ["failed executions 2, but ledger 3"]),
        ({"successful": 7}, ["successful executions 7, but ledger 6"]),
        ({"tokens": 71}, ["tokens 71, but ledger 70"]),
        ({"contradictory_agents": ("a|b", "c")}, ["rows that contradict themselves: 'a|b', 'c'"]),
    ],
)
def test_a_sum_that_differs_is_named_with_both_numbers(change: dict[str, object], expected: list[str]) -> None:
    assert contradictions(replace(ALL, **change), None) == expected


def test_days_whose_rows_retention_deleted_are_told_from_days_that_lost_theirs() -> None:
    def day(number: int, *, rows: int, is_sealed: bool) -> StoredTotals:
        return replace(ALL, metric_date=date(2025, 3, number), rows=rows, is_sealed=is_sealed)

    days = [
        day(1, rows=0, is_sealed=True),
        day(2, rows=2, is_sealed=True),
        day(3, rows=0, is_sealed=True),
        day(4, rows=0, is_sealed=False),
        day(5, rows=0, is_sealed=True),
    ]
    # The first day lies before every day that has rows, whatever the policy is.
    assert expired_days(days, date(2025, 1, 1)) == {date(2025, 3, 1)}
    # The second was held back, when the third was deleted.
    assert expired_days(days, date(2025, 3, 5)) == {date(2025, 3, 1), date(2025, 3, 3)}
    assert expired_days(days[3:], date(2025, 1, 1)) == {date(2025, 3, 5)}
    assert expired_days([], date(2025, 1, 1)) == set()


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
