"""Rows as the last version before fingerprints had a version stored them: no day looks dirty, and none is held back.

The file has six days of three agents in scope: 1 March pruned, 2 March pruned in part, 3 to 5 March stored, the fourth
with irregular costs and a restatement, and 6 March without logs.
"""

import json
from datetime import date
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import text

from metrics_pipeline.metrics.reconciliation import DayState
from metrics_pipeline.metrics.retention import Cutoffs
from metrics_pipeline.metrics.windows import day_window, days_between
from metrics_pipeline.pipeline.opening import open_logs, require_ready
from metrics_pipeline.pipeline.reconciling import finished_days
from metrics_pipeline.postgres.database import Database
from metrics_pipeline.postgres.upgrading import Upgrade, create_upstream_tables, head_revision, upgrade
from metrics_pipeline.postgres.urls import DatabaseUrl
from metrics_pipeline.retention.pace import Pace
from metrics_pipeline.retention.report import RetentionReport
from metrics_pipeline.retention.run import apply_retention
from metrics_pipeline_tests.days import aggregate, assert_exact, execute, judged, query, written_rows

ROWS = Path(__file__).with_name("stored_before_fingerprints_had_versions.json")
DAYS = days_between(date(2025, 3, 1), date(2025, 3, 6))
UNSEALED = DAYS[2:]
PRUNED_IN_PART = """
SELECT metric_date, source_fingerprint::jsonb->'pruned'->>'logs' FROM metric_day_ledger
WHERE source_fingerprint::jsonb ? 'pruned'"""


@pytest.fixture
def stored(bare_database_url: str) -> Database:
    """The old rows in tables of their revision, which are then upgraded."""
    database = Database(DatabaseUrl.parse(bare_database_url))
    create_upstream_tables(database)
    config = Config()
    config.set_main_option("script_location", "metrics_pipeline.postgres:migrations")
    with database.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0002")
        for table, rows in json.loads(ROWS.read_text()).items():
            statement = f"INSERT INTO {table} SELECT * FROM json_populate_recordset(NULL::{table}, CAST(:rows AS json))"
            connection.execute(text(statement), {"rows": json.dumps(rows)})
    assert upgrade(database) == Upgrade("0002", head_revision())
    return database


def states(database: Database) -> dict[date, DayState]:
    verdicts = judged(database, *DAYS)
    assert not any(verdict.is_outdated for verdict in verdicts)
    return {verdict.metric_date: verdict.state for verdict in verdicts}


def prune(database: Database, raw_logs_before: date) -> RetentionReport:
    cutoffs = Cutoffs("UTC", date(2025, 4, 9), raw_logs_before, date(2024, 1, 1), date(2024, 1, 1))
    return apply_retention(
        database,
        require_ready(database),
        cutoffs,
        Pace(pause_ms=0),
        run_id="retention",
        is_dry_run=False,
        on_progress=lambda _: None,
    )


def test_no_day_is_dirty_and_none_needs_a_run(stored: Database) -> None:
    sealed, aggregated = DayState.SEALED, DayState.AGGREGATED
    assert list(states(stored).values()) == [sealed, sealed, aggregated, aggregated, aggregated, DayState.NO_ACTIVITY]
    with stored.snapshot() as snapshot:
        windows = [day_window(day, "UTC") for day in DAYS]
        assert finished_days(snapshot, open_logs(stored), windows) == set(DAYS)


def test_a_change_is_still_noticed(stored: Database) -> None:
    execute(stored, "UPDATE agent_execution_logs SET latency_ms = latency_ms + 1 WHERE latency_ms = 302")
    execute(stored, "UPDATE agent_execution_logs SET status = 'queued' WHERE status = 'timeout' AND latency_ms = 403")
    found = states(stored)
    assert [day for day, state in found.items() if state is DayState.DIRTY] == DAYS[2:4]


def test_aggregating_again_changes_no_metric_and_gives_the_fingerprint_a_version(stored: Database) -> None:
    before = written_rows(stored, "agent_performance_metrics", "metric_restatements")
    for day in UNSEALED:
        aggregate(stored, day_window(day, "UTC"))
        assert_exact(stored, day_window(day, "UTC"))
    assert written_rows(stored, "agent_performance_metrics", "metric_restatements") == before
    versions = "SELECT source_fingerprint::json->>'version' FROM metric_day_ledger ORDER BY metric_date"
    assert [version for (version,) in query(stored, versions)] == [None, None, "1", "1", "1", "1"]
    assert DayState.DIRTY not in states(stored).values()


def test_retention_finishes_the_day_that_was_pruned_in_part_and_holds_no_day_back(stored: Database) -> None:
    report = prune(stored, date(2025, 3, 6))
    assert report.held_back == []
    assert report.pruned_logs == {DAYS[1]: 3, DAYS[2]: 7, DAYS[3]: 10, DAYS[4]: 8}
    assert query(stored, "SELECT count(*) FROM agent_execution_logs") == [(0,)]
    assert query(stored, PRUNED_IN_PART) == []
    pruned = query(stored, "SELECT metric_date, raw_pruned_logs FROM metric_day_ledger ORDER BY 1")
    assert pruned == list(zip(DAYS, [7, 7, 7, 10, 8, None], strict=True))


def test_the_upgrade_keeps_what_was_pruned_of_the_day_that_was_pruned_in_part_and_drops_the_table(
    stored: Database,
) -> None:
    # Of 1 March nothing was left to prune.
    assert query(stored, PRUNED_IN_PART) == [(DAYS[1], "4")]
    assert query(stored, "SELECT to_regclass('metric_day_pruning')") == [(None,)]
    execute(stored, "DELETE FROM agent_execution_logs WHERE latency_ms = 401")
    [held_back] = prune(stored, DAYS[2]).held_back
    assert (held_back.metric_date, held_back.logs) == (DAYS[1], 2)
    assert "logs -1" in held_back.reason
    assert query(stored, PRUNED_IN_PART) == [(DAYS[1], "4")]


def test_rows_with_fields_that_a_newer_version_added_are_read(stored: Database) -> None:
    execute(
        stored,
        """UPDATE metric_day_ledger SET source_fingerprint =
           (source_fingerprint::jsonb || '{"version": 1, "cache_hits": 3, "parts": ["x"], "note": null}')::text""",
    )
    assert DayState.DIRTY not in states(stored).values()
    report = prune(stored, date(2025, 3, 6))
    assert report.held_back == []
