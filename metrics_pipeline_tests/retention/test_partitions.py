"""Partitioned log tables: whole partitions go where every log in them is verified, rows where not."""

import threading
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from metrics_pipeline.postgres.database import Database
from metrics_pipeline.postgres.urls import DatabaseUrl
from metrics_pipeline_tests.days import DAY, Log, aggregate, execute, query, store_agents, store_logs
from metrics_pipeline_tests.processes import wait_until

from .runs import (
    KilledError,
    at,
    contents,
    day,
    held_back,
    interfering,
    kill,
    logs_by_day,
    prune,
    sealed,
    store_days,
    window,
)

CREATE = (
    "DROP TABLE agent_execution_logs",
    """CREATE TABLE agent_execution_logs (
           id bigint GENERATED ALWAYS AS IDENTITY, agent_id text, "timestamp" timestamptz NOT NULL, status text,
           latency_ms int, token_count int, cost_usd numeric, error_type text, metadata jsonb
       ) PARTITION BY RANGE ("timestamp")""",
    'CREATE INDEX ON agent_execution_logs ("timestamp")',
)


def partition(name: str, first: str, last: str) -> str:
    return f"CREATE TABLE {name} PARTITION OF agent_execution_logs FOR VALUES FROM ({first}) TO ({last})"


def daily_partitions(*offsets: int) -> Iterator[str]:
    for offset in offsets:
        yield partition(f"logs_{day(offset):%m%d}", f"'{day(offset)} 00:00Z'", f"'{day(offset + 1)} 00:00Z'")


def partitions(database: Database) -> list[str]:
    return [
        name
        for (name,) in query(
            database,
            "SELECT relid::text FROM pg_partition_tree('agent_execution_logs') WHERE isleaf AND level > 0 ORDER BY 1",
        )
    ]


def tables(database: Database) -> set[str]:
    return {name for (name,) in query(database, "SELECT relname::text FROM pg_class WHERE relkind IN ('r', 'p')")}


@pytest.fixture
def daily(database: Database) -> Database:
    """A partition for each of four days; the last is too young to go."""
    execute(database, *CREATE, *daily_partitions(-2, -1, 0, 1))
    return database


def test_partitions_of_verified_days_are_dropped_and_the_others_stay(daily: Database) -> None:
    store_days(daily, -2, -1, 0, 1)
    dry = prune(daily, is_dry_run=True)
    assert partitions(daily) == ["logs_0302", "logs_0303", "logs_0304", "logs_0305"]
    report = prune(daily)
    assert report.dropped_partitions == dry.dropped_partitions == ["logs_0302", "logs_0303", "logs_0304"]
    assert report.pruned_logs == dry.pruned_logs == {day(-2): 3, day(-1): 3, DAY: 3}
    assert sealed(daily) == {day(-2): 3, day(-1): 3, DAY: 3}
    assert partitions(daily) == ["logs_0305"]
    assert not tables(daily) & {"logs_0302", "logs_0303", "logs_0304"}
    assert logs_by_day(daily) == {day(1): 3}
    before = contents(daily)
    assert prune(daily).dropped_partitions == []
    assert contents(daily) == before


def test_a_partition_of_a_day_that_is_held_back_stays_as_it_is(daily: Database) -> None:
    store_days(daily, -2, 0)
    store_days(daily, -1, is_aggregated=False)
    report = prune(daily)
    assert report.dropped_partitions == ["logs_0302", "logs_0304"]
    assert held_back(report) == {day(-1): (3, "never aggregated: backfill the day")}
    assert logs_by_day(daily) == {day(-1): 3}


def test_an_empty_old_partition_is_dropped_and_an_empty_young_one_is_not(daily: Database) -> None:
    assert prune(daily).dropped_partitions == ["logs_0302", "logs_0303", "logs_0304"]
    assert partitions(daily) == ["logs_0305"]


def test_a_partition_that_gets_a_log_before_it_is_locked_keeps_it(database: Database) -> None:
    execute(database, *CREATE, partition("week", "MINVALUE", "'2025-03-05 00:00Z'"), *daily_partitions(1))
    store_days(database, -1)
    late = Log(timestamp=window(0).start)
    with interfering(database, "WITH RECURSIVE root", at(1, lambda: store_logs(database, [late]))):
        report = prune(database)
    assert (report.dropped_partitions, report.pruned_logs) == ([], {day(-1): 3})
    assert held_back(report) == {DAY: (1, "never aggregated: backfill the day")}
    assert logs_by_day(database) == {DAY: 1}


