"""Commands of one transaction, `logs load` and `db upgrade`: killed, cut or without a server they do all or nothing."""

import signal
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
from sqlalchemy import text

from metrics_pipeline.postgres.database import Database
from metrics_pipeline.postgres.upgrading import create_upstream_tables, current_revision, head_revision, require_current
from metrics_pipeline_tests.days import execute, query
from metrics_pipeline_tests.processes import HANGING_SECONDS

from .judge import SERVER_IS_AWAY, assert_nothing_left_behind, assert_operator_is_told
from .private_server import private_database, stopped
from .stage import Ended, Play, Stage, nothing

_LOGS = 2000
_START = datetime(2025, 7, 11, tzinfo=UTC)
_ADOPTED = """
CREATE TABLE agent_performance_metrics (agent_id uuid, metric_date date, total_executions integer,
    success_rate double precision, total_cost_usd numeric, PRIMARY KEY (agent_id, metric_date))"""
_CATALOG = """
SELECT relname, attname, format_type(atttypid, atttypmod), attnotnull
  FROM pg_class JOIN pg_attribute ON attrelid = pg_class.oid
 WHERE relnamespace = 'public'::regnamespace AND attnum > 0 AND NOT attisdropped ORDER BY 1, 2"""


def _kill(stage: Stage, play: Play, url: str) -> Ended:
    ended = stage.killed(play, url)
    assert ended.exit_code == -signal.SIGKILL
    return ended


def _cut(stage: Stage, play: Play, url: str) -> Ended:
    ended = stage.struck(play, url, lambda _: nothing)
    assert_operator_is_told(ended, "Check that the server runs and is reachable from here")
    return ended


_FAULTS: list[Callable[[Stage, Play, str], Ended]] = [_kill, _cut]


def _stop_server(home: Path) -> Callable[[Stage, Play, str], Ended]:
    def stop(stage: Stage, play: Play, url: str) -> Ended:
        ended = stopped(stage, play, home, url)
        assert_operator_is_told(ended, *SERVER_IS_AWAY)
        return ended

    return stop


def _file_of_logs(folder: Path) -> Path:
    path = folder / "logs.ndjson"
    numbers = range(_LOGS)
    pl.DataFrame(
        {
            "agent_id": [f"agent {number % 7}" for number in numbers],
            "timestamp": [(_START + timedelta(seconds=number)).isoformat() for number in numbers],
            "status": ["failed" if number % 5 == 0 else "success" for number in numbers],
            "latency_ms": list(numbers),
            "cost_usd": [f"0.{number:09}" for number in numbers],
        }
    ).write_ndjson(path)
    return path


def state_of_logs(database: Database) -> list[tuple[Any, ...]]:
    logs = "SELECT count(*), count(DISTINCT latency_ms), sum(cost_usd), max(agent_id) FROM agent_execution_logs"
    return [*query(database, logs), *query(database, "SELECT count(*) FROM agent_registry")]


def loaded() -> list[tuple[Any, ...]]:
    """The state of the logs when the whole file is loaded, once."""
    return [(_LOGS, _LOGS, Decimal(sum(range(_LOGS))).scaleb(-9), "agent 6"), (7,)]


def load(folder: Path) -> Play:
    return Play(("logs", "load", _file_of_logs(folder), "--register-agents"), lambda _: None)


def test_a_file_of_logs_is_loaded_as_a_whole_or_not_at_all(stage: Stage, seed: int, tmp_path: Path) -> None:
    play = load(tmp_path)
    url, database = stage.prepared(play)
    _load_all_or_nothing(stage, play, url, database, _FAULTS[seed % 2])


def test_a_file_of_logs_is_loaded_as_a_whole_or_not_at_all_when_the_server_is_stopped(
    stage: Stage, tmp_path: Path, private_home: Path
) -> None:
    play = load(tmp_path)
    with private_database(private_home, play) as (url, database):
        _load_all_or_nothing(stage, play, url, database, _stop_server(private_home))


def _load_all_or_nothing(
    stage: Stage, play: Play, url: str, database: Database, fault: Callable[[Stage, Play, str], Ended]
) -> None:
    nothing_yet = state_of_logs(database)
    fault(stage, play, url)
    assert_nothing_left_behind(database)
    after = state_of_logs(database)

    again = stage.start(url, *play.command, "--skip-existing")
    stdout, stderr = again.communicate(timeout=HANGING_SECONDS)
    assert (again.returncode, stderr) == (0, ""), stdout
    # The logs have no ids, so who loads them a second time after a lost commit would double them.
    assert state_of_logs(database) == loaded()
    assert after in (nothing_yet, state_of_logs(database))


def _store_what_is_adopted(database: Database) -> None:
    create_upstream_tables(database)
    execute(
        database,
        _ADOPTED,
        "INSERT INTO agent_performance_metrics SELECT gen_random_uuid(), '2025-06-01', n, 0.5, n "
        "FROM generate_series(1, 50) n",
    )


_UPGRADE = Play(("db", "upgrade"), _store_what_is_adopted, template="template0")


def test_an_upgrade_is_done_as_a_whole_or_not_at_all(stage: Stage, seed: int) -> None:
    url, database = stage.prepared(_UPGRADE)
    _upgrade_all_or_nothing(stage, url, database, _FAULTS[seed % 2])


def test_an_upgrade_is_done_as_a_whole_or_not_at_all_when_the_server_is_stopped(
    stage: Stage, private_home: Path
) -> None:
    with private_database(private_home, _UPGRADE) as (url, database):
        _upgrade_all_or_nothing(stage, url, database, _stop_server(private_home))


def _upgrade_all_or_nothing(
    stage: Stage, url: str, database: Database, fault: Callable[[Stage, Play, str], Ended]
) -> None:
    rows = "SELECT agent_id::text, total_executions, total_cost_usd FROM agent_performance_metrics ORDER BY 1"
    adopted, before = query(database, rows), query(database, _CATALOG)
    fault(stage, _UPGRADE, url)
    assert_nothing_left_behind(database)
    with database.engine.connect() as connection:
        revision = current_revision(connection)
    assert revision in (None, head_revision())
    assert (query(database, _CATALOG) == before) is (revision is None)

    again = stage.start(url, *_UPGRADE.command)
    stdout, stderr = again.communicate(timeout=HANGING_SECONDS)
    assert again.returncode == 0, stdout + stderr
    with database.engine.connect() as connection:
        require_current(connection)
        assert connection.execute(text("SELECT count(*) FROM metric_day_ledger")).scalar_one() == 0
    assert query(database, rows) == adopted
