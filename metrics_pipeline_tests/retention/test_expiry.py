"""Metrics and resolved alerts that are older than the policy keeps."""

from datetime import date

import pytest
from sqlalchemy import Connection, event

from metrics_pipeline.errors import DayRefusedError, TransientError
from metrics_pipeline.metrics.retention import RetentionPolicy
from metrics_pipeline.pipeline.opening import require_ready
from metrics_pipeline.postgres.database import Database
from metrics_pipeline_tests.days import DAY, Log, aggregate, assert_exact, execute, query, store_agents, store_logs

from .runs import contents, day, logs_by_day, prune, prune_in_part, sealed, store_days, window

#: Metrics of DAY are more than 365 days old from this night on.
YEAR_LATER = "2026-03-05T03:30:00+00:00"


def metric_days(database: Database) -> list[date]:
    return [row[0] for row in query(database, "SELECT DISTINCT metric_date FROM agent_performance_metrics ORDER BY 1")]


def test_metrics_go_when_they_are_older_than_the_policy_keeps_and_not_a_day_earlier(database: Database) -> None:
    store_days(database, 0, 1)
    assert prune(database, "2026-03-04T23:59:59+00:00").expired_metrics == {}
    assert metric_days(database) == [DAY, day(1)]
    report = prune(database, "2026-03-05T00:00:00+00:00")
    assert report.expired_metrics == {DAY: 1}
    assert metric_days(database) == [day(1)]


def test_the_restatements_of_a_day_go_with_its_metrics(database: Database) -> None:
    store_days(database, 0, 1)
    for offset in (0, 1):
        store_logs(database, [Log(timestamp=window(offset).start)])
        aggregate(database, window(offset))
    report = prune(database, YEAR_LATER)
    assert (report.expired_metrics, report.expired_restatements) == ({DAY: 1}, 1)
    assert query(database, "SELECT metric_date FROM metric_restatements") == [(day(1),)]


def test_a_backfill_of_an_expired_day_is_refused_and_stores_no_zeros(database: Database) -> None:
    store_days(database, 0)
    prune(database, YEAR_LATER)
    assert query(database, "SELECT metric_date, source_logs FROM metric_day_ledger") == [(DAY, 3)]
    with pytest.raises(DayRefusedError, match="sealed"):
        aggregate(database)
    # Nor does it store what came much later as if that were all.
    store_logs(database, [Log()])
    with pytest.raises(DayRefusedError, match="sealed"):
        aggregate(database)
    assert metric_days(database) == []


def test_metrics_that_another_program_stored_leave_a_seal_behind(database: Database) -> None:
    store_days(database, 0)
    execute(database, "DELETE FROM metric_day_ledger", "DELETE FROM agent_execution_logs")
    dry = prune(database, YEAR_LATER, is_dry_run=True)
    report = prune(database, YEAR_LATER)
    assert report.expired_metrics == dry.expired_metrics == {DAY: 1}
    assert query(
        database, "SELECT source_logs, aggregated_logs, agents, definition_version FROM metric_day_ledger"
    ) == [(2, 2, 1, "unknown")]
    assert sealed(database) == {DAY: 0}
    with pytest.raises(DayRefusedError, match="sealed"):
        aggregate(database)


def test_metrics_stay_as_long_as_raw_logs_stand_that_could_be_aggregated(database: Database) -> None:
    store_days(database, 0, 1)
    store_logs(database, [Log(timestamp=window(0).start)])
    for is_dry_run in (True, False):
        report = prune(database, "2026-03-06T03:30:00+00:00", is_dry_run=is_dry_run)
        assert report.expired_metrics == {day(1): 1}
    assert metric_days(database) == [DAY]
    aggregate(database)
    assert_exact(database)
    # Now the logs go, and in the same night the metrics.
    assert prune(database, YEAR_LATER).expired_metrics == {DAY: 1}
    assert (metric_days(database), logs_by_day(database)) == ([], {})


