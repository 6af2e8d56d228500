"""Which raw logs go, and which stay for which reason, on a plain table."""

from datetime import UTC, date, datetime, timedelta
from time import monotonic

import pytest

from metrics_pipeline.errors import DayRefusedError, PermanentError
from metrics_pipeline.metrics.retention import UNSETTLED, RetentionPolicy
from metrics_pipeline.postgres.database import Database
from metrics_pipeline.retention import verification
from metrics_pipeline_tests.days import (
    DAY,
    NOON,
    WINDOW,
    Log,
    aggregate,
    assert_exact,
    execute,
    query,
    store_agents,
    store_logs,
    written_rows,
)

from .runs import NIGHT, contents, held_back, logs_by_day, prune, sealed, settle, store_days, window


def day(offset: int) -> date:
    return DAY + timedelta(days=offset)


def test_a_day_goes_when_it_is_older_than_the_policy_keeps_and_not_a_day_earlier(database: Database) -> None:
    store_days(database, 0, 1)
    assert prune(database, "2025-04-03T23:59:59+00:00").pruned_logs == {}
    assert logs_by_day(database) == {DAY: 3, day(1): 3}
    report = prune(database, "2025-04-04T00:00:00+00:00")
    assert report.pruned_logs == {DAY: 3}
    assert report.sealed_days == [DAY]
    assert (report.held_back, report.logs_left, report.is_out_of_time) == ([], 0, False)
    assert logs_by_day(database) == {day(1): 3}
    assert sealed(database) == {DAY: 3}


def test_the_metrics_of_a_pruned_day_stay_as_they_were(database: Database) -> None:
    store_days(database, 0)
    before = written_rows(database, "agent_performance_metrics", "metric_restatements")
    prune(database)
    assert written_rows(database, "agent_performance_metrics", "metric_restatements") == before


def test_a_second_run_finds_nothing_to_do(database: Database) -> None:
    store_days(database, 0, 1)
    prune(database)
    before = contents(database)
    report = prune(database)
    assert (report.pruned_logs, report.sealed_days, report.held_back) == ({}, [], [])
    assert contents(database) == before
    assert before["metric_day_pruning"] == []


def test_a_day_is_that_of_the_zone(database: Database) -> None:
    # 4 March in Tokyo ends at 15:00 UTC.
    store_agents(database, {"a": "active"})
    store_logs(database, [Log(timestamp=datetime(2025, 3, 4, hour, tzinfo=UTC)) for hour in (14, 15)])
    for offset in (0, 1):
        aggregate(database, window(offset, "Asia/Tokyo"))
    # In Tokyo this is 4 April, in UTC still the 3rd.
    report = prune(database, "2025-04-03T18:30:00+00:00", time_zone="Asia/Tokyo")
    assert report.pruned_logs == {DAY: 1}
    assert query(database, 'SELECT "timestamp" FROM agent_execution_logs') == [(datetime(2025, 3, 4, 15, tzinfo=UTC),)]


def test_a_day_that_was_never_aggregated_is_held_back_and_the_others_go(database: Database) -> None:
    store_days(database, -1, 0)
    store_days(database, -2, is_aggregated=False)
    report = prune(database)
    assert held_back(report) == {day(-2): (3, "never aggregated: backfill the day")}
    assert report.pruned_logs == {day(-1): 3, DAY: 3}
    assert report.logs_left == 3
    assert logs_by_day(database) == {day(-2): 3}
    # Once it is aggregated, it goes as well.
    aggregate(database, window(-2))
    assert prune(database).pruned_logs == {day(-2): 3}
    assert logs_by_day(database) == {}


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("INSERT INTO agent_execution_logs (agent_id, timestamp, status) VALUES ('a', '2025-03-04 23:00Z', 'x')", "+1"),
        ("DELETE FROM agent_execution_logs WHERE latency_ms = 2", "logs -1"),
        ("UPDATE agent_execution_logs SET status = 'failed' WHERE latency_ms = 2", "successful -1, failed +1"),
        ("UPDATE agent_execution_logs SET cost_usd = 0.2 WHERE latency_ms = 2", "cost_nano_usd +100000000"),
        ("UPDATE agent_execution_logs SET agent_id = 'a' WHERE latency_ms = 0", "values corrected"),
        ("""UPDATE agent_execution_logs SET metadata = '{"user_id": "u"}' WHERE latency_ms = 2""", "values corrected"),
    ],
)
def test_a_day_whose_logs_differ_from_what_was_aggregated_is_held_back(
    database: Database, statement: str, said: str
) -> None:
    store_days(database, 0)
    execute(database, statement)
    before = contents(database)
    report = prune(database)
    [(logs, reason)] = held_back(report).values()
    assert said in reason
    assert logs == before["agent_execution_logs"].__len__()
    assert contents(database) == before
    # Aggregated again, the day goes.
    aggregate(database)
    assert_exact(database)
    assert prune(database).pruned_logs == {DAY: logs}


