"""Locks and time limits of the server under `logs load` and retention: they wait or end, with nothing half done."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
from psycopg import sql

from metrics_pipeline_tests.days import query

from .judge import assert_no_run_looks_alive, assert_nothing_left_behind, assert_operator_is_told
from .proxy import Proxy
from .stage import Ended, Play, Stage
from .test_all_or_nothing import load, loaded, state_of_logs
from .test_pruning import LOGS, METRICS, RETENTION, assert_accounted, finish, store_old_days

_BUSY = ("Trying again may help", "SET statement_timeout = 0")
#: The test's own sessions have no limit.
_PATIENT = "-c statement_timeout=0 -c lock_timeout=0"


@contextmanager
def _limited(stage: Stage, url: str, tables: list[str]) -> Iterator[None]:
    """A time limit in the database, and a session that locks one of the tables again and again."""
    name = sql.Identifier(str(psycopg.conninfo.conninfo_to_dict(url)["dbname"]))
    setting = sql.Identifier(stage.random.choice(["lock_timeout", "statement_timeout"]))
    limit_ms = sql.Literal(stage.random.choice([5, 20, 100]))
    table = sql.Identifier(stage.random.choice(tables))
    holds = [(stage.random.uniform(0.02, 0.3), stage.random.uniform(0, 0.2)) for _ in range(40)]
    ends = threading.Event()

    def disturb() -> None:
        for held_seconds, free_seconds in holds:
            with psycopg.connect(url, options=_PATIENT) as connection:
                connection.execute(sql.SQL("LOCK TABLE {}").format(table))
                time.sleep(held_seconds)
            if ends.wait(free_seconds):
                return

    with psycopg.connect(url, autocommit=True, options=_PATIENT) as connection:
        connection.execute(sql.SQL("ALTER DATABASE {} SET {} = {}").format(name, setting, limit_ms))
    disturber = threading.Thread(target=disturb)
    disturber.start()
    try:
        yield
    finally:
        ends.set()
        disturber.join()
        with psycopg.connect(url, autocommit=True, options=_PATIENT) as connection:
            connection.execute(sql.SQL("ALTER DATABASE {} RESET {}").format(name, setting))


def _run(stage: Stage, url: str, *command: object) -> Ended:
    with Proxy(url) as proxy:
        proxy.serve()
        return stage.run(proxy, *command)


def test_a_file_of_logs_is_loaded_as_a_whole_or_not_at_all_under_locks_and_time_limits(
    stage: Stage, tmp_path: Path
) -> None:
    play = load(tmp_path)
    url, database = stage.prepared(play)
    before = state_of_logs(database)
    with _limited(stage, url, ["agent_execution_logs", "agent_registry"]):
        ended = _run(stage, url, *play.command)
    assert_operator_is_told(ended, *_BUSY)
    assert_nothing_left_behind(database)
    assert state_of_logs(database) == (before if ended.exit_code else loaded())
    assert _run(stage, url, *play.command, "--skip-existing").exit_code == 0
    assert state_of_logs(database) == loaded()


def test_retention_under_locks_and_time_limits_deletes_no_log_that_is_not_in_the_metrics(stage: Stage) -> None:
    play = Play(RETENTION, store_old_days)
    url, database = stage.prepared(play)
    metrics, logs = query(database, METRICS), dict(query(database, LOGS))
    with _limited(stage, url, ["agent_execution_logs", "metric_day_ledger", "agent_performance_metrics"]):
        ended = _run(stage, url, *play.command)
    assert_operator_is_told(ended, *_BUSY)
    assert_accounted(database, metrics, logs)
    assert_nothing_left_behind(database)
    assert_no_run_looks_alive(stage.instance)
    finish(stage, database, url, metrics, logs)