def test_metrics_go_though_logs_stand_that_came_after_the_seal(database: Database) -> None:
    store_days(database, 0)
    prune(database)
    store_logs(database, [Log()])
    for is_dry_run in (True, False):
        assert prune(database, YEAR_LATER, is_dry_run=is_dry_run).expired_metrics == {DAY: 1}
    assert logs_by_day(database) == {DAY: 1}


def test_metrics_of_a_day_that_is_held_back_while_it_is_pruned_stay(database: Database) -> None:
    store_days(database, 0)
    execute(
        database,
        "CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
        "CREATE TRIGGER keep BEFORE DELETE ON agent_execution_logs FOR EACH ROW EXECUTE FUNCTION keep()",
    )
    assert prune(database, YEAR_LATER).expired_metrics == {}
    assert metric_days(database) == [DAY]


def test_metrics_of_a_day_that_an_earlier_version_pruned_in_part_stay_until_the_rest_is_gone(
    database: Database,
) -> None:
    store_days(database, 0)
    prune_in_part(database, "latency_ms = 1")
    late = Log(latency_ms=99)
    store_logs(database, [late])
    for is_dry_run in (True, False):
        assert prune(database, YEAR_LATER, is_dry_run=is_dry_run).expired_metrics == {}
    assert metric_days(database) == [DAY]
    execute(database, "DELETE FROM agent_execution_logs WHERE latency_ms = 99")
    for is_dry_run in (True, False):
        assert prune(database, YEAR_LATER, is_dry_run=is_dry_run).expired_metrics == {DAY: 1}


def test_a_locked_alert_or_metric_leaves_the_rest_to_be_done(database: Database) -> None:
    store_days(database, -1, 0)
    alert(database, "2024-01-01", "locked")
    with database.engine.connect() as other:
        other.exec_driver_sql("SELECT FROM alert_history FOR UPDATE")
        other.exec_driver_sql("SELECT FROM agent_performance_metrics WHERE metric_date = '2025-03-03' FOR UPDATE")
        with pytest.raises(TransientError, match="A lock was not free in time"):
            prune(database, YEAR_LATER)
    assert (logs_by_day(database), metric_days(database)) == ({}, [day(-1)])
    report = prune(database, YEAR_LATER)
    assert (report.expired_metrics, report.deleted_alerts) == ({day(-1): 1}, 1)


def test_a_day_without_logs_expires_too(database: Database) -> None:
    store_agents(database, {"a": "active", "b": "active"})
    aggregate(database)
    report = prune(database, YEAR_LATER)
    assert report.expired_metrics == {DAY: 2}
    before = contents(database)
    assert prune(database, YEAR_LATER).expired_metrics == {}
    assert contents(database) == before


def alert(database: Database, resolved_at: str | None, message: str) -> None:
    execute(
        database,
        """INSERT INTO alert_history (agent_id, alert_type, severity, message, triggered_at, resolved_at)
           VALUES ('a', 'latency', 'high', :message, '2020-01-01', CAST(:resolved_at AS timestamptz))""",
        resolved_at=resolved_at,
        message=message,
    )


@pytest.mark.parametrize("column_type", ["timestamptz", "timestamp"])
def test_alerts_go_90_days_after_they_were_resolved_and_unresolved_ones_never(
    database: Database, column_type: str
) -> None:
    execute(database, f"ALTER TABLE alert_history ALTER resolved_at TYPE {column_type}")
    # 90 days before 4 April 2025 is 4 January; in Berlin it begins at 23:00 UTC of the 3rd.
    alert(database, "2025-01-03 22:59:59.999999Z", "goes")
    alert(database, "2025-01-03 23:00Z", "stays")
    alert(database, None, "unresolved")
    alert(database, "infinity", "never")
    night = "2025-04-04T01:30:00+00:00"
    dry = prune(database, night, time_zone="Europe/Berlin", is_dry_run=True)
    assert len(query(database, "SELECT 1 FROM alert_history")) == 4
    report = prune(database, night, time_zone="Europe/Berlin")
    assert report.deleted_alerts == dry.deleted_alerts == 1
    left = query(database, "SELECT message FROM alert_history ORDER BY 1")
    assert left == [("never",), ("stays",), ("unresolved",)]
    assert prune(database, night, time_zone="Europe/Berlin").deleted_alerts == 0