def test_a_late_log_that_waits_for_a_partition_that_would_be_dropped_keeps_it(daily: Database) -> None:
    """Its writer has locked the parent, so the partition cannot be detached, and is verified again later."""
    store_days(daily, 0)
    writer = threading.Thread(target=store_logs, args=(daily, [Log(latency_ms=99)]))

    def start() -> None:
        writer.start()
        is_waiting = "SELECT 1 FROM pg_locks WHERE NOT granted AND relation = 'logs_0304'::regclass"
        wait_until(lambda: bool(query(daily, is_waiting)))

    def end(message: str) -> None:
        if message.startswith("logs_0304: is not dropped"):
            writer.join()

    with interfering(daily, "LOCK TABLE ONLY logs_0304", at(1, start)):
        report = prune(daily, on_progress=end)
    assert (report.dropped_partitions, report.pruned_logs) == (["logs_0302", "logs_0303"], {})
    assert held_back(report)[DAY][0] == 4
    assert logs_by_day(daily) == {DAY: 4}


@pytest.mark.parametrize("moment", ["DELETE FROM agent_execution_logs", "DROP TABLE logs_0303"])
def test_a_drop_that_is_cut_off_changes_nothing(daily: Database, moment: str) -> None:
    """The day of Berlin lies in two partitions: its logs in one are deleted, the other one is dropped."""
    zone = "Europe/Berlin"
    store_agents(daily, {"a": "active"})
    store_logs(daily, [Log(timestamp=datetime(2025, 3, d, h, tzinfo=UTC)) for d in (3, 4) for h in (1, 23)])
    for offset in (-1, 0):
        aggregate(daily, window(offset, zone))
    execute(daily, "DROP TABLE logs_0302")
    before = contents(daily)
    with interfering(daily, moment, at(1, kill)), pytest.raises(KilledError):
        prune(daily, "2025-04-04T01:30:00+00:00", time_zone=zone)
    assert contents(daily) == before
    assert partitions(daily) == ["logs_0303", "logs_0304", "logs_0305"]
    report = prune(daily, "2025-04-04T01:30:00+00:00", time_zone=zone)
    assert (report.dropped_partitions, report.pruned_logs) == (["logs_0303"], {day(-1): 1, DAY: 2})


def test_a_partition_of_several_days_is_dropped_when_all_are_verified(database: Database) -> None:
    execute(database, *CREATE, partition("week", "MINVALUE", "'2025-03-05 00:00Z'"), *daily_partitions(1))
    store_days(database, -2, -1, 0)
    report = prune(database)
    assert report.dropped_partitions == ["week"]
    assert report.pruned_logs == {day(-2): 3, day(-1): 3, DAY: 3}


def test_of_a_mixed_partition_the_verified_days_go_row_by_row(database: Database) -> None:
    execute(database, *CREATE, partition("week", "MINVALUE", "'2025-03-05 00:00Z'"), *daily_partitions(1))
    store_days(database, -2, 0)
    store_days(database, -1, is_aggregated=False)
    report = prune(database, batch_rows=2)
    assert report.dropped_partitions == []
    assert report.pruned_logs == {day(-2): 3, DAY: 3}
    assert logs_by_day(database) == {day(-1): 3}


def test_a_partition_that_reaches_beyond_the_cutoff_is_emptied_row_by_row(database: Database) -> None:
    execute(
        database,
        *CREATE,
        partition("month", "MINVALUE", "'2025-03-05 00:01Z'"),
        partition("rest", "'2025-03-05 00:01Z'", "MAXVALUE"),
    )
    store_days(database, 0, 1)
    report = prune(database)
    assert (report.dropped_partitions, report.pruned_logs) == ([], {DAY: 3})
    assert logs_by_day(database) == {day(1): 3}


def test_the_rows_of_a_default_partition_go_row_by_row_and_it_stays(database: Database) -> None:
    execute(database, *CREATE, *daily_partitions(0), "CREATE TABLE rest PARTITION OF agent_execution_logs DEFAULT")
    store_days(database, -1, 0, 1)
    report = prune(database)
    assert report.dropped_partitions == ["logs_0304"]
    assert report.pruned_logs == {day(-1): 3, DAY: 3}
    assert partitions(database) == ["rest"]
    assert logs_by_day(database) == {day(1): 3}


