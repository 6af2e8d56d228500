"""Retention that is killed, or whose server is stopped: no log goes that is not in the metrics, whatever arrives."""

import signal
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from metrics_pipeline.log_files.sample_logs import store_sample
from metrics_pipeline.metrics.windows import day_window, days_between, last_complete_day
from metrics_pipeline.postgres.database import Database
from metrics_pipeline.sample.agents import SampleSpec
from metrics_pipeline_tests.days import Log, aggregate, assert_exact, query, store_logs
from metrics_pipeline_tests.processes import HANGING_SECONDS

from .judge import (
    SERVER_IS_AWAY,
    assert_no_run_looks_alive,
    assert_nothing_half_published,
    assert_nothing_left_behind,
    assert_operator_is_told,
)
from .private_server import private_database, stopped
from .stage import Play, Stage

_YESTERDAY = last_complete_day(datetime.now(UTC), "UTC")
_OLD = days_between(_YESTERDAY - timedelta(days=43), _YESTERDAY - timedelta(days=40))
#: Two days that may go, one that was never aggregated, and one whose logs have changed since.
_FINE, _ALSO_FINE, _MISSING, _DIRTY = _OLD
_RECENT = _YESTERDAY - timedelta(days=3)
RETENTION = ("retention", "--batch-rows", 40, "--pause-ms", 0)

METRICS = "SELECT * FROM agent_performance_metrics ORDER BY metric_date, agent_id"
LOGS = """SELECT "timestamp"::date, count(*) FROM agent_execution_logs GROUP BY 1"""
_ACCOUNTS = """
SELECT ledger.metric_date, source_logs - coalesce(raw_pruned_logs, 0) - count(logs.id)
  FROM metric_day_ledger AS ledger
  LEFT JOIN agent_execution_logs AS logs
    ON "timestamp" >= window_start AND "timestamp" < window_end AND logs.status <> 'late'
 GROUP BY ledger.metric_date"""


def store_old_days(database: Database) -> None:
    spec = SampleSpec(seed=23, agents=9, logs_per_day=150)
    store_sample(database, spec, [*_OLD, _RECENT], "UTC", lambda *_: None)
    for day in (_FINE, _ALSO_FINE, _DIRTY, _RECENT):
        aggregate(database, day_window(day, "UTC"))
    _arrive_late(database, _DIRTY)


def _arrive_late(database: Database, *days: object) -> None:
    store_logs(database, [Log("a", "late", timestamp=day_window(day, "UTC").start) for day in days])


def test_retention_that_is_killed_anywhere_deletes_no_log_that_is_not_in_the_metrics(stage: Stage) -> None:
    play = Play(RETENTION, store_old_days)
    url, database = stage.prepared(play)
    metrics, logs = query(database, METRICS), dict(query(database, LOGS))
    ended = stage.killed(play, url)
    assert ended.exit_code == -signal.SIGKILL
    assert_accounted(database, metrics, logs)
    assert_nothing_left_behind(database)
    assert_no_run_looks_alive(stage.instance)
    finish(stage, database, url, metrics, logs)


@pytest.mark.half_the_seeds
def test_retention_whose_server_is_stopped_anywhere_deletes_no_log_that_is_not_in_the_metrics(
    stage: Stage, private_home: Path
) -> None:
    play = Play(RETENTION, store_old_days)
    with private_database(private_home, play) as (url, database):
        metrics, logs = query(database, METRICS), dict(query(database, LOGS))
        ended = stopped(stage, play, private_home, url)
        assert_operator_is_told(ended, *SERVER_IS_AWAY)
        assert_accounted(database, metrics, logs)
        assert_nothing_left_behind(database)
        assert_no_run_looks_alive(stage.instance)
        finish(stage, database, url, metrics, logs)


def finish(
    stage: Stage, database: Database, url: str, metrics: list[tuple[object, ...]], logs: dict[object, int]
) -> None:
    """The next run of retention, before which logs arrive for the days that go."""
    # Whether the day is sealed by now decides what becomes of these; in any case they stay.
    _arrive_late(database, _FINE, _ALSO_FINE)
    sealed = {day for (day,) in query(database, "SELECT metric_date FROM metric_day_ledger WHERE raw_pruned_logs > 0")}
    again = stage.start(url, *RETENTION)
    stdout, stderr = again.communicate(timeout=HANGING_SECONDS)
    assert (again.returncode, stderr) == (0, ""), stdout
    assert_accounted(database, metrics, logs)
    left = dict(query(database, LOGS))
    for day in (_FINE, _ALSO_FINE):
        assert left[day] in ((1,) if day in sealed else (1, logs[day] + 1))
        assert f"{day}" in stdout
    assert_nothing_left_behind(database)


def assert_accounted(database: Database, metrics: list[tuple[object, ...]], logs: dict[object, int]) -> None:
    """Of each day, every log is there or is counted as pruned, and nothing of the others has gone."""
    assert query(database, METRICS) == metrics
    assert_nothing_half_published(database)
    assert {day: missing for day, missing in query(database, _ACCOUNTS) if missing} == {}
    present = dict(query(database, LOGS))
    assert {day: present[day] for day in (_MISSING, _DIRTY, _RECENT)} == {
        day: logs[day] for day in (_MISSING, _DIRTY, _RECENT)
    }
    assert_exact(database, day_window(_RECENT, "UTC"))