@pytest.mark.parametrize("layout", ["LIST (severity)", "RANGE (resolved_at)"])
def test_alerts_of_partitions_go(database: Database, layout: str) -> None:
    execute(
        database,
        "ALTER TABLE alert_history RENAME TO plain",
        f"CREATE TABLE alert_history (LIKE plain) PARTITION BY {layout}",
        "ALTER TABLE alert_history ALTER id DROP NOT NULL",
        "CREATE TABLE alerts PARTITION OF alert_history DEFAULT",
    )
    for n in range(7):
        alert(database, f"2024-01-0{n + 1}", str(n))
    alert(database, None, "unresolved")
    assert prune(database).deleted_alerts == 7
    assert query(database, "SELECT message FROM alert_history") == [("unresolved",)]


@pytest.mark.parametrize("is_dry_run", [True, False])
@pytest.mark.parametrize(
    "statements",
    [
        ["ALTER TABLE alert_history RENAME TO elsewhere", "CREATE VIEW alert_history AS SELECT * FROM elsewhere"],
        ["DROP TABLE alert_history"],
    ],
    ids=["view", "absent"],
)
def test_alerts_that_are_not_in_a_table_are_reported_and_logs_and_metrics_go(
    database: Database, statements: list[str], *, is_dry_run: bool
) -> None:
    store_days(database, -400, 0)
    contract = require_ready(database)
    execute(database, *statements)
    report = prune(database, contract=contract, is_dry_run=is_dry_run)
    assert report.deleted_alerts == 0
    assert report.alerts_held_back == (
        "alert_history does not exist, or is not a table: retention deletes from tables only"
    )
    assert (report.pruned_logs, report.expired_metrics) == ({day(-400): 3, DAY: 3}, {day(-400): 1})


def test_alerts_and_partitions_of_naive_times_go_by_utc_whatever_the_zone_of_the_session(database: Database) -> None:
    """A pooler between two transactions may have lost the zone that the session was set to."""
    execute(
        database,
        "ALTER TABLE alert_history ALTER resolved_at TYPE timestamp",
        "DROP TABLE agent_execution_logs",
        """CREATE TABLE agent_execution_logs (id int, agent_id text, "timestamp" timestamp, status text, latency_ms int,
               token_count int, cost_usd numeric, error_type text, metadata jsonb) PARTITION BY RANGE ("timestamp")""",
        "CREATE TABLE old PARTITION OF agent_execution_logs FOR VALUES FROM (MINVALUE) TO ('2025-03-05 05:00')",
        "CREATE TABLE young PARTITION OF agent_execution_logs FOR VALUES FROM ('2025-03-05 05:00') TO (MAXVALUE)",
    )
    store_days(database, 0, 1)
    alert(database, "2025-01-04 05:00Z", "stays")
    contract = require_ready(database)

    def lose_the_zone(connection: Connection) -> None:
        connection.exec_driver_sql("SET TIME ZONE 'Asia/Tokyo'")
        connection.commit()

    event.listen(database.engine, "engine_connect", lose_the_zone)
    report = prune(database, contract=contract)
    event.remove(database.engine, "engine_connect", lose_the_zone)
    assert (report.deleted_alerts, report.dropped_partitions) == (0, [])
    assert (report.pruned_logs, report.logs_left) == ({DAY: 3}, 0)


def test_logs_and_metrics_kept_equally_long_go_in_the_same_night(database: Database) -> None:
    store_days(database, 0)
    report = prune(database, policy=RetentionPolicy(raw_log_days=30, metric_days=30))
    assert (report.pruned_logs, report.expired_metrics) == ({DAY: 3}, {DAY: 1})
    assert sealed(database) == {DAY: 3}
