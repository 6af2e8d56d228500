"""One server for all processes: it starts for the first one, and stops after the last one, even a killed one."""

import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import psycopg
import psycopg2
import pytest
import sqlalchemy

from metrics_pipeline.embedded import acquire, keeper, release, server_pid
from metrics_pipeline_tests.examples import variants
from metrics_pipeline_tests.homes import copy_cluster, has_ended, the_keeper
from metrics_pipeline_tests.processes import HANGING_SECONDS, is_gone, wait_until

from .holder import Holder

Hold = Callable[..., Holder]


@pytest.mark.usefixtures("cluster")
def test_two_processes_share_one_server_that_ends_after_the_second(home: Path, hold: Hold) -> None:
    first, second = hold(), hold()
    assert first.uri() == second.uri()
    server, its_keeper = server_pid(home), the_keeper(home)
    first.end()
    with psycopg.connect(acquire(home)) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
    second.end()
    assert server_pid(home) == server
    release(home)
    wait_until(lambda: has_ended(home))
    wait_until(lambda: is_gone(server) and is_gone(its_keeper))
    assert not (home / "embedded/data/postmaster.pid").exists()


@pytest.mark.usefixtures("cluster")
def test_the_server_ends_after_its_last_user_was_killed(home: Path, hold: Hold) -> None:
    holder = hold()
    holder.uri()
    server, its_keeper = server_pid(home), the_keeper(home)
    holder.kill()
    wait_until(lambda: has_ended(home))
    wait_until(lambda: is_gone(server) and is_gone(its_keeper))
    assert not (home / "embedded/data/postmaster.pid").exists()


def test_ten_processes_that_start_at_once_get_one_server(home: Path, hold: Hold) -> None:
    holders = [hold() for _ in range(10)]
    assert len({holder.uri() for holder in holders}) == 1
    assert [child.pid for child in psutil.Process(the_keeper(home)).children()] == [server_pid(home)]


@pytest.mark.usefixtures("cluster")
def test_the_next_process_gets_a_server_while_the_last_one_is_stopping(home: Path, hold: Hold) -> None:
    for _ in range(5):
        holder = hold()
        holder.uri()
        holder.end()


@pytest.mark.usefixtures("cluster")
def test_a_process_keeps_one_lease_however_often_it_asks(home: Path) -> None:
    assert acquire(home) == acquire(home)
    release(home)
    wait_until(lambda: has_ended(home))
    release(home)


@pytest.mark.usefixtures("cluster")
def test_a_home_behind_a_link_is_the_same_home(home: Path) -> None:
    acquire(home)
    link = home.with_name("link")
    link.symlink_to(home)
    assert server_pid(link) == server_pid(home)
    assert acquire(link) == acquire(home)


_FORK = """
import os, sys, psycopg
from pathlib import Path
from metrics_pipeline.embedded import acquire, release
home = Path(sys.argv[1])
uri = acquire(home)
parent = os.getpid()
if os.fork():
    os._exit(0)
sys.stdin.readline()
assert acquire(home) == uri
print(psycopg.connect(uri).execute("SELECT 1").fetchone()[0], flush=True)
sys.stdin.readline()
"""


@pytest.mark.usefixtures("cluster")
def test_a_forked_child_keeps_the_server_after_its_parent_ended(home: Path) -> None:
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", _FORK, str(home)], **pipes) as parent:
        assert parent.wait(timeout=HANGING_SECONDS) == 0
        server = server_pid(home)
        parent.stdin.write("\n")
        parent.stdin.flush()
        assert parent.stdout.readline() == "1\n"
        assert server_pid(home) == server
    wait_until(lambda: has_ended(home))


_RELEASE_IN_CHILD = """
import os, sys
from pathlib import Path
from metrics_pipeline.embedded import acquire, release
home = Path(sys.argv[1])
acquire(home)
if (child := os.fork()) == 0:
    release(home)
    os._exit(0)
os.waitpid(child, 0)
print(flush=True)
sys.stdin.read()
"""


@pytest.mark.usefixtures("cluster")
def test_a_forked_child_that_gives_its_lease_back_leaves_its_parents(home: Path) -> None:
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", _RELEASE_IN_CHILD, str(home)], **pipes) as parent:
        parent.stdout.readline()
        with pytest.raises(BlockingIOError), keeper.leases_file(home / "embedded").open("r+b") as leases:
            keeper.fcntl.flock(leases, keeper.fcntl.LOCK_EX | keeper.fcntl.LOCK_NB)


