"""The parallel readers of a large day: one is ended by the server's administrator, or their process is killed."""

import os
import signal
import time
from datetime import date
from random import Random

import psycopg

from metrics_pipeline.metrics.windows import day_window
from metrics_pipeline.postgres.database import Database
from metrics_pipeline_tests.days import assert_exact, execute, query
from metrics_pipeline_tests.processes import HANGING_SECONDS

from .judge import (
    assert_exact_or_not_done,
    assert_no_run_looks_alive,
    assert_nothing_half_published,
    assert_nothing_left_behind,
    assert_operator_is_told,
)
from .stage import Ended, Play, Stage

_DAY = date(2025, 7, 11)
_AGGREGATE = ("aggregate", "--date", _DAY)
#: Above the estimate from which a day is read in slices by several connections.
_LOGS = 150_000
_STORE_LOGS = f"""
INSERT INTO agent_execution_logs (agent_id, "timestamp", status, latency_ms, token_count, cost_usd)
SELECT 'agent ' || n % 50, timestamptz '{_DAY} 00:00+00' + n * interval '0.5 s',
       CASE WHEN n % 7 = 0 THEN 'failed' ELSE 'success' END, n % 4001, n % 997, n * 0.000000001
  FROM generate_series(0, {_LOGS - 1}) AS n"""
_STORE_AGENTS = """
INSERT INTO agent_registry (id, name, status) SELECT 'agent ' || n, 'name', 'active' FROM generate_series(0, 49) AS n"""
# The server shows the first kilobyte of a statement, and nobody but a reader adds up costs there.
_READERS = """
SELECT pid FROM pg_stat_activity
 WHERE datname = current_database() AND pid <> pg_backend_pid() AND state = 'active'
   AND query LIKE '%trim_scale(cost_usd)%'
 ORDER BY pid"""


def _store_large_day(database: Database) -> None:
    execute(database, _STORE_AGENTS, _STORE_LOGS, "ANALYZE agent_execution_logs")


def _reader(url: str, random: Random, of: int) -> int:
    """The session of a reader, once there are so many."""
    deadline = time.monotonic() + HANGING_SECONDS
    with psycopg.connect(url, autocommit=True) as connection:
        while time.monotonic() < deadline:
            readers = [pid for (pid,) in connection.execute(_READERS)]
            if len(readers) >= of:
                return random.choice(readers)
            time.sleep(0.002)
    raise AssertionError("no reader came")


def test_a_large_day_is_whole_or_not_stored_when_a_reader_is_ended_or_its_process_killed(
    stage: Stage, seed: int
) -> None:
    url, database = stage.prepared(Play(_AGGREGATE, _store_large_day))
    readers = min(2, os.cpu_count() or 1)
    process = stage.start(url, *_AGGREGATE)
    reader = _reader(url, stage.random, readers)
    time.sleep(stage.random.uniform(0, 0.05))
    is_killed = seed % 2 == 1
    if is_killed:
        process.kill()
    else:
        ((is_ended,),) = query(database, f"SELECT pg_terminate_backend({reader})")
        print("a reader was ended:", is_ended)
    stdout, stderr = process.communicate(timeout=HANGING_SECONDS)
    assert process.returncode is not None
    ended = Ended(process.returncode, stdout, stderr, [])
    assert_exact_or_not_done(database, [_DAY])
    assert_nothing_left_behind(database)
    assert_no_run_looks_alive(stage.instance)
    if is_killed:
        assert ended.exit_code == -signal.SIGKILL
        again = stage.start(url, *_AGGREGATE)
        stdout, stderr = again.communicate(timeout=HANGING_SECONDS)
        assert (again.returncode, stderr) == (0, ""), stdout
    else:
        # The step is tried again by itself.
        assert_operator_is_told(ended)
        assert ended.exit_code == 0
    assert_nothing_half_published(database)
    assert_exact(database, day_window(_DAY, "UTC"))
