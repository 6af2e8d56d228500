from datetime import UTC, datetime

import pytest

from metrics_pipeline.errors import DayRefusedError
from metrics_pipeline.metrics.reconciliation import DayState
from metrics_pipeline.metrics.windows import day_window
from metrics_pipeline.postgres.database import Database
from metrics_pipeline.store.closing import clear_day
from metrics_pipeline.store.ledger import StoredDay, read_stored_day
from metrics_pipeline_tests.days import (
    DAY,
    WINDOW,
    Log,
    aggregate,
    assert_exact,
    column,
    execute,
    judged,
    query,
    store_agents,
    store_logs,
    written_rows,
)


def stored(database: Database) -> StoredDay:
    with database.engine.connect() as connection:
        return read_stored_day(connection, DAY)


@pytest.fixture
def aggregated(database: Database) -> Database:
    store_agents(database, {"a": "active"})
    store_logs(database, [Log(), Log(), Log("unregistered")])
    aggregate(database, run_id="first")
    return database


def test_the_ledger_tells_what_was_aggregated_when_and_by_which_run(aggregated: Database) -> None:
    [row] = query(
        aggregated,
        """SELECT metric_date, time_zone, window_start, window_end, source_logs, aggregated_logs, skipped_logs, agents,
                  definition_version, run_id, raw_pruned_at, raw_pruned_logs,
                  snapshot_at <= aggregated_at, now() - snapshot_at < interval '1 minute'
             FROM metric_day_ledger""",
    )
    assert row == (DAY, "UTC", WINDOW.start, WINDOW.end, 3, 2, 1, 1, "1", "first", None, None, True, True)


def test_of_a_day_that_was_never_aggregated_nothing_is_stored(database: Database) -> None:
    assert stored(database) == StoredDay(None, {})


def test_the_ledger_s_row_changes_its_version_with_every_run(aggregated: Database) -> None:
    first = stored(aggregated)
    assert first.ledger is not None
    assert first.executions == {"a": 2}
    assert (first.ledger.time_zone, first.ledger.definition_version) == ("UTC", "1")
    aggregate(aggregated, run_id="second")
    second = stored(aggregated).ledger
    assert second is not None
    assert second.version != first.ledger.version
    assert query(aggregated, "SELECT run_id FROM metric_day_ledger") == [("second",)]


def test_a_sealed_day_is_refused_and_nothing_of_it_changes(aggregated: Database) -> None:
    execute(aggregated, "UPDATE metric_day_ledger SET raw_pruned_at = '2025-04-05 06:07Z', raw_pruned_logs = 3")
    execute(aggregated, "DELETE FROM agent_execution_logs")
    before = written_rows(aggregated)
    with pytest.raises(DayRefusedError, match=r"2025-03-04 is sealed: 3 of its raw logs .* 2025-04-05 06:07Z"):
        aggregate(aggregated)
    assert written_rows(aggregated) == before
    row = stored(aggregated).ledger
    assert row is not None
    assert row.is_sealed
    assert row.raw_pruned_at == datetime(2025, 4, 5, 6, 7, tzinfo=UTC)


def test_a_day_stored_in_another_time_zone_is_refused_until_it_is_cleared(aggregated: Database) -> None:
    berlin = day_window(DAY, "Europe/Berlin")
    before = written_rows(aggregated)
    with pytest.raises(
        DayRefusedError,
        match=r"stored as a day of UTC, and METRICS_TIME_ZONE is now Europe/Berlin.* clear --date 2025-03-04",
    ):
        aggregate(aggregated, berlin)
    assert written_rows(aggregated) == before
    assert clear_day(aggregated, berlin) == 1
    aggregate(aggregated, berlin)
    assert_exact(aggregated, berlin)


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM agent_execution_logs",
        "DELETE FROM agent_execution_logs WHERE ctid = (SELECT min(ctid) FROM agent_execution_logs)",
        "UPDATE agent_execution_logs SET agent_id = 'unregistered', latency_ms = 5 WHERE agent_id = 'a'",
    ],
)
@pytest.mark.parametrize("with_ledger", [True, False])
def test_a_day_whose_aggregated_logs_are_gone_is_refused_until_the_deletion_is_accepted(
    aggregated: Database, statement: str, with_ledger: bool
) -> None:
    execute(aggregated, statement)
    if not with_ledger:
        execute(aggregated, "DELETE FROM metric_day_ledger")
    before = written_rows(aggregated)
    with pytest.raises(
        DayRefusedError,
        match=r"2025-03-04 has shrunk: . of 2 aggregated logs are gone.* seal --date.*--accept-deleted-logs",
    ):
        aggregate(aggregated)
    assert written_rows(aggregated) == before
    aggregate(aggregated, accept_deleted=True)
    assert_exact(aggregated)
    # The restatement keeps what went.
    assert query(aggregated, "SELECT old_row->>'total_executions' FROM metric_restatements") == [("2",)]
    aggregate(aggregated)