def test_a_sealed_day_is_refused_before_anything_is_read(database: Database) -> None:
    store_days(database, 0)
    prune(database)
    before = written_rows(database, "agent_performance_metrics", "metric_day_ledger")
    # Whoever reads a log from now on fails.
    execute(
        database,
        "ALTER TABLE agent_execution_logs RENAME TO elsewhere",
        """CREATE VIEW agent_execution_logs AS
           SELECT id, agent_id, "timestamp", status, 1 / length('') AS latency_ms, token_count, cost_usd, error_type,
                  metadata FROM elsewhere""",
    )
    with pytest.raises(DayRefusedError, match="3 of its raw logs were pruned"):
        aggregate(database)
    stored = written_rows(database, "agent_performance_metrics", "metric_day_ledger")
    assert stored == before


def test_a_log_that_arrives_for_a_sealed_day_stays_and_is_reported_every_night(database: Database) -> None:
    store_days(database, 0)
    prune(database)
    store_logs(database, [Log(), Log()])
    before = contents(database)
    for is_dry_run in (True, False, False):
        report = prune(database, is_dry_run=is_dry_run)
        [(logs, reason)] = held_back(report).values()
        assert logs == 2
        assert reason.startswith("arrived after the day was sealed on ")
        assert (report.pruned_logs, report.logs_left) == ({}, 2)
        assert contents(database) == before


def test_a_log_that_arrives_while_its_day_is_pruned_stays_and_is_reported(database: Database) -> None:
    store_days(database, 0, logs=10)
    late = [Log("a", latency_ms=99, timestamp=WINDOW.start), Log("a", latency_ms=98, timestamp=NOON)]

    def arrive(message: str) -> None:
        if "4 of 10" in message:
            store_logs(database, late)
            # A verified log that somebody corrects is another one from then on.
            execute(database, "UPDATE agent_execution_logs SET cost_usd = 7 WHERE latency_ms = 9")

    report = prune(database, batch_rows=4, on_progress=arrive)
    assert report.pruned_logs == {DAY: 9}
    assert held_back(report) == {DAY: (3, "written after the day was sealed: not in its metrics")}
    assert sorted(query(database, "SELECT latency_ms FROM agent_execution_logs")) == [(9,), (98,), (99,)]
    assert sealed(database) == {DAY: 9}
    [(logs, reason)] = held_back(prune(database)).values()
    assert (logs, reason[:13]) == (3, "arrived after")


def test_a_log_that_arrives_between_two_verifications_is_seen(database: Database) -> None:
    store_days(database, 0)
    store_logs(database, [Log()])
    assert "differs" in held_back(prune(database))[DAY][1]


def test_logs_of_a_transaction_that_was_open_when_the_day_was_sealed_stay(database: Database) -> None:
    store_days(database, 0)
    with database.engine.connect() as writer:
        writer.begin()
        # A subtransaction, whose id looks finished to everybody while its transaction is open.
        savepoint = writer.begin_nested()
        writer.exec_driver_sql(
            "INSERT INTO agent_execution_logs (agent_id, timestamp, status) VALUES ('a', '2025-03-04 23:00Z', '')"
        )
        savepoint.commit()

        def commit(message: str) -> None:
            if "sealed with" in message:
                writer.commit()

        report = prune(database, on_progress=commit)
    assert report.pruned_logs == {DAY: 3}
    assert held_back(report) == {DAY: (1, "written after the day was sealed: not in its metrics")}
    assert logs_by_day(database) == {DAY: 1}


def test_logs_younger_than_an_open_transaction_wait_for_the_next_run(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verification, "_SETTLING_SECONDS", 0.0)
    with database.engine.connect() as writer:
        writer.exec_driver_sql("SELECT pg_current_xact_id()")
        store_days(database, 0)
        before = contents(database)
        report = prune(database)
        assert held_back(report) == {DAY: (3, UNSETTLED)}
        assert contents(database) == before
    monkeypatch.undo()
    assert prune(database).pruned_logs == {DAY: 3}