@pytest.mark.parametrize(
    "name",
    variants(["with space", "ünïcödé-日本", "quo'te\"s", "100%41&x=?#", "com,ma:colon", "$HOME`id`\\", "long" * 40]),
)
def test_every_driver_connects_whatever_the_home_is_called(home: Path, name: str) -> None:
    awkward = home / name
    copy_cluster(awkward)
    uri = acquire(awkward)
    try:
        query = "SELECT 'Ä' || lower('Ö')"
        with psycopg.connect(uri) as connection:
            assert connection.execute(query).fetchone() == ("Äö",)
        with psycopg2.connect(uri) as connection, connection.cursor() as cursor:
            cursor.execute(query)
            assert cursor.fetchone() == ("Äö",)
        connection.close()
        engine = sqlalchemy.create_engine(
            uri.replace("postgresql://", "postgresql+psycopg://"), poolclass=sqlalchemy.NullPool
        )
        with engine.connect() as connection:
            assert connection.scalar(sqlalchemy.text(query)) == "Äö"
    finally:
        release(awkward)
        wait_until(lambda: has_ended(awkward))
    assert not keeper.socket_folder(awkward / "embedded").exists()


@pytest.mark.usefixtures("cluster")
def test_the_server_takes_nothing_from_its_starters_environment(home: Path, hold: Hold) -> None:
    strange = {"PGPORT": "6000", "PGDATA": "/nonexistent", "PGDATESTYLE": "German", "SECRET": "hunter2"}
    uri = hold(env=os.environ | strange).uri()
    with psycopg.connect(uri) as connection:
        assert connection.execute("SELECT reset_val FROM pg_settings WHERE name = 'DateStyle'").fetchone() == (
            "ISO, MDY",
        )
    assert "SECRET" not in psutil.Process(server_pid(home)).environ()


def test_the_server_is_durable_private_and_orders_text_by_code_point(home: Path) -> None:
    with psycopg.connect(acquire(home)) as connection:
        settings = dict(connection.execute("SELECT name, setting FROM pg_settings").fetchall())
        letters = connection.execute(
            "SELECT array_agg(c ORDER BY c) FROM unnest(ARRAY['b', 'ä', 'B', 'a']) c"
        ).fetchone()
    expected = {
        "fsync": "on",
        "full_page_writes": "on",
        "synchronous_commit": "on",
        "data_checksums": "on",
        "listen_addresses": "",
        "server_encoding": "UTF8",
        "TimeZone": "UTC",
    }
    assert {name: settings[name] for name in expected} == expected
    assert letters == (["B", "a", "b", "ä"],)


@pytest.mark.parametrize("where", ["beside the data", "in /tmp"])
def test_every_created_file_is_its_owners_alone(home: Path, hold: Hold, where: str) -> None:
    folder = home / ("h" if where == "beside the data" else "long" * 40)
    previous = os.umask(0)
    try:
        acquire(folder)
    finally:
        os.umask(previous)
    try:
        embedded = folder / "embedded"
        sockets = keeper.socket_folder(embedded)
        assert sockets.is_relative_to(folder) == (where == "beside the data")
        paths = [folder, *folder.rglob("*"), sockets, *sockets.rglob("*")]
        # As root, the server's own user must pass through the folders above its data.
        passage = stat.S_IXOTH if os.geteuid() == 0 else 0
        open_to_others = {
            path: oct(mode)
            for path in paths
            if (mode := stat.S_IMODE(path.lstat().st_mode)) & 0o077 & ~(passage if path in (folder, embedded) else 0)
        }
        assert len(paths) > 900
        assert open_to_others == {}
    finally:
        release(folder)
        wait_until(lambda: has_ended(folder))


def _runs(python: str, user: dict[str, object]) -> bool:
    try:
        probe = [python, "-c", "import metrics_pipeline.embedded"]
        return subprocess.run(probe, capture_output=True, check=False, **user).returncode == 0
    except PermissionError:
        return False


@pytest.mark.skipif(os.geteuid() != 0, reason="the tests run as an ordinary user already")
def test_an_ordinary_user_has_a_server_of_its_own(home: Path, hold: Hold) -> None:
    home.mkdir()
    home.parent.chmod(0o711)
    os.chown(home, 65534, 65534)
    as_nobody = {"user": 65534, "group": 65534, "extra_groups": [], "env": {"PYTHONPATH": os.pathsep.join(sys.path)}}
    # Ours may lie in root's own folder, as pyenv's does.
    system_python = shutil.which(f"python3.{sys.version_info.minor}", path=os.defpath)
    pythons = [python for python in (sys.executable, system_python) if python and _runs(python, as_nobody)]
    if not pythons:
        pytest.skip("the checkout or every Python of this version lies where other users cannot read it")
    holder = hold(python=pythons[0], **as_nobody)
    holder.uri()
    server = psutil.Process(server_pid(home))
    assert server.uids().effective == 65534
    assert {path.lstat().st_uid for path in home.rglob("*")} == {65534}
    # Root may use it too: the server keeps running as the owner of its data.
    holder.end()
    wait_until(lambda: has_ended(home))
    with psycopg.connect(acquire(home)) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
    assert psutil.Process(server_pid(home)).uids().effective == 65534
