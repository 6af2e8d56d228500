"""Which raw logs go, and which stay for which reason, on a plain table."""

import tracemalloc
import uuid
from datetime import UTC, date, datetime, timedelta
from time import monotonic

import pytest

from metrics_pipeline.errors import DayRefusedError, PermanentError, TransientError
from metrics_pipeline.metrics.retention import RetentionPolicy
from metrics_pipeline.metrics.windows import day_window
from metrics_pipeline.pipeline.opening import require_ready
from metrics_pipeline.postgres.database import Database
from metrics_pipeline.postgres.urls import DatabaseUrl
from metrics_pipeline.retention.pace import Pace, PacedConnection
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

from .runs import (
    DELETED,
    NIGHT,
    VERIFIED,
    KilledError,
    at,
    contents,
    held_back,
    interfering,
    kill,
    logs_by_day,
    prune,
    sealed,
    store_days,
    window,
)


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
    aggregate(database, accept_deleted=True)
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


@pytest.mark.parametrize("when", [VERIFIED, DELETED])
def test_a_log_that_arrives_while_its_day_is_pruned_stays_and_is_reported(database: Database, when: str) -> None:
    store_days(database, 0, logs=10)
    late = [Log("a", latency_ms=99, timestamp=WINDOW.start), Log("a", latency_ms=98, timestamp=NOON)]
    with interfering(database, when, at(1, lambda: store_logs(database, late))):
        report = prune(database, batch_rows=4)
    assert report.pruned_logs == {DAY: 10}
    [(logs, reason)] = held_back(report).values()
    assert (logs, reason[:36]) == (2, "arrived after the day was sealed on ")
    assert sorted(query(database, "SELECT latency_ms FROM agent_execution_logs")) == [(98,), (99,)]
    assert sealed(database) == {DAY: 10}
    assert held_back(prune(database)) == held_back(report)


CHANGES = {
    "UPDATE agent_execution_logs SET cost_usd = 7 WHERE latency_ms = 9": "cost_nano_usd +6900000000",
    "UPDATE agent_execution_logs SET \"timestamp\" = '2025-03-06' WHERE latency_ms = 9": "logs -1",
    "DELETE FROM agent_execution_logs WHERE latency_ms = 9": "logs -1",
}