def test_days_of_a_zone_that_lie_in_two_partitions_go_with_both(daily: Database) -> None:
    zone = "Europe/Berlin"
    store_agents(daily, {"a": "active"})
    moments = [datetime(2025, 3, d, h, tzinfo=UTC) for d in (2, 3, 4) for h in (1, 12, 23)]
    store_logs(daily, [Log(timestamp=moment) for moment in moments])
    for offset in (-2, -1, 0, 1):
        aggregate(daily, window(offset, zone))
    # The night of 4 April in Berlin: the cutoff is 4 March, 23:00 UTC.
    report = prune(daily, "2025-04-04T01:30:00+00:00", time_zone=zone)
    assert report.pruned_logs == {day(-2): 2, day(-1): 3, DAY: 3}
    assert report.dropped_partitions == ["logs_0302", "logs_0303"]
    assert query(daily, 'SELECT "timestamp" FROM agent_execution_logs') == [(datetime(2025, 3, 4, 23, tzinfo=UTC),)]
    assert prune(daily, "2025-04-05T01:30:00+00:00", time_zone=zone).dropped_partitions == ["logs_0304"]
    assert sealed(daily) == {day(-2): 2, day(-1): 3, DAY: 3, day(1): 1}


def test_partitions_split_once_more_are_emptied_row_by_row(database: Database) -> None:
    execute(
        database,
        *CREATE,
        partition("old", "MINVALUE", "'2025-03-05 00:00Z'") + " PARTITION BY LIST (agent_id)",
        "CREATE TABLE old_a PARTITION OF old FOR VALUES IN ('a')",
        "CREATE TABLE old_rest PARTITION OF old DEFAULT",
    )
    store_days(database, 0)
    report = prune(database)
    assert (report.dropped_partitions, report.pruned_logs) == ([], {DAY: 3})
    assert partitions(database) == ["old_a", "old_rest"]


def test_a_partition_that_somebody_uses_all_the_time_is_emptied_instead(
    daily: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    store_days(daily, 0, 1)
    with daily.engine.connect() as writer:
        # A writer of recent days holds its lock on the parent until it commits.
        writer.exec_driver_sql("UPDATE agent_execution_logs SET latency_ms = 7 WHERE \"timestamp\" >= '2025-03-05'")
        report = prune(daily)
        writer.commit()
    assert (report.dropped_partitions, report.pruned_logs) == ([], {DAY: 3})
    assert logs_by_day(daily) == {day(1): 3}
    assert prune(daily).dropped_partitions == ["logs_0302", "logs_0303", "logs_0304"]


def test_a_role_that_does_not_own_the_table_deletes_rows_instead_of_dropping(
    daily: Database, database_url: str
) -> None:
    store_days(daily, 0)
    role = f"pruner_{uuid.uuid4().hex}"
    execute(
        daily, f"CREATE ROLE {role}", f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {role}"
    )
    joint = "&" if "?" in database_url else "?"
    try:
        report = prune(Database(DatabaseUrl.parse(f"{database_url}{joint}options=-c%20role%3D{role}")))
    finally:
        execute(daily, f"DROP OWNED BY {role}", f"DROP ROLE {role}")
    assert (report.dropped_partitions, report.pruned_logs) == ([], {DAY: 3})
    assert partitions(daily) == ["logs_0302", "logs_0303", "logs_0304", "logs_0305"]


def test_names_are_quoted(database: Database) -> None:
    name = '"it\'s; 100% ""a:b"" {leaf} \\d"'
    execute(database, *CREATE, "SELECT 1")
    with database.engine.begin() as connection:
        for statement in (
            partition(name, "MINVALUE", "'2025-03-04 00:00Z'"),
            partition('"Mixed: :rows"', "'2025-03-04 00:00Z'", "MAXVALUE"),
        ):
            connection.connection.cursor().execute(statement)
    store_days(database, -1, 0)
    report = prune(database)
    assert report.dropped_partitions == [name]
    assert report.pruned_logs == {day(-1): 3, DAY: 3}
