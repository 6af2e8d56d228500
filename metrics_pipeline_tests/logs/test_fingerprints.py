"""Fingerprints that SQL computes of a window equal those that an aggregation stores, and differ after every change."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import date, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import event, text

from metrics_pipeline.metrics import reconciliation
from metrics_pipeline.metrics.conservation import log_costs
from metrics_pipeline.metrics.fingerprint import FIRST_KIND
from metrics_pipeline.metrics.windows import DayWindow, day_window
from metrics_pipeline.pipeline.opening import open_logs
from metrics_pipeline.pipeline.reconciling import finished_days
from metrics_pipeline.postgres.database import Database
from metrics_pipeline_tests.days import (
    DAY,
    WINDOW,
    Log,
    aggregate,
    compute,
    empty,
    execute,
    present,
    query,
    store_agents,
    store_logs,
)
from metrics_pipeline_tests.examples import examples, variants
from metrics_pipeline_tests.test_exactness_properties import WINDOWS, logs
from metrics_pipeline_tests.test_exactness_variants import UUIDS, VARIANTS, difficult_day


def finished(database: Database, windows: Sequence[DayWindow]) -> set[date]:
    with database.snapshot() as snapshot:
        return finished_days(snapshot, open_logs(database), windows)


def neighbours(window: DayWindow, *offsets: int) -> list[DayWindow]:
    return [day_window(window.metric_date + timedelta(days=n), window.time_zone) for n in offsets]


@pytest.fixture
def loose_database(database: Database) -> Database:
    """A database whose upstream tables allow NULL wherever the contract does."""
    execute(
        database,
        "ALTER TABLE agent_execution_logs ALTER COLUMN agent_id DROP NOT NULL, ALTER COLUMN status DROP NOT NULL",
    )
    return database


@examples(25)
@given(data=st.data())
def test_any_day_has_the_fingerprint_that_its_aggregation_stores(loose_database: Database, data: st.DataObject) -> None:
    window = data.draw(st.sampled_from(WINDOWS))
    any_logs = st.lists(logs(window, ["a", "b/c", "ü", "unregistered", None]), max_size=25)
    empty(loose_database)
    store_agents(loose_database, {"a": "active", "b/c": "inactive"})
    store_logs(loose_database, data.draw(any_logs))
    # Adjacent days, days with gaps between them, and a day alone.
    windows = neighbours(window, *data.draw(st.sampled_from([(-1, 0, 1), (-3, 0, 2), (0,)])))
    found = present(loose_database, *windows)
    for each in windows:
        expected = compute(loose_database, each).metrics.fingerprint
        assert found[each.metric_date] == expected


@examples(100)
@given(data=st.data())
def test_two_days_have_one_fingerprint_exactly_if_their_logs_are_the_same_to_every_metric(
    loose_database: Database, data: st.DataObject
) -> None:
    """One log of the second day is drawn again: corrected, equal, or different only in values that no metric reads."""
    any_log = logs(WINDOW, ["a", "b", None])
    base = data.draw(st.lists(any_log, min_size=1, max_size=6))
    other = data.draw(any_log)
    field = data.draw(st.sampled_from([name for name in vars(other) if name != "timestamp"]))
    changed = [*base[:-1], replace(base[-1], **{field: getattr(other, field)})]
    next_day = neighbours(WINDOW, 1)[0]
    empty(loose_database)
    for day, its_logs in ((WINDOW, base), (next_day, changed)):
        store_logs(loose_database, [replace(log, timestamp=day.start) for log in its_logs])
    relevant = {WINDOW.start: Counter(), next_day.start: Counter()}
    for moment, *values in query(
        loose_database,
        """SELECT "timestamp", agent_id, status, latency_ms, token_count, cost_usd::text = 'NaN', cost_usd,
                  CASE WHEN status = 'failed' THEN error_type END,
                  metadata->>'human_intervention' IS NOT DISTINCT FROM 'true', metadata->>'user_id'
             FROM agent_execution_logs""",
    ):
        if values[4]:
            values[5] = "NaN"  # which Python calls unequal to itself
        relevant[moment][tuple(values)] += 1
    found = present(loose_database, WINDOW, next_day)
    are_the_same = relevant[WINDOW.start] == relevant[next_day.start]
    assert (found[DAY] == found[next_day.metric_date]) == are_the_same


@pytest.mark.parametrize("variant", variants(VARIANTS))
def test_a_difficult_day_has_the_fingerprint_that_its_aggregation_stores_on(database: Database, variant: str) -> None:
    execute(database, *VARIANTS[variant])
    store_agents(database, {UUIDS[0]: "active", UUIDS[1]: "inactive"})
    store_logs(database, difficult_day())
    windows = neighbours(WINDOW, -1, 0, 1)
    found = present(database, *windows)
    assert found == {window.metric_date: compute(database, window).metrics.fingerprint for window in windows}


@pytest.mark.parametrize(
    "costs",
    variants(
        [
            ["1" + "0" * 60, "0.5"],
            ["-" + "9" * 45 + ".123456789", "0.0000000001"],
            ["1" + "0" * 60, "-1" + "0" * 60, "7"],
            # Just within what a fingerprint keeps as it is, and just beyond.
            ["4999999999999999999999999999.999999999"],
            ["5000000000000000000000000000"],
            ["-5000000000000000000000000000"],
            ["-5000000000000000000000000000.000000001"],
            ["2500000000000000000000000000"] * 3,
            ["NaN", "Infinity", "3"],
        ]
    ),
)
def test_costs_of_any_size_have_one_fingerprint_in_sql_and_in_an_aggregation(
    database: Database, costs: list[str]
) -> None:
    # An unregistered agent gets no row, so its cost may be larger than a row can hold.
    store_logs(database, [Log("a", cost_usd=cost) for cost in costs])
    store_logs(database, [Log("b", cost_usd=cost, timestamp=WINDOW.end - timedelta(hours=1)) for cost in costs[:1]])
    expected = compute(database).metrics.fingerprint
    assert present(database, WINDOW) == {DAY: expected}
    assert abs(expected.cost_nano_usd) <= 5 * 10**36
    with database.snapshot() as snapshot:
        costs_of_logs = log_costs(open_logs(database).logs_by_agent(snapshot, [WINDOW]), {})
    assert costs_of_logs[DAY].cost_nano_usd == expected.cost_nano_usd


def test_a_cost_that_no_other_number_can_be_made_of_has_a_fingerprint(database: Database) -> None:
    # PostgreSQL cannot multiply this cost. The fingerprint of the other day must be right all the same.
    store_logs(database, [Log(cost_usd="9" * 131_072), Log(cost_usd="2", timestamp=WINDOW.end)])
    following = neighbours(WINDOW, 1)[0]
    found = present(database, WINDOW, following)
    assert found[DAY].cost_nano_usd == -(10**9)
    assert found[following.metric_date] == compute(database, following).metrics.fingerprint


def test_numbers_at_the_ends_of_their_types_have_a_fingerprint(database: Database) -> None:
    ends = (-(2**31), 2**31 - 1, None)
    logs_at_ends = [Log("a", latency_ms=latency, token_count=tokens) for latency in ends for tokens in ends]
    store_logs(database, logs_at_ends)
    found = present(database, WINDOW)
    assert found == {DAY: compute(database).metrics.fingerprint}
    assert (found[DAY].latency_ms, found[DAY].tokens) == (-3, -3)


@pytest.mark.parametrize(
    ("log", "other"),
    variants(
        [
            (Log(None), Log("")),
            (Log(latency_ms=None), Log(latency_ms=0)),
            (Log(token_count=None), Log(token_count=0)),
            (Log(latency_ms=None, token_count=0), Log(latency_ms=0, token_count=None)),
            (Log(cost_usd=None), Log(cost_usd="0")),
            (Log(cost_usd=None), Log(cost_usd="NaN")),
            (Log(cost_usd="0"), Log(cost_usd="NaN")),
            (Log(cost_usd="1"), Log(cost_usd="-1")),
            (Log(metadata=None), Log(metadata='{"user_id": ""}')),
            (Log(metadata=None), Log(metadata='{"human_intervention": true}')),
            (Log(None, metadata='{"user_id": "a"}'), Log("a")),
            (Log(status="failed"), Log(status=None)),
            (Log(status="failed", error_type="timeout"), Log(status="timeout")),
            (Log(status="failed", error_type=""), Log(status="failed")),
            (Log(status="failed", error_type="x"), Log(status="failed", metadata='{"user_id": "x"}')),
            (Log(status="x"), Log(status=None, metadata='{"user_id": "x"}')),
            (Log(status="success"), Log(status="failed")),
        ]
    ),
)
def test_two_logs_that_differ_have_two_content_hashes(loose_database: Database, log: Log, other: Log) -> None:
    next_day = neighbours(WINDOW, 1)[0]
    for day, its_log in ((WINDOW, log), (next_day, other)):
        store_logs(loose_database, [replace(its_log, timestamp=day.start)])
    found = present(loose_database, WINDOW, next_day)
    assert found[DAY].content_hash != found[next_day.metric_date].content_hash


_CHANGES = {
    "insert": "INSERT INTO agent_execution_logs (agent_id, \"timestamp\", status) VALUES ('a', '2025-03-04', 'lost')",
    "delete": "DELETE FROM agent_execution_logs WHERE id = :id",
    "moved to another day": """UPDATE agent_execution_logs SET "timestamp" = '2025-03-05' WHERE id = :id""",
    "running to success": "UPDATE agent_execution_logs SET status = 'success' WHERE id = :id",
    "running to another status of no metric": "UPDATE agent_execution_logs SET status = 'queued' WHERE id = :id",
    "another agent": "UPDATE agent_execution_logs SET agent_id = 'b' WHERE id = :id",
    "another latency": "UPDATE agent_execution_logs SET latency_ms = latency_ms + 1 WHERE id = :id",
    "no latency": "UPDATE agent_execution_logs SET latency_ms = NULL WHERE id = :id",
    "other tokens": "UPDATE agent_execution_logs SET token_count = token_count - 1 WHERE id = :id",
    "another cost": "UPDATE agent_execution_logs SET cost_usd = cost_usd + 1e-30 WHERE id = :id",
    "cost patched from NaN": "UPDATE agent_execution_logs SET cost_usd = 0 WHERE cost_usd = 'NaN'",
    "another error": "UPDATE agent_execution_logs SET error_type = 'oom' WHERE status = 'failed'",
    "no error": "UPDATE agent_execution_logs SET error_type = NULL WHERE status = 'failed'",
    "another user": """UPDATE agent_execution_logs SET metadata = '{"user_id": "v"}' WHERE id = :id""",
    "a failure of no type": "UPDATE agent_execution_logs SET status = 'failed' WHERE id = :id",
    "no agent": "UPDATE agent_execution_logs SET agent_id = NULL WHERE id = :id",
    "no tokens": "UPDATE agent_execution_logs SET token_count = NULL WHERE id = :id",
    "no cost for a cost of nothing": "UPDATE agent_execution_logs SET cost_usd = NULL WHERE agent_id = 'c'",
    "no user": "UPDATE agent_execution_logs SET metadata = NULL WHERE id = :id",
    "a user without name for none": """UPDATE agent_execution_logs SET metadata = '{"user_id": ""}'
                                        WHERE agent_id = 'c'""",
    "tokens and latency swapped": """UPDATE agent_execution_logs SET latency_ms = token_count, token_count = latency_ms
                                      WHERE agent_id = 'b'""",
    "an intervention": """UPDATE agent_execution_logs SET metadata = metadata || '{"human_intervention": true}'
                           WHERE id = :id""",
    "two values swapped": """UPDATE agent_execution_logs
                                SET latency_ms = 7 + 9 - latency_ms WHERE agent_id IN ('a', 'b')""",
}


@pytest.fixture
def known_day(loose_database: Database) -> Database:
    store_logs(
        loose_database,
        [
            Log("a", "running", 7, 100, "0.5", metadata='{"user_id": "u"}'),
            Log("b", "failed", 9, 100, "NaN", "timeout"),
            Log("c", "success", 0, 0, "0"),
        ],
    )
    return loose_database


def test_every_single_change_is_noticed(known_day: Database) -> None:
    logs = open_logs(known_day)
    [(log_id,)] = query(known_day, "SELECT id FROM agent_execution_logs WHERE agent_id = 'a'")
    unnoticed = []
    with known_day.engine.connect() as connection:
        for change, statement in _CHANGES.items():
            before = logs.fingerprints(connection, [WINDOW], FIRST_KIND)
            connection.execute(text(statement), {"id": log_id})
            if logs.fingerprints(connection, [WINDOW], FIRST_KIND) == before:
                unnoticed.append(change)
            connection.rollback()
    assert unnoticed == []


def test_what_no_metric_reads_changes_no_fingerprint(known_day: Database) -> None:
    before = present(known_day, WINDOW)
    execute(
        known_day,
        'UPDATE agent_execution_logs SET id = gen_random_uuid(), "timestamp" = "timestamp" + interval \'1 hour\'',
        "UPDATE agent_execution_logs SET error_type = 'late' WHERE status <> 'failed'",
        "UPDATE agent_execution_logs SET cost_usd = 0.500 WHERE cost_usd = 0.5",
        """UPDATE agent_execution_logs SET metadata = metadata || '{"model": "m", "human_intervention": 1}'""",
    )
    assert present(known_day, WINDOW) == before


@contextmanager
def statements_of(database: Database) -> Iterator[list[str]]:
    statements: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        statements.append(statement)

    event.listen(database.engine, "before_cursor_execute", note)
    yield statements
    event.remove(database.engine, "before_cursor_execute", note)


def test_a_year_takes_one_statement_and_one_scan(database: Database) -> None:
    store_logs(database, [Log(timestamp=WINDOW.start + timedelta(days=n)) for n in range(0, 365, 5)])
    logs = open_logs(database)
    with statements_of(database) as statements, database.engine.connect() as connection:
        found = logs.fingerprints(connection, neighbours(WINDOW, *range(365)), FIRST_KIND)
        assert [fingerprint.logs for fingerprint in found.values()] == [1, 0, 0, 0, 0] * 73
        reading = [statement for statement in statements if "agent_execution_logs" in statement]
        assert len(reading) == 1
        assert logs.fingerprints(connection, [], FIRST_KIND) == {}
    assert reading[0].count("FROM agent_execution_logs") == 1


def test_finished_days_are_the_stored_ones_that_nothing_has_changed_since(
    known_day: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    windows = neighbours(WINDOW, -1, 0, 2)
    assert finished(known_day, windows) == set()
    for window in windows[:2]:
        aggregate(known_day, window)
    assert finished(known_day, windows) == {window.metric_date for window in windows[:2]}
    # Neither of the days around the gap is theirs.
    store_logs(known_day, [Log("a", timestamp=WINDOW.end), Log("a", timestamp=windows[2].end)])
    assert finished(known_day, windows) == {window.metric_date for window in windows[:2]}
    store_logs(known_day, [Log("a", timestamp=windows[0].start)])
    assert finished(known_day, windows) == {DAY}
    monkeypatch.setattr(reconciliation, "DEFINITION_VERSION", "2")
    assert finished(known_day, windows) == set()
