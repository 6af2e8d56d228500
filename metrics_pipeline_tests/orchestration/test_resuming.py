"""A run that repeats another one leaves out the days that are done and still equal their logs."""

import pytest

from metrics_pipeline.metrics.windows import day_window
from metrics_pipeline.postgres.database import Database
from metrics_pipeline_tests.days import aggregate, query

from .runs import DAYS, FaultAt, Run, assert_equal_to_oracle, execute

FRIDAY, SATURDAY, SUNDAY = DAYS
KEYS = [day.isoformat() for day in DAYS]
FAULT = "RAISE EXCEPTION 'not now' USING ERRCODE = '23514';"


def test_a_run_that_repeats_a_failed_one_does_only_what_is_open(
    run: Run, logs: None, database: Database, fault_at: FaultAt
) -> None:
    fault_at(SATURDAY, FAULT, times=1)
    failed = run(FRIDAY, SUNDAY)
    assert failed.days == [KEYS[0], KEYS[2]]
    repeated = run(FRIDAY, SUNDAY, parent=failed)
    assert repeated.succeeded
    assert repeated.days == [KEYS[1]]
    assert_equal_to_oracle(database, *DAYS)


def test_a_run_that_repeats_a_repeated_run_leaves_out_what_both_have_done(
    run: Run, logs: None, database: Database, fault_at: FaultAt
) -> None:
    fault_at(SATURDAY, FAULT, times=2)
    first = run(FRIDAY, SATURDAY)
    second = run(FRIDAY, SATURDAY, parent=first)
    third = run(FRIDAY, SATURDAY, parent=second)
    assert (first.days, second.days, third.days) == ([KEYS[0]], [], [KEYS[1]])


@pytest.mark.parametrize(
    "change",
    [
        'UPDATE agent_execution_logs SET cost_usd = 2 WHERE "timestamp" < :saturday',
        "DELETE FROM metric_day_ledger WHERE metric_date < :saturday",
        "UPDATE metric_day_ledger SET definition_version = '0' WHERE metric_date < :saturday",
    ],
    ids=["logs corrected", "day cleared", "definition changed"],
)
def test_a_run_that_repeats_a_failed_one_does_a_day_again_that_changed_since(
    run: Run, logs: None, database: Database, fault_at: FaultAt, change: str
) -> None:
    fault_at(SUNDAY, FAULT, times=1)
    failed = run(FRIDAY, SUNDAY)
    execute(database, change, saturday=SATURDAY)
    assert run(FRIDAY, SUNDAY, parent=failed).days == [KEYS[0], KEYS[2]]
    assert_equal_to_oracle(database, *DAYS)


def test_a_run_that_repeats_a_failed_one_leaves_out_a_done_day_that_was_sealed_since(
    run: Run, logs: None, database: Database, fault_at: FaultAt
) -> None:
    fault_at(SATURDAY, FAULT, times=1)
    failed = run(FRIDAY, SATURDAY)
    execute(database, "UPDATE metric_day_ledger SET raw_pruned_at = now(), raw_pruned_logs = 200")
    execute(database, 'DELETE FROM agent_execution_logs WHERE "timestamp" < :saturday', saturday=SATURDAY)
    repeated = run(FRIDAY, SATURDAY, parent=failed)
    assert repeated.succeeded
    assert repeated.days == [KEYS[1]]


def test_a_run_that_repeats_a_failed_one_with_other_agents_does_every_day(
    run: Run, logs: None, database: Database, fault_at: FaultAt
) -> None:
    fault_at(SATURDAY, FAULT, times=1)
    failed = run(FRIDAY, SUNDAY)
    repeated = run(FRIDAY, SUNDAY, parent=failed, config={"include_inactive_agents": True})
    assert repeated.days == KEYS
    assert_equal_to_oracle(database, *DAYS, include_inactive=True)


@pytest.fixture
def declared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METRICS_DIMENSIONS", "model,task")


def test_a_run_that_renews_dimensions_does_only_the_stored_days_with_others_and_names_the_sealed_ones(
    logs: None, database: Database, declared: None, run: Run
) -> None:
    aggregate(database, day_window(FRIDAY, "UTC"))
    aggregate(database, day_window(SATURDAY, "UTC"))
    execute(database, "UPDATE metric_day_ledger SET raw_pruned_at = now(), raw_pruned_logs = 200"
                      " WHERE metric_date = :saturday", saturday=SATURDAY)  # fmt: skip
    renewed = run(FRIDAY, SUNDAY, config={"renew_dimensions": True})
    assert renewed.succeeded
    assert renewed.days == [KEYS[1], KEYS[0]]
    assert "2025-07-12 is sealed" in renewed.materializations[0].metadata["left_out"].value
    assert query(database, "SELECT metric_date, dimensions FROM metric_day_ledger ORDER BY 1") == [
        (FRIDAY, "model=metadata.model,task=metadata.task"),
        (SATURDAY, None),
    ]
    assert run(FRIDAY, config={"renew_dimensions": True}).days == []


def test_a_run_that_repeats_a_successful_one_does_all_again(run: Run, logs: None) -> None:
    assert run(FRIDAY, SUNDAY, parent=run(FRIDAY, SUNDAY)).days == KEYS
