"""Which faults of a real PostgreSQL are retried, how often, and what a run that gives up leaves behind."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from traceback import format_exception

import dagster as dg
import psycopg
import pytest

from metrics_pipeline.errors import TransientError
from metrics_pipeline.orchestration import failures
from metrics_pipeline.postgres.database import Database

from .runs import DAYS, FaultAt, Run, assert_equal_to_oracle, execute, ledger, partitions

FRIDAY, SATURDAY, SUNDAY = DAYS
KEYS = [day.isoformat() for day in DAYS]


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failures, "FIRST_PAUSE_SECONDS", 0.001)


@pytest.mark.parametrize(
    "what",
    [
        "PERFORM pg_terminate_backend(pg_backend_pid());",
        "SET LOCAL statement_timeout = '10ms'; RAISE EXCEPTION 'too slow' USING ERRCODE = '57014';",
        "RAISE EXCEPTION 'deadlock' USING ERRCODE = '40P01';",
        "RAISE EXCEPTION 'disk full' USING ERRCODE = '53100';",
    ],
    ids=["connection cut", "statement cancelled", "deadlock", "disk full"],
)
def test_a_passing_fault_is_tried_again_without_repeating_the_days_before_it(
    run: Run, logs: None, database: Database, instance: dg.DagsterInstance, fault_at: FaultAt, what: str
) -> None:
    fault_at(SATURDAY, what, times=2)
    ended = run(FRIDAY, SUNDAY)
    assert ended.succeeded
    assert ended.retries == 2
    assert ended.days == KEYS
    assert partitions(instance) == (set(KEYS), set())
    assert set(ledger(database).values()) == {ended.run.run_id}
    assert_equal_to_oracle(database, *DAYS)


def test_a_cancellation_is_told_without_the_error_that_it_interrupted() -> None:
    cancelled = dg.DagsterExecutionInterruptedError()
    cancelled.__context__ = TransientError("canceling statement due to user request")
    with (
        pytest.raises(dg.DagsterExecutionInterruptedError) as raised,
        failures.step_outcome(dg.build_asset_context()),
    ):
        raise cancelled
    assert "user request" not in "".join(format_exception(raised.value))


@contextmanager
def _locked(url: str, statement: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(url) as connection:
        connection.execute(statement)
        yield connection


def test_a_lock_that_is_not_free_in_time_is_waited_for_by_trying_again(
    run: Run, logs: None, database: Database, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = psycopg.conninfo.conninfo_to_dict(database_url)["dbname"]
    execute(database, f"ALTER DATABASE \"{name}\" SET lock_timeout = '50ms'")
    with _locked(database_url, "LOCK TABLE agent_performance_metrics") as connection:
        pauses = []

        def release_the_lock(seconds: float) -> None:
            pauses.append(seconds)
            connection.rollback()

        monkeypatch.setattr(failures.time, "sleep", release_the_lock)
        ended = run(FRIDAY)
    assert ended.succeeded
    assert ended.retries == len(pauses) == 1
    assert_equal_to_oracle(database, FRIDAY)


def test_retries_run_out_with_growing_pauses_and_keep_what_was_stored(
    run: Run,
    logs: None,
    database: Database,
    instance: dg.DagsterInstance,
    fault_at: FaultAt,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(failures, "FIRST_PAUSE_SECONDS", 10)
    monkeypatch.setattr(failures.time, "sleep", pauses.append)
    fault_at(SATURDAY, "RAISE EXCEPTION 'no space left' USING ERRCODE = '53100';", times=1000)
    ended = run(FRIDAY, SUNDAY)
    assert not ended.succeeded
    assert ended.retries == failures.MAX_RETRIES == 5
    assert pauses == [10, 20, 40, 80, 160]
    assert all(later == 2 * earlier for earlier, later in pairwise(pauses))
    assert "Exceeded max_retries of 5" in ended.failure
    assert "The server lacks a resource" in ended.failure
    assert "no space left (SQLSTATE 53100)" in ended.failure
    assert partitions(instance) == ({KEYS[0]}, {KEYS[1], KEYS[2]})
    assert list(ledger(database)) == [FRIDAY]


def test_a_lasting_fault_is_tried_once(run: Run, logs: None, database: Database, fault_at: FaultAt) -> None:
    fault_at(FRIDAY, "RAISE EXCEPTION 'never' USING ERRCODE = '23514';", times=1000)
    ended = run(FRIDAY)
    assert not ended.succeeded
    assert ended.retries == 0
    assert "never (SQLSTATE 23514)" in ended.failure
    with database.engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT last_value FROM faults").scalar() == 1


def test_the_only_day_of_a_range_that_a_fault_hits_is_named_once(
    run: Run, logs: None, database: Database, instance: dg.DagsterInstance, fault_at: FaultAt
) -> None:
    fault_at(SATURDAY, "RAISE EXCEPTION 'never' USING ERRCODE = '23514';", times=1000)
    ended = run(FRIDAY, SUNDAY)
    assert ended.failure.startswith("2025-07-12: PostgreSQL refused a statement")
    assert ended.failure.count("2025-07-12") == 1
    assert ended.days == [KEYS[0], KEYS[2]]
    assert partitions(instance) == ({KEYS[0], KEYS[2]}, {KEYS[1]})
