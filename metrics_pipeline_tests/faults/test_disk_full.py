"""A server whose disk is full: the tablespace of the database lies on a small file system that somebody has filled.

The server's write-ahead log is on another disk, as in many installations: a server whose log has no space stops, which
test_server_stopped.py covers. Mounting a file system needs root; other users skip these scenarios.
"""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from metrics_pipeline.embedded import acquire
from metrics_pipeline.log_files.sample_logs import store_sample
from metrics_pipeline.metrics.windows import day_window
from metrics_pipeline.postgres.database import Database
from metrics_pipeline.sample.agents import SampleSpec
from metrics_pipeline_tests.days import aggregate, query
from metrics_pipeline_tests.processes import HANGING_SECONDS

from .days import BACKFILL, CORRECTED, DAYS, assert_healed, correct, heal
from .judge import (
    assert_exact_or_not_done,
    assert_no_run_looks_alive,
    assert_nothing_left_behind,
    assert_operator_is_told,
)
from .private_server import private_database
from .stage import Ended, Play, Stage
from .test_all_or_nothing import load, loaded, state_of_logs
from .test_pruning import LOGS, METRICS, RETENTION, assert_accounted, finish, store_old_days

_DISK_MB = 64
_REMEDY = "Free connections, memory or disk space there"


class SmallDisk:
    """A file system that is mounted on a folder of the server's."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._filler = folder / "filler"

    def move(self, url: str) -> None:
        """Moves the empty database of the URL there."""
        name = sql.Identifier(str(conninfo_to_dict(url)["dbname"]))
        with psycopg.connect(url, dbname="postgres", autocommit=True) as connection:
            connection.execute(sql.SQL("ALTER DATABASE {} SET TABLESPACE small").format(name))

    def fill(self, left_bytes: int) -> None:
        state = os.statvfs(self._folder)
        with self._filler.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, state.f_bavail * state.f_frsize - left_bytes)

    def free(self) -> None:
        self._filler.unlink()


@pytest.fixture(scope="module")
def small_disk(private_home: Path) -> Iterator[SmallDisk]:
    folder = private_home.parent / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={_DISK_MB}m", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(mount, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("a small file system cannot be mounted: there is no program mount")
    if mounted.returncode:
        pytest.skip(f"a small file system cannot be mounted: {mounted.stderr.strip()}")
    try:
        place = folder / "tablespace"
        place.mkdir()
        owner = (private_home / "embedded" / "data").stat()
        os.chown(place, owner.st_uid, owner.st_gid)
        with psycopg.connect(acquire(private_home), autocommit=True) as connection:
            connection.execute(sql.SQL("CREATE TABLESPACE small LOCATION {}").format(sql.Literal(str(place))))
            yield SmallDisk(folder)
            connection.execute("DROP TABLESPACE small")
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def _run(stage: Stage, url: str, *command: object) -> Ended:
    process = stage.start(url, *command)
    stdout, stderr = process.communicate(timeout=HANGING_SECONDS)
    print(f"exit code {process.returncode}\n{stdout}{stderr}")
    assert process.returncode is not None
    return Ended(process.returncode, stdout, stderr, [])


def _store_many_agents(database: Database) -> None:
    """So many that their rows need more pages than the tables have."""
    spec = SampleSpec(seed=31, agents=400, logs_per_day=1200)
    store_sample(database, spec, DAYS, "UTC", lambda *_: None)
    aggregate(database, day_window(CORRECTED, "UTC"), run_id="long ago")
    correct(database, CORRECTED)


@pytest.mark.half_the_seeds
def test_a_backfill_on_a_full_disk_publishes_whole_days_or_none_and_heals(
    stage: Stage, private_home: Path, small_disk: SmallDisk
) -> None:
    play = Play(BACKFILL, _store_many_agents)
    with private_database(private_home, play, small_disk.move) as (url, database):
        small_disk.fill(stage.random.randrange(0, 200_000))
        try:
            ended = _run(stage, url, *play.command)
        finally:
            small_disk.free()
        assert ended.exit_code == 1
        assert_operator_is_told(ended, _REMEDY)
        assert "No space left on device" in ended.stderr
        assert_exact_or_not_done(database, DAYS, before=[CORRECTED])
        assert_nothing_left_behind(database)
        assert_no_run_looks_alive(stage.instance)
        heal(stage, database, url)
        assert_healed(stage, database)


@pytest.mark.half_the_seeds
def test_a_file_of_logs_is_loaded_as_a_whole_or_not_at_all_on_a_full_disk(
    stage: Stage, tmp_path: Path, private_home: Path, small_disk: SmallDisk
) -> None:
    play = load(tmp_path)
    with private_database(private_home, play, small_disk.move) as (url, database):
        before = state_of_logs(database)
        small_disk.fill(stage.random.randrange(0, 300_000))
        try:
            ended = _run(stage, url, *play.command)
        finally:
            small_disk.free()
        assert ended.exit_code == 1
        assert_operator_is_told(ended, _REMEDY)
        assert "No space left on device" in ended.stderr
        assert_nothing_left_behind(database)
        assert state_of_logs(database) == before
        assert _run(stage, url, *play.command).exit_code == 0
        assert state_of_logs(database) == loaded()


@pytest.mark.half_the_seeds
def test_retention_on_a_full_disk_deletes_no_log_that_is_not_in_the_metrics(
    stage: Stage, private_home: Path, small_disk: SmallDisk
) -> None:
    play = Play(RETENTION, store_old_days)
    with private_database(private_home, play, small_disk.move) as (url, database):
        metrics, logs = query(database, METRICS), dict(query(database, LOGS))
        small_disk.fill(stage.random.randrange(0, 16_384))
        try:
            ended = _run(stage, url, *play.command)
        finally:
            small_disk.free()
        # Deleting takes little space, so some of the seeds have enough of it.
        assert_operator_is_told(ended, _REMEDY)
        assert_accounted(database, metrics, logs)
        assert_nothing_left_behind(database)
        assert_no_run_looks_alive(stage.instance)
        finish(stage, database, url, metrics, logs)
