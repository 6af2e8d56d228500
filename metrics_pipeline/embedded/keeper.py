"""The keeper: PostgreSQL's parent process, which stops the server when no process holds a lease any more.

It runs as a script with only the standard library, so that it starts in tens of milliseconds and depends on nothing
that its starter's environment could break. What both it and the lease holders must know about the folder is here too.
"""

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

PORT = 5432
READY = "ready"
STOPPING = "stopping"

_SOCKET_NAME = f".s.PGSQL.{PORT}"
# sun_path holds 104 bytes on macOS and 108 on Linux, and ends with a NUL.
_SOCKET_PATH_BYTES = 103
# How often the keeper checks whether the last lease is gone or the server has ended.
_WATCH_SECONDS = 0.1
_START_WATCH_SECONDS = 0.01
_LOG_TAIL_BYTES = 2000
_NOT_PRIVATE = "{path} is not a private folder of user {uid}; remove it"

_SETTINGS = {
    "listen_addresses": "",
    "port": str(PORT),
    "unix_socket_permissions": "0700",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "max_connections": "200",
    "shared_buffers": "256MB",
    # POSIX shared memory is in /dev/shm, which has 64 MB in a container: less than one parallel hash join may take.
    "dynamic_shared_memory_type": "mmap",
    # Nothing replicates from here. With minimal WAL, a COPY into a table of the same transaction skips the log.
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "max_logical_replication_workers": "0",
    "wal_compression": "pglz",
    "max_wal_size": "2GB",
    "log_checkpoints": "off",
}


class Postmaster(NamedTuple):
    """The server according to postmaster.pid: its process id, and `starting`, `ready`, `stopping` or `standby`."""

    pid: int
    status: str


class ServerError(Exception):
    """PostgreSQL could not be set up or started; the message holds the end of its log."""


def data_folder(folder: Path) -> Path:
    """The cluster's data directory. It exists only once it is complete."""
    return folder / "data"


def log_file(folder: Path) -> Path:
    """The output of initdb, the server and a failing keeper."""
    return folder / "server.log"


def leases_file(folder: Path) -> Path:
    """Locked shared by every user of the server, and exclusively by the keeper while it stops the server."""
    return folder / "leases.lock"


def socket_folder(folder: Path) -> Path:
    """The folder of the server's socket: beside the data, or in /tmp if that path is too long or not plain.

    Every driver's URL parser reads a plain path the same way; libpq itself splits a host at commas. The place depends
    only on `folder`, because clients keep their URI across restarts of the server, and TMPDIR differs between a
    terminal and a service.
    """
    beside = folder / "socket"
    length = len(os.fsencode(beside / _SOCKET_NAME))
    if length <= _SOCKET_PATH_BYTES and re.fullmatch(r"[A-Za-z0-9_./-]+", str(beside)):
        return beside
    digest = hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]
    return Path("/tmp", f"metrics_pipeline-{digest}")  # noqa: S108 - made private, and refused if somebody else's


def recorded(folder: Path) -> Postmaster | None:
    """Reads postmaster.pid, which a killed server leaves behind."""
    try:
        lines = (data_folder(folder) / "postmaster.pid").read_text("utf-8", errors="surrogateescape").splitlines()
    except FileNotFoundError:
        return None
    # The eighth line is missing early in start-up.
    return Postmaster(int(lines[0]), lines[7].strip() if len(lines) > 7 else "starting") if lines else None


def running(folder: Path) -> Postmaster | None:
    """The server that listens on the folder's socket, in whatever state, or None.

    Raises OSError if the socket cannot be reached although a server may listen, or if its folder may have been created
    by a user other than the data's owner.
    """
    sockets = socket_folder(folder)
    try:
        owner = data_folder(folder).stat().st_uid
        status = sockets.lstat()
    except FileNotFoundError:
        return None
    # In /tmp, after a crash, any user can create the folder first, and would receive our logs. Root creates it before
    # changing its owner.
    if not _is_private(status, owner) and not _is_private(status, 0):
        raise PermissionError(_NOT_PRIVATE.format(path=sockets, uid=owner))
    with socket.socket(socket.AF_UNIX) as connection:
        try:
            connection.connect(str(sockets / _SOCKET_NAME))
        except (FileNotFoundError, ConnectionRefusedError):
            return None
    # Read after connecting: a server writes its file before it listens, so this is not the file of a killed one.
    return recorded(folder)


def _is_private(status: os.stat_result, uid: int) -> bool:
    return stat.S_ISDIR(status.st_mode) and status.st_uid == uid and not status.st_mode & 0o077


def stale_files(folder: Path) -> list[Path]:
    """The files with which a killed server still claims its data and its socket."""
    return [data_folder(folder) / "postmaster.pid", socket_folder(folder) / f"{_SOCKET_NAME}.lock"]


class _Adopted:
    """A server that an earlier keeper started: not our child, so we must ask whether it still runs."""

    def __init__(self, pid: int, folder: Path) -> None:
        self.pid = pid
        self._folder = folder

    def poll(self) -> int | None:
        """Like Popen.poll: None while the server runs. A zombie counts as ended, because it has removed its file."""
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return -1
        state = recorded(self._folder)
        return None if state is not None and state.pid == self.pid else -1