@pytest.mark.parametrize("batch_rows", [1, 2, 3, 7, 100])
def test_batches_of_any_size_delete_each_log_once(database: Database, batch_rows: int) -> None:
    store_days(database, -1, 0, logs=7)
    # All at one instant, so that the batches' borders fall within it.
    execute(
        database,
        """UPDATE agent_execution_logs SET "timestamp" = '2025-03-04 12:00Z' WHERE "timestamp" >= '2025-03-04'""",
    )
    aggregate(database)
    messages: list[str] = []
    report = prune(database, batch_rows=batch_rows, on_progress=messages.append)
    assert report.pruned_logs == {day(-1): 7, DAY: 7}
    assert logs_by_day(database) == {}
    assert sealed(database) == {day(-1): 7, DAY: 7}
    batches = [message for message in messages if message.startswith(str(DAY)) and "deleted" in message]
    assert len(batches) == -(-7 // batch_rows)


def test_each_batch_is_a_transaction_of_its_own_and_counts_what_it_deleted(database: Database) -> None:
    store_days(database, 0, logs=7)
    seen = []

    def look(message: str) -> None:
        if "deleted" in message:
            seen.append((*logs_by_day(database).values(), *sealed(database).values()))

    prune(database, batch_rows=3, on_progress=look)
    assert seen == [(4, 3), (1, 6), (7,)]


class KilledError(Exception):
    """Raised where a process would be killed: what was not committed is gone, what was stays."""


def test_a_run_that_was_cut_off_is_continued_by_the_next(database: Database) -> None:
    store_days(database, -1, 0, logs=9)

    def kill(message: str) -> None:
        if "4 of 9" in message:
            raise KilledError

    with pytest.raises(KilledError):
        prune(database, batch_rows=2, on_progress=kill)
    assert sealed(database) == {day(-1): 4}
    with pytest.raises(DayRefusedError):
        aggregate(database, window(-1))
    dry = prune(database, is_dry_run=True)
    report = prune(database, batch_rows=2)
    assert report.pruned_logs == dry.pruned_logs == {day(-1): 5, DAY: 9}
    assert report.sealed_days == dry.sealed_days == [DAY]
    assert sealed(database) == {day(-1): 9, DAY: 9}
    assert contents(database)["metric_day_pruning"] == []


def test_after_a_cut_off_a_log_that_arrived_since_stays_and_the_verified_ones_go(database: Database) -> None:
    store_days(database, 0, logs=9)

    def kill(message: str) -> None:
        if "4 of 9" in message:
            raise KilledError

    with pytest.raises(KilledError):
        prune(database, batch_rows=2, on_progress=kill)
    store_logs(database, [Log(latency_ms=99)])
    report = prune(database)
    assert report.pruned_logs == {DAY: 5}
    assert held_back(report) == {DAY: (1, "written after the day was sealed: not in its metrics")}
    assert query(database, "SELECT latency_ms FROM agent_execution_logs") == [(99,)]


def test_after_a_cut_off_nothing_goes_if_what_stands_is_not_what_was_verified(database: Database) -> None:
    store_days(database, 0, logs=9)

    def kill(message: str) -> None:
        if "4 of 9" in message:
            raise KilledError

    with pytest.raises(KilledError):
        prune(database, batch_rows=2, on_progress=kill)
    # As after a restore from a dump, which gives every row a new transaction: the seal's limit would let all pass.
    execute(database, "UPDATE metric_day_pruning SET verified_before = verified_before + 1000000")
    store_logs(database, [Log(latency_ms=99)])
    settle(database)
    before = contents(database)
    for is_dry_run in (True, False):
        report = prune(database, is_dry_run=is_dry_run)
        assert held_back(report) == {
            DAY: (6, "the verified logs of this half-pruned day were changed or deleted by somebody else")
        }
        assert contents(database) == before


def test_a_log_that_somebody_else_deletes_meanwhile_is_not_counted(database: Database) -> None:
    store_days(database, 0, logs=6)

    def delete(message: str) -> None:
        if "2 of 6" in message:
            execute(database, "DELETE FROM agent_execution_logs WHERE latency_ms = 5")

    assert prune(database, batch_rows=2, on_progress=delete).pruned_logs == {DAY: 5}
    assert sealed(database) == {DAY: 5}
    assert contents(database)["metric_day_pruning"] == []


def test_the_time_budget_ends_a_run_and_the_next_goes_on(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    store_days(database, -1, 0, logs=6)
    seconds = [monotonic()]
    monkeypatch.setattr("metrics_pipeline.retention.pace.monotonic", lambda: seconds[0])
    messages: list[str] = []

    def take_an_hour(message: str) -> None:
        messages.append(message)
        seconds[0] += 3601 * ("4 of 6" in message)

    report = prune(database, batch_rows=2, on_progress=take_an_hour)
    monkeypatch.undo()
    assert report.is_out_of_time
    assert messages[-1] == "The time budget of 60 minutes is used up; the next run goes on."
    assert report.pruned_logs == {day(-1): 4}
    assert report.logs_left == 8 == sum(logs_by_day(database).values())
    # What was not reached is not sealed, so its late logs are still aggregated.
    assert sealed(database) == {day(-1): 4}
    assert prune(database).pruned_logs == {day(-1): 2, DAY: 6}
    assert sealed(database) == {day(-1): 6, DAY: 6}


def test_a_dry_run_counts_what_the_real_run_does_and_changes_nothing(database: Database) -> None:
    store_days(database, -3, -1, 0, 5)
    store_days(database, -2, is_aggregated=False)
    store_logs(database, [Log(timestamp=NOON - timedelta(days=1))])
    execute(
        database,
        "UPDATE metric_day_ledger SET raw_pruned_at = now(), raw_pruned_logs = 0 WHERE metric_date = '2025-03-01'",
    )
    before = contents(database)
    dry = prune(database, is_dry_run=True)
    assert contents(database) == before
    real = prune(database)
    assert dry.is_dry_run
    assert not real.is_dry_run
    assert (dry.pruned_logs, dry.sealed_days, dry.held_back) == (real.pruned_logs, real.sealed_days, real.held_back)
    assert dry.logs_left == real.logs_left == 10
    assert real.pruned_logs == {DAY: 3}
    assert list(held_back(real)) == [day(-3), day(-2), day(-1)]


def test_a_day_under_another_zone_is_held_back_and_so_is_its_neighbour(database: Database) -> None:
    store_days(database, 0, logs=1)
    store_logs(database, [Log(timestamp=datetime(2025, 3, 4, 20, tzinfo=UTC))])
    aggregate(database)
    # In Tokyo it is 5 March at 20:00 UTC.
    aggregate(database, window(1, "Asia/Tokyo"))
    report = prune(database, "2025-04-10T03:30:00+00:00", time_zone="Asia/Tokyo")
    assert held_back(report) == {
        DAY: (1, "stored as a day of UTC, not of Asia/Tokyo"),
        day(1): (1, "shares hours with 2025-03-04, which is stored under another time zone"),
    }
    report = prune(database, "2025-04-10T03:30:00+00:00")
    assert held_back(report) == {DAY: (2, "shares hours with 2025-03-05, which is stored under another time zone")}


def test_a_day_that_shares_hours_with_a_sealed_one_of_another_zone_is_refused(database: Database) -> None:
    store_days(database, 0)
    store_logs(database, [Log(timestamp=datetime(2025, 3, 4, 20, tzinfo=UTC))])
    aggregate(database)
    prune(database)
    with pytest.raises(DayRefusedError, match="shares hours with 2025-03-04 in UTC, whose raw logs were pruned"):
        aggregate(database, window(1, "Asia/Tokyo"))
    # The next day of the same zone does not.
    aggregate(database, window(1))


def test_days_of_23_and_25_hours_go_as_a_whole(database: Database) -> None:
    store_agents(database, {"a": "active"})
    zone = "Europe/Berlin"
    spring, autumn = date(2025, 3, 30), date(2025, 10, 26)
    hour = timedelta(hours=1)
    for changed in (spring, autumn):
        whole = verification.day_window(changed, zone)
        store_logs(database, [Log(timestamp=moment) for moment in (whole.start, whole.end - hour, whole.end)])
        aggregate(database, whole)
    report = prune(database, "2025-12-01T03:30:00+00:00", time_zone=zone)
    assert report.pruned_logs == {spring: 2, autumn: 2}
    assert [logs for logs, _ in held_back(report).values()] == [1, 1]


def test_a_lock_that_is_not_freed_ends_the_run_after_some_tries_and_the_next_goes_on(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("metrics_pipeline.retention.pace._FIRST_WAIT_SECONDS", 0.01)
    monkeypatch.setattr("metrics_pipeline.retention.pace._LOCK_TIMEOUT_MS", 20)
    store_days(database, 0)
    with database.engine.connect() as other:
        other.exec_driver_sql("SELECT FROM agent_execution_logs WHERE latency_ms = 1 FOR UPDATE")
        with pytest.raises(Exception, match="A lock was not free in time"):
            prune(database)
    assert logs_by_day(database) == {DAY: 3}
    assert prune(database).pruned_logs == {DAY: 3}


def test_a_clock_that_is_ahead_deletes_nothing(database: Database) -> None:
    store_days(database, 0)
    before = contents(database)
    with pytest.raises(PermanentError, match=r"counts from 2225-04-04, and by the database's clock it is 20"):
        prune(database, NIGHT.replace("2025", "2225"))
    assert contents(database) == before


def test_a_view_in_place_of_the_table_is_refused(database: Database) -> None:
    store_days(database, 0)
    execute(
        database,
        "ALTER TABLE agent_execution_logs RENAME TO elsewhere",
        "CREATE VIEW agent_execution_logs AS SELECT * FROM elsewhere",
    )
    with pytest.raises(PermanentError, match="agent_execution_logs is none"):
        prune(database)


def test_the_days_kept_may_be_as_few_as_one(database: Database) -> None:
    store_days(database, 0, 1)
    report = prune(database, "2025-03-06T00:00:00+00:00", policy=RetentionPolicy(raw_log_days=1))
    assert report.pruned_logs == {DAY: 3}
