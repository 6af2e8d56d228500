"""Homes of embedded servers for tests. At the end the folder is removed, and every process of it has ended."""

import fcntl
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from metrics_pipeline.embedded import acquire, release, server_pid

from .processes import kill, processes, wait_until

# Not within pytest's own folder: as root, every other pytest on the machine closes that to the server's user.
HOME_VARIABLE = "PIPELINE_TESTS_HOME"

_SPACE_BYTES = 4 << 30


def scratch_folder() -> str:
    """The folder for everything that the tests write: in memory where there is enough of it, otherwise /tmp.

    Each database consists of 300 files. On ext4, a third of the processor time of all tests went into finding inodes
    for them, because those of recently deleted files are not used again at once.
    """
    memory = Path("/dev/shm")
    has_space = (
        memory.is_dir() and min(shutil.disk_usage(memory).free, psutil.virtual_memory().available) > _SPACE_BYTES
    )
    return str(memory) if has_space else "/tmp"


def new_folder() -> Path:
    """A folder in there that names the process it belongs to."""
    return Path(tempfile.mkdtemp(prefix=f"pipeline-tests-{os.getpid()}-"))


def remove_left_folders() -> None:
    """Removes what runs of the tests that were killed have left, because it takes memory."""
    for left in Path(tempfile.gettempdir()).glob("pipeline-tests-*-*"):
        if not psutil.pid_exists(int(left.name.split("-")[2])):
            shutil.rmtree(left, ignore_errors=True)


def kill_server(home: Path) -> int:
    """Kills the server under `home`, and returns its former process id.

    A child that it was starting may listen on its socket for a moment longer, and answers nobody.
    """
    killed = server_pid(home)
    kill(killed)
    wait_until(lambda: server_pid(home) != killed)
    return killed


@contextmanager
def scratch_home(*, has_cluster: bool = True) -> Iterator[Path]:
    """A METRICS_PIPELINE_HOME. At the end the folder is removed, and none of its processes is left.

    With `has_cluster` False it does not exist yet, so that the first command that needs a server runs initdb.
    """
    base = new_folder()
    home = base / "home"
    if has_cluster:
        copy_cluster(home)
    yield home
    release(home)
    try:
        wait_until(lambda: has_ended(home) and not processes(home))
    finally:
        for process in processes(home):
            process.kill()
        shutil.rmtree(base)


def copy_cluster(home: Path) -> None:
    """Copies the data that initdb would create into a home without data, in a tenth of the time."""
    data = home / "embedded" / "data"
    session = Path(os.environ[HOME_VARIABLE])
    with (session / "cluster.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if data.exists():
            return
        original = session / "cluster"
        if not original.exists():
            with scratch_home(has_cluster=False) as first:
                acquire(first)
                release(first)
                wait_until(lambda: has_ended(first))
                (first / "embedded" / "data").rename(original)
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        data.parent.mkdir(mode=0o700, exist_ok=True)
        # Unlike shutil.copytree it keeps the owner, who is not root.
        subprocess.run(["cp", "-a", str(original), str(data)], check=True)


def keepers(home: Path) -> list[int]:
    folder = os.path.realpath(home / "embedded")
    return [
        process.pid
        for process in psutil.process_iter(["cmdline"])
        if any(word.endswith("/keeper.py") for word in process.info["cmdline"] or ())
        and folder in process.info["cmdline"]
    ]


def the_keeper(home: Path) -> int:
    (keeper,) = keepers(home)
    return keeper


def has_ended(home: Path) -> bool:
    """Whether neither server nor keeper runs any more."""
    return server_pid(home) is None and not keepers(home)
