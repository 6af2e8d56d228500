"""Only the server's user can connect to it, and no other user can pretend to be the server."""

import os
import shutil
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import psutil
import psycopg
import pytest

from metrics_pipeline.embedded import acquire, keeper, release, server_pid
from metrics_pipeline.errors import PermanentError
from metrics_pipeline_tests.homes import copy_cluster, has_ended, the_keeper
from metrics_pipeline_tests.processes import kill, wait_until

NOBODY = 65534
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")

_CONNECT = """
import socket, sys
with socket.socket(socket.AF_UNIX) as connection:
    connection.connect(sys.argv[1])
"""


@pytest.fixture(params=["beside the data", "in /tmp"])
def its_home(request: pytest.FixtureRequest, home: Path) -> Iterator[Path]:
    """A home whose path is fit for a socket, and one that is too long."""
    its_home = home if request.param == "beside the data" else home / ("long" * 40)
    copy_cluster(its_home)
    yield its_home
    release(its_home)
    wait_until(lambda: has_ended(its_home))


def socket_of(home: Path) -> Path:
    return keeper.socket_folder(home / "embedded") / f".s.PGSQL.{keeper.PORT}"


def test_its_processes_listen_on_one_unix_socket_and_on_no_network(its_home: Path) -> None:
    uri = acquire(its_home)
    assert parse_qs(urlsplit(uri).query)["host"] == [str(socket_of(its_home).parent)]
    server = psutil.Process(server_pid(its_home))
    with psycopg.connect(uri) as connection:
        processes = [server, *server.children(recursive=True)]
        assert connection.info.backend_pid in {process.pid for process in processes}
        connections = [each for process in processes for each in process.net_connections("all")]
        assert {each.family for each in connections} == {socket.AF_UNIX}
        assert {each.laddr for each in connections if each.laddr} == {str(socket_of(its_home))}
        listening = "SELECT current_setting('listen_addresses'), current_setting('unix_socket_directories')"
        assert connection.execute(listening).fetchone() == ("", f'"{socket_of(its_home).parent}"')
        rules = "SELECT type, auth_method FROM pg_hba_file_rules GROUP BY 1, 2 ORDER BY 1"
        assert connection.execute(rules).fetchall() == [("host", "reject"), ("local", "trust")]


def test_socket_and_folder_are_the_servers_own(its_home: Path) -> None:
    acquire(its_home)
    owner = psutil.Process(server_pid(its_home)).uids().effective
    for path, mode in ((socket_of(its_home).parent, 0o700), (socket_of(its_home), 0o700)):
        status = path.lstat()
        assert (status.st_uid, stat.S_IMODE(status.st_mode)) == (owner, mode)


@as_root
def test_another_user_cannot_connect(its_home: Path) -> None:
    acquire(its_home)
    for folder in socket_of(its_home).parent.parents:
        assert folder.stat().st_mode & stat.S_IXOTH, "the way there has to be open, or the socket is not what refuses"
    python = _python_of_everybody()
    connect = [python, "-c", _CONNECT, str(socket_of(its_home))]
    subprocess.run(connect, check=True)
    as_nobody = {"user": NOBODY, "group": NOBODY, "extra_groups": [], "cwd": "/"}
    refused = subprocess.run(connect, **as_nobody, capture_output=True, text=True, check=False)
    assert "PermissionError: [Errno 13] Permission denied" in refused.stderr
    # Even if the folder were open to others, the socket would refuse them.
    socket_of(its_home).parent.chmod(0o755)
    again = subprocess.run(connect, **as_nobody, capture_output=True, text=True, check=False)
    socket_of(its_home).parent.chmod(0o700)
    assert "PermissionError: [Errno 13] Permission denied" in again.stderr


@pytest.mark.parametrize("whose", [pytest.param("another user's", marks=as_root), "everybody's"])
def test_a_socket_in_tmp_that_somebody_else_made_after_a_crash_is_not_connected_to(home: Path, whose: str) -> None:
    long_home = home / ("long" * 40)
    copy_cluster(long_home)
    acquire(long_home)
    sockets = socket_of(long_home).parent
    kill(the_keeper(long_home))
    kill(server_pid(long_home))
    release(long_home)
    # The power fails: /tmp is empty after the start, and postmaster.pid still says that the server is ready.
    shutil.rmtree(sockets)
    sockets.mkdir()
    try:
        with closing(socket.socket(socket.AF_UNIX)) as impostor:
            impostor.bind(str(socket_of(long_home)))
            impostor.listen()
            impostor.setblocking(False)
            if whose == "another user's":
                sockets.chmod(0o711)
                os.chown(sockets, NOBODY, NOBODY)
            else:
                sockets.chmod(0o777)
            with pytest.raises(PermanentError, match=f"{sockets} is not a private folder of user"):
                acquire(long_home)
            with pytest.raises(BlockingIOError):
                impostor.accept()
    finally:
        shutil.rmtree(sockets)
    acquire(long_home)
    release(long_home)
    wait_until(lambda: has_ended(long_home))


def _python_of_everybody() -> str:
    candidates = (sys.executable, shutil.which("python3", path=os.defpath))
    for python in filter(None, candidates):
        try:
            subprocess.run([python, "-c", ""], user=NOBODY, group=NOBODY, extra_groups=[], cwd="/", check=True)
        except (PermissionError, subprocess.CalledProcessError):
            continue
        return python
    pytest.skip("every Python lies where other users cannot read it")
