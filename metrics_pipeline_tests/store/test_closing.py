"""Sealing and clearing a day: what is stored afterwards, and that neither loses a value."""

import pytest

from metrics_pipeline.errors import DayRefusedError
from metrics_pipeline.metrics.fingerprint import SourceFingerprint
from metrics_pipeline.metrics.reconciliation import DayState, DayVerdict
from metrics_pipeline.postgres.database import Database
from metrics_pipeline.store.closing import clear_day, seal_day
from metrics_pipeline_tests.days import (
    DAY,
    WINDOW,
    Log,
    aggregate,
    assert_exact,
    execute,
    judged,
    present,
    query,
    store_agents,
    store_logs,
    written_rows,
)


@pytest.fixture
def shrunk(database: Database) -> Database:
    store_agents(database, {"a": "active", "b": "active"})
    store_logs(database, [Log(latency_ms=n, token_count=5, cost_usd="0.5") for n in range(3)])
    store_logs(database, [Log("b", "failed"), Log("unregistered")])
    aggregate(database)
    execute(database, "DELETE FROM agent_execution_logs WHERE latency_ms < 2")
    return database


def left(database: Database) -> SourceFingerprint:
    found = present(database, WINDOW)[DAY]
    assert isinstance(found, SourceFingerprint)
    return found


def verdict_of(database: Database) -> DayVerdict:
    (verdict,) = judged(database, DAY)
    return verdict


@pytest.mark.parametrize("with_ledger", [True, False])
def test_a_sealed_day_keeps_its_metrics_for_good(shrunk: Database, with_ledger: bool) -> None:
    if not with_ledger:
        execute(shrunk, "DELETE FROM metric_day_ledger")
    before = written_rows(shrunk, "agent_performance_metrics", "metric_restatements")
    assert verdict_of(shrunk).state is DayState.SHRUNK
    assert verdict_of(shrunk).reason == "2 of 4 aggregated logs are gone: 'a' has 1 of 3 left"
    # Without a ledger, nothing is known of the log that was skipped.
    assert seal_day(shrunk, WINDOW, left(shrunk)) == (2 if with_ledger else 1)
    assert verdict_of(shrunk).state is DayState.SEALED
    with pytest.raises(DayRefusedError, match="is sealed"):
        aggregate(shrunk)
    with pytest.raises(DayRefusedError, match="is sealed already"):
        seal_day(shrunk, WINDOW, left(shrunk))
    with pytest.raises(DayRefusedError, match="could not be computed again"):
        clear_day(shrunk, WINDOW)
    assert written_rows(shrunk, "agent_performance_metrics", "metric_restatements") == before


def test_a_cleared_day_is_as_if_it_had_never_been_aggregated_and_its_values_are_kept(shrunk: Database) -> None:
    assert clear_day(shrunk, WINDOW) == 2
    assert query(shrunk, "SELECT 1 FROM agent_performance_metrics UNION ALL SELECT 1 FROM metric_day_ledger") == []
    kept = "SELECT reason, old_row -> 'total_executions', new_row FROM metric_restatements WHERE agent_id = 'a'"
    assert query(shrunk, kept) == [("cleared", 3, None)]
    assert verdict_of(shrunk).state is DayState.MISSING
    aggregate(shrunk)
    assert_exact(shrunk)
    assert clear_day(shrunk, WINDOW) == 2
    with pytest.raises(DayRefusedError, match=r"^Nothing is stored for 2025-03-04, so there is nothing to clear"):
        clear_day(shrunk, WINDOW)


def test_a_day_without_metrics_cannot_be_sealed_nor_one_of_which_no_log_is_gone(database: Database) -> None:
    with pytest.raises(DayRefusedError, match="no stored metrics to keep"):
        seal_day(database, WINDOW, left(database))
    store_agents(database, {"a": "active"})
    store_logs(database, [Log()])
    aggregate(database)
    # Also if a dimension is declared since.
    for now in (left(database), left(database).with_further({"a dimension": 1})):
        with pytest.raises(DayRefusedError, match="equals its logs, none of which is gone"):
            seal_day(database, WINDOW, now)
    assert verdict_of(database).state is DayState.AGGREGATED


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        ("DELETE FROM agent_performance_metrics WHERE agent_id = 'b'", "rows 1, but agents in the ledger 2"),
        (
            "UPDATE agent_performance_metrics SET total_cost_usd = total_cost_usd * 2 WHERE agent_id = 'a'",
            "rows that contradict themselves: 'a'",
        ),
    ],
)
def test_rows_that_somebody_deleted_or_altered_are_seen_and_healed(
    database: Database, damage: str, reason: str
) -> None:
    store_agents(database, {"a": "active", "b": "active"})
    store_logs(database, [Log(cost_usd="0.5"), Log(cost_usd="0.5"), Log("b"), Log("unregistered")])
    aggregate(database)
    execute(database, damage)
    found = verdict_of(database)
    assert (found.state, found.needs_run) == (DayState.DAMAGED, True)
    assert reason in found.reason
    aggregate(database)
    assert verdict_of(database).state is DayState.AGGREGATED
    assert_exact(database)
