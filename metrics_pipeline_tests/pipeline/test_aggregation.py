"""Several days in a row: each stored in its own transaction and reported in order, the next one read meanwhile."""

import os
import signal
import threading
from collections.abc import Iterator
from datetime import timedelta

import pytest

from metrics_pipeline.errors import PermanentError, TransientError
from metrics_pipeline.metrics.windows import DayWindow, day_window
from metrics_pipeline.pipeline import aggregation
from metrics_pipeline.pipeline.aggregation import AggregatedDay, AggregationOptions, ComputedDay, aggregate_days
from metrics_pipeline.pipeline.opening import open_logs
from metrics_pipeline.postgres.database import Database
from metrics_pipeline.store.publishing import Reason
from metrics_pipeline_tests.days import DAY, Log, assert_exact, execute, query, store_agents, store_logs
from metrics_pipeline_tests.processes import HANGING_SECONDS, wait_until
from metrics_pipeline_tests.roles import Role
from metrics_pipeline_tests.roles import roles as roles

WINDOWS = {str(day): day_window(day, "UTC") for day in (DAY + timedelta(days=number) for number in range(4))}
KEYS = list(WINDOWS)


@pytest.fixture
def four_days(database: Database) -> Database:
    store_agents(database, {"a": "active", "b": "active"})
    for number, window in enumerate(WINDOWS.values()):
        store_logs(database, [Log("ab"[n % 2], latency_ms=n, timestamp=window.start) for n in range(5 + number)])
    return database


def days_of(database: Database) -> Iterator[tuple[str, AggregatedDay | PermanentError]]:
    return aggregate_days(
        database, open_logs(database), WINDOWS, AggregationOptions(), run_id="a run", reason=Reason.BACKFILL
    )


def stored_days(database: Database) -> list[str]:
    return [str(day) for (day,) in query(database, "SELECT metric_date FROM metric_day_ledger ORDER BY 1")]


def test_a_day_is_stored_when_it_is_reported_and_those_behind_it_are_not(four_days: Database) -> None:
    for number, (key, day) in enumerate(days_of(four_days)):
        assert isinstance(day, AggregatedDay)
        assert key == KEYS[number]
        assert stored_days(four_days) == KEYS[: number + 1]
    for window in WINDOWS.values():
        assert_exact(four_days, window)


def test_a_role_with_one_connection_stores_one_day_after_the_other(four_days: Database, roles: dict[str, Role]) -> None:
    name = roles["pipeline"].name.replace('"', '""')
    with four_days.engine.begin() as connection:
        connection.exec_driver_sql(f'ALTER ROLE "{name}" CONNECTION LIMIT 1')
    assert [day.published.inserted for _, day in days_of(roles["pipeline"].database)] == [2, 2, 2, 2]
    assert_exact(four_days, WINDOWS[KEYS[-1]])


def test_the_next_day_is_read_while_a_day_waits_to_be_stored(
    four_days: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    second_is_read = threading.Event()
    compute_day, store_day = aggregation.compute_day, aggregation.store_day

    def compute(*arguments: object, **options: object) -> ComputedDay:
        computed = compute_day(*arguments, **options)
        if computed.window == WINDOWS[KEYS[1]]:
            second_is_read.set()
        return computed

    def store(database: Database, computed: ComputedDay, **options: object) -> AggregatedDay:
        assert second_is_read.wait(timeout=HANGING_SECONDS)
        return store_day(database, computed, **options)

    monkeypatch.setattr(aggregation, "compute_day", compute)
    monkeypatch.setattr(aggregation, "store_day", store)
    assert [key for key, _ in days_of(four_days)] == KEYS


def test_a_day_that_fails_for_good_is_reported_in_its_place_and_the_others_are_stored(four_days: Database) -> None:
    store_under_another_zone(four_days, WINDOWS[KEYS[1]])
    outcomes = dict(days_of(four_days))
    assert list(outcomes) == KEYS
    assert [key for key, day in outcomes.items() if isinstance(day, PermanentError)] == [KEYS[1]]
    assert "Asia/Tokyo" in str(outcomes[KEYS[1]])


def store_under_another_zone(database: Database, window: DayWindow) -> None:
    days = days_of(database)
    assert next(days)[0] == KEYS[0]
    days.close()
    execute(
        database,
        "UPDATE metric_day_ledger SET metric_date = :day, time_zone = 'Asia/Tokyo'",
        "UPDATE agent_performance_metrics SET metric_date = :day",
        day=window.metric_date,
    )


def test_a_fault_that_may_pass_ends_the_days_and_leaves_those_before_it_stored(
    four_days: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    compute_day = aggregation.compute_day

    def compute(database: Database, logs: object, window: DayWindow, *options: object) -> ComputedDay:
        if window == WINDOWS[KEYS[2]]:
            raise TransientError("the connection was lost")
        return compute_day(database, logs, window, *options)

    monkeypatch.setattr(aggregation, "compute_day", compute)
    days = days_of(four_days)
    assert [next(days)[0], next(days)[0]] == KEYS[:2]
    with pytest.raises(TransientError, match="the connection was lost"):
        next(days)
    assert stored_days(four_days) == KEYS[:2]


def test_a_caller_that_stops_early_stores_no_day_that_it_did_not_see(four_days: Database) -> None:
    days = days_of(four_days)
    next(days)
    days.close()
    assert stored_days(four_days) == KEYS[:1]


def test_an_interruption_ends_the_statement_that_waits_for_somebody_elses_lock(four_days: Database) -> None:
    waiting = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"

    def interrupt() -> None:
        wait_until(lambda: query(four_days, waiting))
        os.kill(os.getpid(), signal.SIGUSR1)

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    # Not SIGINT, which a shell may have had ignored.
    before = signal.signal(signal.SIGUSR1, stop)
    days = days_of(four_days)
    with four_days.begin() as holder:
        holder.exec_driver_sql("LOCK TABLE metric_day_ledger")
        interrupter = threading.Thread(target=interrupt)
        interrupter.start()
        # The lock is still held, so the reader ends only because its statement is cancelled.
        with pytest.raises(KeyboardInterrupt):
            next(days)
        interrupter.join()
        assert query(four_days, waiting) == []
    signal.signal(signal.SIGUSR1, before)


def test_days_are_aggregated_without_the_table_of_alerts(four_days: Database) -> None:
    execute(four_days, "DROP TABLE alert_history")
    assert [key for key, _ in days_of(four_days)] == KEYS
