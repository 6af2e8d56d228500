"""`kill -9` of every process at every stage: the next user gets a server with the data still in it."""

import fcntl
import os
import signal
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import psutil
import psycopg
import pytest

from metrics_pipeline.embedded import acquire, keeper, release, server_pid
from metrics_pipeline.errors import PermanentError
from metrics_pipeline_tests.homes import has_ended, kill_server, the_keeper
from metrics_pipeline_tests.processes import HANGING_SECONDS, is_gone, kill, wait_until

from .holder import Holder

Hold = Callable[..., Holder]


def _write(uri: str) -> None:
    with psycopg.connect(uri) as connection:
        connection.execute("CREATE TABLE kept AS SELECT generate_series(1, 1000) AS number")


def _read(uri: str) -> int:
    with psycopg.connect(uri) as connection:
        return connection.execute("SELECT sum(number) FROM kept").fetchone()[0]


@pytest.mark.usefixtures("cluster")
def test_a_killed_server_is_started_again_by_the_next_call_with_its_data(home: Path) -> None:
    uri = acquire(home)
    _write(uri)
    killed = kill_server(home)
    assert acquire(home) == uri
    assert server_pid(home) != killed
    assert _read(uri) == 500500


@pytest.mark.usefixtures("cluster")
def test_a_backend_that_outlives_its_killed_server_does_not_keep_the_next_from_starting(home: Path) -> None:
    uri = acquire(home)
    _write(uri)
    with psycopg.connect(uri, autocommit=True) as connection:
        backend = connection.info.backend_pid

        def compute() -> None:
            with pytest.raises(psycopg.OperationalError):
                connection.execute("DO $$ BEGIN LOOP END LOOP; END $$")

        thread = threading.Thread(target=compute, daemon=True)
        thread.start()
        wait_until(lambda: psutil.Process(backend).cpu_times().user > 0.1)
        kill_server(home)
        assert not is_gone(backend)
        assert _read(acquire(home)) == 500500
        assert is_gone(backend)
        thread.join()


@pytest.mark.usefixtures("cluster")
def test_a_new_process_adopts_the_server_of_a_killed_keeper_and_it_still_ends_with_the_last(
    home: Path, hold: Hold
) -> None:
    first = hold()
    first.uri()
    server, killed = server_pid(home), the_keeper(home)
    kill(killed)
    second = hold()
    second.uri()
    assert server_pid(home) == server
    assert the_keeper(home) != killed
    first.kill()
    second.kill()
    wait_until(lambda: has_ended(home) and is_gone(server))


@pytest.mark.usefixtures("cluster")
def test_a_server_whose_keeper_was_adopted_from_is_started_again_when_killed(home: Path) -> None:
    uri = acquire(home)
    _write(uri)
    kill(the_keeper(home))
    acquire(home)
    adopted = kill_server(home)
    assert _read(acquire(home)) == 500500
    assert server_pid(home) != adopted


@pytest.mark.usefixtures("cluster")
def test_an_orphan_that_is_shutting_down_is_awaited_and_replaced(home: Path) -> None:
    uri = acquire(home)
    _write(uri)
    kill(the_keeper(home))
    orphan = server_pid(home)
    with psycopg.connect(uri):
        os.kill(orphan, signal.SIGTERM)  # smart shutdown: waits for this connection
        wait_until(lambda: keeper.recorded(home / "embedded").status == keeper.STOPPING)
        closer = threading.Timer(0.3, os.kill, (orphan, signal.SIGINT))
        closer.start()
        assert acquire(home) == uri
        closer.join()
    assert server_pid(home) != orphan
    assert _read(uri) == 500500


@pytest.mark.usefixtures("cluster")
def test_a_killed_servers_process_id_that_another_process_has_now_is_no_obstacle(home: Path) -> None:
    uri = acquire(home)
    _write(uri)
    data = home / "embedded/data"
    kill(the_keeper(home))
    killed = server_pid(home)
    kill(killed)
    # The same user's, or PostgreSQL would see by itself that it cannot be a server.
    user = {"user": data.stat().st_uid} if os.geteuid() == 0 else {}
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, **user) as other:
        for path in keeper.stale_files(home / "embedded"):
            path.write_text(path.read_text().replace(f"{killed}\n", f"{other.pid}\n", 1))
        assert _read(acquire(home)) == 500500
        assert not is_gone(other.pid)


def _initdb(fresh: Path) -> int | None:
    pids = [p.pid for p in psutil.process_iter(["cmdline"]) if f"--pgdata={fresh}" in (p.info["cmdline"] or ())]
    return min(pids, default=None)


def test_a_killed_keepers_initdb_keeps_others_from_its_folder_until_it_has_ended(home: Path, hold: Hold) -> None:
    starter = hold()
    fresh = home / "embedded/data.new"
    wait_until(lambda: _initdb(fresh) is not None)
    initdb = psutil.Process(_initdb(fresh))
    initdb.suspend()
    try:
        kill(initdb.ppid())
        starter.process.wait(timeout=HANGING_SECONDS)
        with (home / "embedded/keeper.lock").open("r+b") as lock, pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        initdb.resume()
    acquire(home)


@pytest.mark.parametrize("victim", ["keeper", "initdb", "starter", "all"])
def test_a_kill_in_the_middle_of_initdb_leaves_nothing_half_made(home: Path, hold: Hold, victim: str) -> None:
    starter = hold()
    fresh = home / "embedded/data.new"
    wait_until(lambda: _initdb(fresh) is not None)
    initdb = _initdb(fresh)
    processes = {"keeper": psutil.Process(initdb).ppid(), "initdb": initdb, "starter": starter.process.pid}
    wait_until((fresh / "PG_VERSION").exists)
    # Stopped, so that the kill finds them in this state, however busy the machine is.
    for pid in processes.values():
        os.kill(pid, signal.SIGSTOP)
    assert not (home / "embedded/data").exists()
    for name, pid in processes.items():
        os.kill(pid, signal.SIGKILL if victim in (name, "all") else signal.SIGCONT)
    _write(acquire(home))
    assert not fresh.exists()
    assert _read(acquire(home)) == 500500
    starter.kill()


@pytest.mark.usefixtures("cluster")
def test_a_keeper_that_is_told_to_end_takes_its_server_along(home: Path) -> None:
    uri = acquire(home)
    _write(uri)
    os.kill(the_keeper(home), signal.SIGTERM)
    wait_until(lambda: has_ended(home))
    assert _read(acquire(home)) == 500500


def test_the_server_ends_although_its_starter_was_killed_before_it_was_ready(home: Path, hold: Hold) -> None:
    starter = hold()
    wait_until((home / "embedded/data.new").exists)
    starter.kill()
    wait_until((home / "embedded/data").exists)
    wait_until(lambda: has_ended(home))
    assert "Traceback" not in keeper.log_file(home / "embedded").read_text()


def test_a_full_disk_is_named_and_the_next_start_works_when_there_is_space(home: Path) -> None:
    home.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(home)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("only root may mount a small disk")
    try:
        with pytest.raises(PermanentError, match=r"(?s)initdb.*No space left on device.*Free space on that disk"):
            acquire(home)
        subprocess.run(["mount", "-o", "remount,size=1g", str(home)], check=True)
        _write(acquire(home))
        release(home)
        wait_until(lambda: has_ended(home))
    finally:
        # Busy until the kernel has closed the last file of the keeper that just ended.
        wait_until(lambda: subprocess.run(["umount", str(home)], capture_output=True, check=False).returncode == 0)