class _Keeper:
    def __init__(self, folder: Path, binaries: Path, uid: int, gid: int, lock: int) -> None:
        self._folder = folder
        self._binaries = binaries
        self._uid = uid
        self._gid = gid
        self._lock = lock
        self._child: dict[str, Any] = {
            "stdin": subprocess.DEVNULL,
            "stdout": sys.stderr,
            # Without the starter's environment: PGPORT and others change the server, and it may hold secrets.
            "env": {"LC_ALL": "C"},
        }
        if os.geteuid() == 0:
            self._child |= {"user": uid, "group": gid, "extra_groups": []}
        self._log_start = log_file(folder).stat().st_size

    def run(self) -> None:
        """Starts or adopts the server, tells the starter `ready` or the error, and stops it after the last lease."""
        try:
            server = self._adopt() or self._start()
        except (OSError, ServerError) as error:
            _report(str(error))
            return
        with leases_file(self._folder).open("r+b") as leases:
            try:
                self._await_ready(server)
                _report(READY)
                while server.poll() is None and not _lock_exclusively(leases.fileno()):
                    time.sleep(_WATCH_SECONDS)
            except ServerError as error:
                _report(str(error))
            finally:
                self._stop(server)

    def _adopt(self) -> _Adopted | None:
        state = running(self._folder)
        return _Adopted(state.pid, self._folder) if state else None

    def _start(self) -> subprocess.Popen[bytes]:
        data = data_folder(self._folder)
        if not (data / "PG_VERSION").exists():
            self._create_cluster(data)
        sockets = socket_folder(self._folder)
        self._make_private(sockets)
        # PostgreSQL reads a list of folders here; quoted, a comma or a space is part of the name.
        settings = _SETTINGS | {"unix_socket_directories": f'"{sockets}"'}
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        command = [str(self._binaries / "postgres"), "-D", str(data), *options]
        return subprocess.Popen(command, **self._child)

    def _create_cluster(self, data: Path) -> None:
        fresh = self._folder / "data.new"
        if fresh.exists():
            shutil.rmtree(fresh)
        self._make_private(fresh)
        command = [
            str(self._binaries / "initdb"),
            "--username=postgres",
            "--auth-local=trust",
            "--auth-host=reject",
            "--encoding=UTF8",
            "--locale=C",
            # Sorts by code point and knows the case of every letter, identically on each platform and in each version.
            "--locale-provider=builtin",
            "--builtin-locale=C.UTF-8",
            "--no-instructions",
            f"--pgdata={fresh}",
        ]
        # initdb inherits the keeper's lock: if the keeper is killed, no process removes the folder while initdb runs.
        initdb = subprocess.run(command, pass_fds=(self._lock,), check=False, **self._child)
        if initdb.returncode != 0:
            raise ServerError(self._ended("initdb", initdb.returncode))
        fresh.rename(data)
        directory = os.open(self._folder, os.O_RDONLY)
        os.fsync(directory)
        os.close(directory)

    def _make_private(self, path: Path) -> None:
        path.mkdir(mode=0o700, exist_ok=True)
        status = path.lstat()
        if os.geteuid() == status.st_uid == 0:
            os.chown(path, self._uid, self._gid, follow_symlinks=False)
            status = path.lstat()
        if not _is_private(status, self._uid):
            raise ServerError(_NOT_PRIVATE.format(path=path, uid=self._uid))

    def _await_ready(self, server: "_Adopted | subprocess.Popen[bytes]") -> None:
        # Without a limit: interrupted crash recovery would only start again. The starter has a limit.
        while recorded(self._folder) != Postmaster(server.pid, READY):
            if (code := server.poll()) is not None:
                raise ServerError(self._ended("postgres", code))
            time.sleep(_START_WATCH_SECONDS)

    def _stop(self, server: "_Adopted | subprocess.Popen[bytes]") -> None:
        if server.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                # Fast shutdown: open transactions roll back and a checkpoint is written, however long that takes.
                os.kill(server.pid, signal.SIGINT)
        while server.poll() is None:
            time.sleep(_START_WATCH_SECONDS)
        # Fails if a killed server left its socket here. The next start replaces it.
        with contextlib.suppress(OSError):
            socket_folder(self._folder).rmdir()

    def _ended(self, program: str, code: int) -> str:
        with log_file(self._folder).open("rb") as log:
            log.seek(max(self._log_start, log.seek(0, os.SEEK_END) - _LOG_TAIL_BYTES))
            tail = log.read().decode(errors="replace").strip()
        return f"{program} ended with code {code}. The end of {log_file(self._folder)}:\n{tail}"


def _lock_exclusively(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _report(message: str) -> None:
    # A starter that was killed does not read this, but other processes may still wait for the server.
    with contextlib.suppress(BrokenPipeError):
        os.write(sys.stdout.fileno(), message.encode(errors="replace"))
    # The starter reads to the end of the file, so the keeper must close its end of the pipe.
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())


def main(folder: str, binaries: str, uid: str, gid: str, lock: str) -> None:
    """Runs the keeper detached, so that no process has to wait for it.

    `lock` is the descriptor of the keeper's lock, which the starter has taken. The keeper holds it until it ends.
    """
    if os.fork():
        os._exit(0)
    # On SIGTERM the keeper stops its server before it ends.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    _Keeper(Path(folder), Path(binaries), int(uid), int(gid), int(lock)).run()


if __name__ == "__main__":
    main(*sys.argv[1:])