@pytest.mark.parametrize("statement", CHANGES)
def test_a_log_that_changes_between_the_snapshot_and_the_delete_holds_its_day_back(
    database: Database, statement: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("metrics_pipeline.retention.pace._FIRST_WAIT_SECONDS", 0.01)
    store_days(database, -1, 0, logs=10)
    with interfering(
        database, VERIFIED, at(3, lambda: execute(database, f"{statement} AND \"timestamp\" >= '2025-03-04'"))
    ):
        report = prune(database)
    assert report.pruned_logs == {day(-1): 10}
    assert CHANGES[statement] in held_back(report)[DAY][1]
    assert logs_by_day(database)[DAY] == 10 - ("logs -1" in CHANGES[statement])
    assert sealed(database) == {day(-1): 10}


def test_a_log_that_is_touched_between_the_snapshot_and_the_delete_goes_with_its_day(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("metrics_pipeline.retention.pace._FIRST_WAIT_SECONDS", 0.01)
    store_days(database, 0)
    touch = "UPDATE agent_execution_logs SET cost_usd = cost_usd WHERE latency_ms = 2"
    with interfering(database, VERIFIED, at(1, lambda: execute(database, touch))):
        report = prune(database)
    assert (report.pruned_logs, report.held_back) == ({DAY: 3}, [])


def test_a_day_that_is_published_between_the_snapshot_and_the_seal_is_verified_again(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if a publisher had held the lock of the day while retention took its snapshot."""
    monkeypatch.setattr("metrics_pipeline.retention.pace._FIRST_WAIT_SECONDS", 0.01)
    store_days(database, 0)
    publish = (
        "UPDATE metric_day_ledger SET source_fingerprint = replace(source_fingerprint, '\"logs\": 3', '\"logs\": 2')"
    )
    with interfering(database, VERIFIED, at(1, lambda: execute(database, publish))):
        report = prune(database)
    assert held_back(report) == {DAY: (3, "differs from what was aggregated (logs +1): backfill the day")}
    assert (logs_by_day(database), sealed(database)) == ({DAY: 3}, {})


def test_a_slice_that_deletes_other_logs_than_were_verified_takes_the_whole_day_back(database: Database) -> None:
    """Nothing but a fault of ours or of the server makes one of a day's slices differ: here one log is not returned."""
    store_days(database, 0, logs=9)
    execute(
        database,
        """CREATE FUNCTION keep_the_seventh() RETURNS trigger LANGUAGE plpgsql AS
           'BEGIN RETURN CASE WHEN OLD.latency_ms <> 6 THEN OLD END; END'""",
        "CREATE TRIGGER keep BEFORE DELETE ON agent_execution_logs FOR EACH ROW EXECUTE FUNCTION keep_the_seventh()",
    )
    before = contents(database)
    report = prune(database, batch_rows=2)
    [(logs, reason)] = held_back(report).values()
    assert logs == 9
    assert "could not be deleted: a trigger, a rule or a policy of the table kept logs" in reason
    assert "(logs -1, successful -1, latency_ms -6, cost_nano_usd -100000000)" in reason
    assert (report.pruned_logs, report.sealed_days) == ({}, [])
    assert contents(database) == before


def test_a_log_that_arrives_between_two_verifications_is_seen(database: Database) -> None:
    store_days(database, 0)
    store_logs(database, [Log()])
    assert "differs" in held_back(prune(database))[DAY][1]


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


@pytest.mark.parametrize("batch_rows", [1, 2, 3, 7, 100])
def test_slices_of_any_size_delete_each_log_once(database: Database, batch_rows: int) -> None:
    store_days(database, -1, 0, logs=7)
    # All at one instant, so that no slice divides them, and some at both ends of a day.
    execute(
        database,
        """UPDATE agent_execution_logs SET "timestamp" = '2025-03-04 12:00Z' WHERE "timestamp" >= '2025-03-04'""",
    )
    store_logs(database, [Log(timestamp=moment) for moment in (WINDOW.start, WINDOW.end - timedelta(microseconds=1))])
    aggregate(database)
    report = prune(database, batch_rows=batch_rows)
    assert report.pruned_logs == {day(-1): 7, DAY: 9}
    assert logs_by_day(database) == {}
    assert sealed(database) == {day(-1): 7, DAY: 9}


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


def test_the_time_budget_ends_a_run_between_two_days_and_metrics_and_alerts_expire_all_the_same(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    store_days(database, -400, -1, 0, logs=6)
    execute(
        database,
        "UPDATE metric_day_ledger SET raw_pruned_at = now(), raw_pruned_logs = 6 WHERE metric_date < '2025-03-01'",
    )
    execute(database, "DELETE FROM agent_execution_logs WHERE \"timestamp\" < '2025-03-01'")
    seconds = [monotonic()]
    monkeypatch.setattr("metrics_pipeline.retention.pace.monotonic", lambda: seconds[0])
    messages: list[str] = []

    def take_an_hour(message: str) -> None:
        messages.append(message)
        seconds[0] += 3601

    report = prune(database, on_progress=take_an_hour)
    monkeypatch.undo()
    assert report.is_out_of_time
    assert messages[-1] == "The time budget of 60 minutes is used up; the next run goes on."
    assert report.pruned_logs == {day(-1): 6}
    assert report.expired_metrics == {day(-400): 1}
    assert report.logs_left == 6 == sum(logs_by_day(database).values())
    # What was not reached is not sealed, so its late logs are still aggregated.
    assert sealed(database) == {day(-400): 6, day(-1): 6}
    assert prune(database).pruned_logs == {DAY: 6}


def test_a_run_pauses_in_proportion_to_its_work(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    store_days(database, -1, 0)
    pauses: list[float] = []
    seconds = iter(range(10_000))
    monkeypatch.setattr("metrics_pipeline.retention.pace.monotonic", lambda: float(next(seconds)))
    monkeypatch.setattr("metrics_pipeline.retention.pace.sleep", pauses.append)
    with database.connect() as connection:
        paced = PacedConnection(connection, Pace(pause_ms=2_500))
        for transactions in (1, 3, 100):
            for _ in range(transactions):
                paced.transaction(lambda _: None)
            paced.pause()
    # Each transaction takes a second by this clock; no pause is longer than a minute.
    assert pauses == [2.5, 7.5, 60]


@pytest.mark.long
def test_a_day_of_200000_logs_goes_without_a_temporary_file_and_in_constant_memory(database: Database) -> None:
    store_agents(database, {"a": "active"})
    execute(
        database,
        """INSERT INTO agent_execution_logs (agent_id, "timestamp", status, latency_ms, token_count, cost_usd, metadata)
           SELECT 'a', '2025-03-04'::timestamptz + i * interval '0.43 s', 'success', i % 1000, i % 77, 0.001,
                  jsonb_build_object('user_id', 'user-' || i, 'padding', repeat('x', 200))
             FROM generate_series(0, 199999) AS i""",
    )
    aggregate(database)
    temp_bytes = (
        "SELECT pg_stat_force_next_flush(), temp_bytes FROM pg_stat_database WHERE datname = current_database()"
    )
    [(_, before)] = query(database, temp_bytes)
    tracemalloc.start()
    report = prune(database)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert report.pruned_logs == {DAY: 200_000}
    assert logs_by_day(database) == {}
    assert query(database, temp_bytes)[0][1] == before
    assert peak < 5_000_000


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
        whole = day_window(changed, zone)
        store_logs(database, [Log(timestamp=moment) for moment in (whole.start, whole.end - hour, whole.end)])
        aggregate(database, whole)
    report = prune(database, "2025-12-01T03:30:00+00:00", time_zone=zone)
    assert report.pruned_logs == {spring: 2, autumn: 2}
    assert [logs for logs, _ in held_back(report).values()] == [1, 1]


def test_a_locked_log_holds_back_its_day_and_the_rest_is_done(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("metrics_pipeline.retention.pace._FIRST_WAIT_SECONDS", 0.01)
    monkeypatch.setattr("metrics_pipeline.retention.pace._LOCK_TIMEOUT_MS", 20)
    store_days(database, -400, -1, 0, 1)
    with database.engine.connect() as other:
        other.exec_driver_sql(
            "SELECT FROM agent_execution_logs WHERE latency_ms = 1 AND timestamp::date = '2025-03-03' FOR UPDATE"
        )
        report = prune(database)
    assert report.pruned_logs == {day(-400): 3, DAY: 3}
    assert report.expired_metrics == {day(-400): 1}
    assert held_back(report) == {
        day(-1): (3, "could not be deleted: canceling statement due to lock timeout (SQLSTATE 55P03)")
    }
    assert logs_by_day(database) == {day(-1): 3, day(1): 3}
    assert prune(database).pruned_logs == {day(-1): 3}


def test_a_locked_table_ends_the_run_after_metrics_and_alerts_are_done(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("metrics_pipeline.retention.pace._FIRST_WAIT_SECONDS", 0.01)
    monkeypatch.setattr("metrics_pipeline.retention.pace._LOCK_TIMEOUT_MS", 20)
    store_days(database, -400, 0)
    prune(database, "2024-04-01T03:30:00+00:00")
    with database.engine.connect() as other:
        contract = require_ready(database)
        other.exec_driver_sql("LOCK TABLE agent_execution_logs")
        with pytest.raises(TransientError, match="A lock was not free in time"):
            prune(database, contract=contract)
    assert query(database, "SELECT DISTINCT metric_date FROM agent_performance_metrics") == [(DAY,)]
    assert logs_by_day(database) == {DAY: 3}


REFUSALS = {
    "a privilege": (
        ["REVOKE DELETE ON agent_execution_logs FROM CURRENT_USER"],
        "permission denied for table agent_execution_logs (SQLSTATE 42501)",
    ),
    "a replica identity": (
        [
            "ALTER TABLE agent_execution_logs DROP CONSTRAINT agent_execution_logs_pkey",
            "CREATE PUBLICATION everything FOR TABLE agent_execution_logs",
        ],
        (
            'cannot delete from table "agent_execution_logs" because it does not have a replica identity and publishes '
            "deletes (SQLSTATE 55000)"
        ),
    ),
    "a trigger's consent": (
        [
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE ''not mine''; END'",
            "CREATE TRIGGER refuse BEFORE DELETE ON agent_execution_logs EXECUTE FUNCTION refuse()",
        ],
        "not mine (SQLSTATE P0001)",
    ),
}


@pytest.mark.parametrize("what", REFUSALS)
def test_what_is_missing_to_delete_logs_is_named_and_metrics_and_alerts_expire(
    database: Database, database_url: str, what: str
) -> None:
    statements, reason = REFUSALS[what]
    role = f"pruner_{uuid.uuid4().hex}"
    store_days(database, -400, 0)
    prune(database, "2024-04-01T03:30:00+00:00")
    execute(
        database,
        f"CREATE ROLE {role}",
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {role}",
        *(each.replace("CURRENT_USER", role) for each in statements),
    )
    joint = "&" if "?" in database_url else "?"
    try:
        report = prune(Database(DatabaseUrl.parse(f"{database_url}{joint}options=-c%20role%3D{role}")))
    finally:
        execute(database, f"DROP OWNED BY {role}", f"DROP ROLE {role}")
    assert held_back(report) == {DAY: (3, f"could not be deleted: {reason}")}
    assert report.expired_metrics == {day(-400): 1}
    assert (logs_by_day(database)[DAY], sealed(database)) == (3, {day(-400): 3})


def test_a_clock_that_is_ahead_deletes_nothing(database: Database) -> None:
    store_days(database, 0)
    before = contents(database)
    with pytest.raises(PermanentError, match=r"counts from 2225-04-04, and by the database's clock it is 20"):
        prune(database, NIGHT.replace("2025", "2225"))
    assert contents(database) == before


@pytest.mark.parametrize("is_dry_run", [True, False])
def test_the_logs_of_a_view_are_held_back_and_metrics_expire(database: Database, *, is_dry_run: bool) -> None:
    store_days(database, -400, 0)
    prune(database, "2024-04-01T03:30:00+00:00")
    execute(
        database,
        "ALTER TABLE agent_execution_logs RENAME TO elsewhere",
        "CREATE VIEW agent_execution_logs AS SELECT * FROM elsewhere",
    )
    report = prune(database, is_dry_run=is_dry_run)
    assert held_back(report) == {DAY: (3, "agent_execution_logs is not a table: retention deletes from tables only")}
    assert (report.pruned_logs, report.expired_metrics) == ({}, {day(-400): 1})
    assert (logs_by_day(database), sealed(database)) == ({DAY: 3}, {day(-400): 3})


def test_the_days_kept_may_be_as_few_as_one(database: Database) -> None:
    store_days(database, 0, 1)
    report = prune(database, "2025-03-06T00:00:00+00:00", policy=RetentionPolicy(raw_log_days=1))
    assert report.pruned_logs == {DAY: 3}