def test_a_day_keeps_what_a_column_that_was_dropped_held_until_its_loss_is_accepted(database: Database) -> None:
    store_agents(database, {"a": "active"})
    store_logs(database, [Log("a", "failed", cost_usd="0.25", error_type="timeout")])
    aggregate(database)
    unlogged = "SELECT unlogged FROM metric_day_ledger"
    # Nothing was in it, so its 0 stays a 0.
    execute(database, "ALTER TABLE agent_execution_logs DROP token_count")
    aggregate(database)
    assert query(database, unlogged) == [([],)]
    execute(database, "ALTER TABLE agent_execution_logs DROP error_type, DROP cost_usd")
    before = written_rows(database)
    [verdict] = judged(database, DAY)
    lost = "its logs no longer have token_count, cost_usd, error_type"
    assert (verdict.state, verdict.reason, verdict.needs_run) == (DayState.SHRUNK, lost, False)
    with pytest.raises(DayRefusedError, match=f"has shrunk: {lost}. .* seal --date.*--accept-deleted-logs"):
        aggregate(database)
    assert written_rows(database) == before
    aggregate(database, accept_deleted=True)
    assert query(database, unlogged) == [(["token_count", "cost_usd", "error_type"],)]
    assert query(database, "SELECT old_row->>'total_cost_usd' FROM metric_restatements") == [("0.250000000",)]
    # A column that appears takes nothing.
    execute(database, "ALTER TABLE agent_execution_logs ADD cost_usd numeric DEFAULT 0.25")
    assert judged(database, DAY)[0].state is DayState.DIRTY
    aggregate(database)
    assert column(database, "total_cost_usd::text") == ["0.250000000"]
    assert query(database, unlogged) == [(["token_count", "error_type"],)]


def test_an_agent_that_is_deleted_with_its_logs_keeps_its_history(aggregated: Database) -> None:
    store_agents(aggregated, {"b": "active"})
    store_logs(aggregated, [Log("b")])
    aggregate(aggregated)
    execute(
        aggregated, "DELETE FROM agent_registry WHERE id = 'b'", "DELETE FROM agent_execution_logs WHERE agent_id = 'b'"
    )
    store_logs(aggregated, [Log("a"), Log("a")])
    with pytest.raises(DayRefusedError, match="1 of 3 aggregated logs are gone: 'b' has 0 of 1 left"):
        aggregate(aggregated)


@pytest.mark.parametrize(
    "statement",
    [
        # Skipped logs are in no metric.
        "DELETE FROM agent_execution_logs WHERE agent_id = 'unregistered'",
        "UPDATE agent_execution_logs SET agent_id = 'unregistered' WHERE agent_id = 'a'",
        "UPDATE agent_execution_logs SET status = 'failed', latency_ms = 7 WHERE agent_id = 'a'",
    ],
)
def test_a_log_that_moved_or_was_corrected_and_one_that_was_skipped_is_no_loss(
    aggregated: Database, statement: str
) -> None:
    execute(aggregated, statement)
    aggregate(aggregated)
    assert_exact(aggregated)


def test_an_empty_day_stays_open(database: Database) -> None:
    store_agents(database, {"a": "active"})
    aggregate(database)
    aggregate(database)
    store_logs(database, [Log()])
    aggregate(database)
    assert_exact(database)
