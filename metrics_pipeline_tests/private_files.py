"""Which files and sockets of a command other users of the machine could use."""

import os
import stat
from collections.abc import Collection, Iterable
from contextlib import suppress
from pathlib import Path

import psutil


def open_to_others(paths: Iterable[Path], passed_through: Collection[Path] = ()) -> dict[Path, str]:
    """The modes of those of the paths that somebody but their owner may use in any way.

    As root, the embedded server's own user passes through the folders above its data; these are `passed_through`.
    """
    passage = stat.S_IXOTH if os.geteuid() == 0 else 0
    found = {}
    for path in paths:
        with suppress(FileNotFoundError):  # a running server makes and removes files all the time
            status = path.lstat()
            allowed = passage if path in passed_through else 0
            if not stat.S_ISLNK(status.st_mode) and stat.S_IMODE(status.st_mode) & 0o077 & ~allowed:
                found[path] = oct(status.st_mode)
    return found


def everything_in(folder: Path) -> list[Path]:
    return [folder, *(Path(top, name) for top, folders, files in os.walk(folder) for name in (*folders, *files))]


def listening_sockets(processes: Iterable[psutil.Process]) -> list[Path]:
    """The Unix sockets that the processes have made and others can find in the file system."""
    return [
        Path(connection.laddr)
        for process in processes
        for connection in process.net_connections("unix")
        if connection.laddr and Path(connection.laddr).is_socket()
    ]
