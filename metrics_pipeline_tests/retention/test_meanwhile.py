"""What happens between the snapshot of a day and its end: no log goes that is in no metric."""

import pytest

from metrics_pipeline.postgres.database import Database
from metrics_pipeline_tests.days import DAY, NOON, WINDOW, Log, aggregate, execute, query, store_logs

from .runs import (
    DELETED,
    VERIFIED,
    KilledError,
    at,
    day,
    held_back,
    interfering,
    kill,
    logs_by_day,
    prune,
    sealed,
    store_days,
)


@pytest.mark.parametrize("when", [VERIFIED, DELETED])
def test_a_log_that_arrives_while_its_day_is_pruned_stays_and_is_reported(database: Database, when: str) -> None:
    store_days(database, 0, logs=10)
    late = [Log("a", latency_ms=99, timestamp=WINDOW.start), Log("a", latency_ms=98, timestamp=NOON)]
    with interfering(database, when, at(1, lambda: store_logs(database, late))):
        report = prune(database, batch_rows=4)
    assert report.pruned_logs == {DAY: 10}
    [(logs, reason)] = held_back(report).values()
    assert (logs, reason) == (2, "arrived after the day was sealed: not in its metrics")
    assert sorted(query(database, "SELECT latency_ms FROM agent_execution_logs")) == [(98,), (99,)]
    assert sealed(database) == {DAY: 10}
    [(logs, reason)] = held_back(prune(database)).values()
    assert (logs, reason[:36]) == (2, "arrived after the day was sealed on ")


CHANGES = {
    "UPDATE agent_execution_logs SET cost_usd = 7 WHERE id = :last": "cost +6.90 USD",
    "UPDATE agent_execution_logs SET \"timestamp\" = '2025-03-06' WHERE id = :last": "logs -1",
    "DELETE FROM agent_execution_logs WHERE id = :last": "logs -1",
    # After which every value is as before.
    "UPDATE agent_execution_logs SET cost_usd = cost_usd WHERE id = :last": "",
    # As if a publisher had held the lock of the day while retention took its snapshot.
    """UPDATE metric_day_ledger SET source_fingerprint = replace(source_fingerprint, '"logs": 10', '"logs": 11')
        WHERE metric_date = '2025-03-04' AND :last IS NOT NULL""": "logs -1",
}


@pytest.mark.parametrize("statement", CHANGES)
def test_a_change_between_the_snapshot_and_the_delete_holds_the_day_back_until_the_next_run(
    database: Database, statement: str
) -> None:
    store_days(database, -1, 0, logs=10)
    [(last,)] = query(database, 'SELECT id FROM agent_execution_logs ORDER BY "timestamp" DESC LIMIT 1')
    with interfering(database, VERIFIED, at(2, lambda: execute(database, statement, last=last))):
        report = prune(database)
    assert report.pruned_logs == {day(-1): 10}
    assert held_back(report)[DAY][1].startswith("could not be deleted: could not serialize access due to concurrent")
    assert sealed(database) == {day(-1): 10}
    report = prune(database)
    if CHANGES[statement]:
        assert CHANGES[statement] in held_back(report)[DAY][1]
        assert sealed(database) == {day(-1): 10}
    else:
        assert (report.pruned_logs, report.held_back) == ({DAY: 10}, [])


@pytest.mark.parametrize("when", ["before the run", "after the snapshot", "after the run"])
def test_logs_of_a_transaction_that_was_open_when_the_day_was_sealed_stay(database: Database, when: str) -> None:
    store_days(database, 0)
    with database.engine.connect() as writer:
        writer.begin()
        # A subtransaction, whose id looks finished to everybody while its transaction is open.
        savepoint = writer.begin_nested()
        writer.exec_driver_sql(
            "INSERT INTO agent_execution_logs (agent_id, timestamp, status) VALUES ('a', '2025-03-04 23:00Z', '')"
        )
        savepoint.commit()
        if when == "before the run":
            writer.commit()
        with interfering(database, VERIFIED, at(1 if when == "after the snapshot" else 0, writer.commit)):
            report = prune(database)
        if when == "after the run":
            writer.commit()
    assert report.pruned_logs == ({} if when == "before the run" else {DAY: 3})
    assert len(report.held_back) == (when != "after the run")
    assert logs_by_day(database) == {DAY: 4 if when == "before the run" else 1}
    assert len(prune(database).held_back) == 1


def test_a_transaction_that_is_open_elsewhere_holds_nothing_back(database: Database) -> None:
    with database.engine.connect() as writer:
        writer.exec_driver_sql("SELECT pg_current_xact_id()")
        store_days(database, 0)
        assert prune(database).pruned_logs == {DAY: 3}


def test_others_see_a_day_whole_and_open_until_it_is_gone_and_sealed(database: Database) -> None:
    store_days(database, 0, logs=7)
    seen = []
    with interfering(database, DELETED, lambda _: seen.append((logs_by_day(database), sealed(database)))):
        prune(database, batch_rows=3)
    assert seen == [({DAY: 7}, {})] * 3
    assert (logs_by_day(database), sealed(database)) == ({}, {DAY: 7})


@pytest.mark.parametrize("slice_of_the_second_day", [1, 3, 5])
def test_a_run_that_is_cut_off_in_the_middle_of_a_day_leaves_it_whole_and_the_next_prunes_it(
    database: Database, slice_of_the_second_day: int
) -> None:
    store_days(database, -1, 0, logs=9)
    with interfering(database, DELETED, at(5 + slice_of_the_second_day, kill)), pytest.raises(KilledError):
        prune(database, batch_rows=2)
    assert (logs_by_day(database), sealed(database)) == ({DAY: 9}, {day(-1): 9})
    # The day is open, so a late log is still aggregated.
    store_logs(database, [Log()])
    aggregate(database)
    assert prune(database, batch_rows=2).pruned_logs == {DAY: 10}
    assert (logs_by_day(database), sealed(database)) == ({}, {day(-1): 9, DAY: 10})
