"""Days whose logs stay, and what the run says of them."""

from datetime import UTC, datetime

import pytest

from metrics_pipeline.errors import DayRefusedError
from metrics_pipeline.metrics.catalog import AGENT_DIMENSION_DAY
from metrics_pipeline.postgres.database import Database
from metrics_pipeline.store.publishing import rows_digest
from metrics_pipeline_tests.days import DAY, Log, aggregate, assert_exact, execute, store_logs, written_rows
from metrics_pipeline_tests.examples import variants

from .runs import contents, day, held_back, logs_by_day, prune, sealed, store_days, window


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
    variants(
        [
            (
                "INSERT INTO agent_execution_logs (agent_id, timestamp, status) VALUES ('a', '2025-03-04 23:00Z', 'x')",
                "+1",
            ),
            ("DELETE FROM agent_execution_logs WHERE latency_ms = 2", "logs -1"),
            ("UPDATE agent_execution_logs SET status = 'failed' WHERE latency_ms = 2", "successful -1, failed +1"),
            ("UPDATE agent_execution_logs SET cost_usd = 0.2 WHERE latency_ms = 2", "cost +0.10 USD"),
            ("UPDATE agent_execution_logs SET agent_id = 'a' WHERE latency_ms = 0", "values corrected"),
            (
                """UPDATE agent_execution_logs SET metadata = '{"user_id": "u"}' WHERE latency_ms = 2""",
                "values corrected",
            ),
        ]
    ),
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
    assert held_back(report) == {
        DAY: (3, "in a view or a foreign table, wholly or in part: retention deletes from tables only")
    }
    assert (report.pruned_logs, report.expired_metrics) == ({}, {day(-400): 1})
    assert (logs_by_day(database), sealed(database)) == ({DAY: 3}, {day(-400): 3})


DAMAGES = {
    "DELETE FROM agent_performance_metrics": "(rows 0 of 1, executions 0 of 2)",
    "UPDATE agent_performance_metrics SET total_executions = 3": "(rows 1 of 1, executions 3 of 2)",
    "UPDATE agent_performance_metrics SET p99_latency_ms = 60000": "(values were altered)",
    f"""UPDATE metric_day_ledger SET breakdown_digest =
        (SELECT {rows_digest(AGENT_DIMENSION_DAY)} || '1' FROM agent_dimension_metrics)""": "(values were altered)",
    """INSERT INTO agent_performance_metrics SELECT (jsonb_populate_record(stored, '{"agent_id": "b"}')).*
       FROM agent_performance_metrics AS stored""": "(rows 2 of 1, executions 4 of 2)",
}


@pytest.mark.parametrize("statement", DAMAGES)
def test_a_day_whose_stored_metrics_are_not_those_of_the_ledger_keeps_its_logs(
    database: Database, statement: str
) -> None:
    """A trigger of an adopted table swallowed every row, and retention deleted the logs that they were made of."""
    store_days(database, 0)
    execute(database, statement)
    before = contents(database)
    for is_dry_run in (True, False):
        report = prune(database, is_dry_run=is_dry_run)
        assert held_back(report) == {
            DAY: (3, f"the stored metrics of this day are damaged {DAMAGES[statement]}: backfill the day")
        }
        assert contents(database) == before
