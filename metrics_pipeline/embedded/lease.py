"""Leases on the embedded server, which runs as long as a process holds one.

A lease is a shared lock on a file. The kernel releases it when the process ends, however it ends.
"""

import errno
import fcntl
import os
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from urllib.parse import quote

import psutil

from metrics_pipeline.embedded import keeper
from metrics_pipeline.embedded.installation import MAJOR_VERSION, binaries, let_through, server_account
from metrics_pipeline.errors import PermanentError, TransientError

# Recovery from a crash replays at most max_wal_size, 2 GB: a minute or two on a slow disk.
START_LIMIT_SECONDS = 300.0
_WAIT_SECONDS = 0.02
_LOG_LIMIT_BYTES = 4 * 2**20

_guard = threading.Lock()
_leases: dict[Path, int] = {}


def _renew_guard() -> None:
    # At the fork, a thread that does not exist in the child may have held it.
    global _guard  # noqa: PLW0603
    _guard = threading.Lock()


os.register_at_fork(after_in_child=_renew_guard)


def acquire(home: Path) -> str:
    """Keeps the server under `home` running until this process ends, and returns its libpq URI.

    A second call keeps the same lease and checks, in a tenth of a millisecond, that the server still listens; a killed
    server is started again. A forked child shares its parent's lease: the server runs until both have ended.

    Raises PermanentError if the server cannot be set up or started, TransientError if it is not ready in time.
    """
    folder = _server_folder(home)
    deadline = time.monotonic() + START_LIMIT_SECONDS
    with _guard, ExitStack() as undo:
        try:
            if folder not in _leases:
                folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                folder.mkdir(mode=0o700, exist_ok=True)
                _leases[folder] = _take_lease(folder, deadline)
                undo.callback(_give_back, folder)
            _ensure_server(folder, deadline)
        except OSError as error:
            raise PermanentError(
                f"The embedded PostgreSQL in {folder} cannot be set up: {error}. {_remedy(error.errno == errno.ENOSPC)}"
            ) from error
        undo.pop_all()
    sockets = quote(str(keeper.socket_folder(folder)), safe="/")
    # The port is named because PGPORT would change it.
    return f"postgresql://postgres@/postgres?host={sockets}&port={keeper.PORT}"


def release(home: Path) -> None:
    """Releases this process's lease early, if it has one. The server stops after the last lease."""
    with _guard:
        _give_back(_server_folder(home))


def server_pid(home: Path) -> int | None:
    """The process id of the server that runs under `home`, or None. Takes no lease and starts nothing."""
    state = keeper.running(_server_folder(home))
    return state.pid if state else None


def _server_folder(home: Path) -> Path:
    # realpath, because Path.resolve raises RuntimeError for a loop of links; mkdir reports it as an OSError.
    folder = Path(os.path.realpath(home), "embedded")
    if "\n" in str(folder):
        raise PermanentError(
            f"The home {str(home)!r} has a line break in its path, which PostgreSQL's postmaster.pid cannot hold. "
            "Set METRICS_PIPELINE_HOME to another folder."
        )
    return folder


def _give_back(folder: Path) -> None:
    descriptor = _leases.pop(folder, None)
    if descriptor is not None:
        # Closed, not unlocked: LOCK_UN would release a forked child's lease too.
        os.close(descriptor)


def _take_lease(folder: Path, deadline: float) -> int:
    while (descriptor := _lock(keeper.leases_file(folder), fcntl.LOCK_SH)) is None:
        _wait(folder, "is still shutting down", deadline)
    return descriptor


def _ensure_server(folder: Path, deadline: float) -> None:
    while True:
        # A process that gets this lock passes it to the keeper that it starts, which holds it until it ends.
        lock = _lock(folder / "keeper.lock", fcntl.LOCK_EX)
        if lock is None:
            state = keeper.recorded(folder)
            if state is not None and state.status == keeper.READY and keeper.running(folder) == state:
                return
        else:
            try:
                state = keeper.running(folder)
                if state is None or state.status != keeper.STOPPING:
                    _start_keeper(folder, lock, deadline, is_running=state is not None)
                    return
            finally:
                os.close(lock)
        _wait(folder, "is not ready yet", deadline)


def _start_keeper(folder: Path, lock: int, deadline: float, *, is_running: bool) -> None:
    programs = binaries()
    data = keeper.data_folder(folder)
    _check_version(data)
    if not is_running:
        _clear_after_crash(folder)
    uid, gid = server_account(data)
    if os.geteuid() == 0:
        let_through(uid, data, programs)
    with os.fdopen(_open_private(keeper.log_file(folder), os.O_WRONLY | os.O_APPEND), "ab") as log:
        if log.tell() > _LOG_LIMIT_BYTES:
            log.truncate(0)
        # -I -S: without PYTHON* variables and site packages, which cost time and could break the keeper.
        command = [sys.executable, "-I", "-S", keeper.__file__, *map(str, (folder, programs, uid, gid, lock))]
        with subprocess.Popen(
            command,
            pass_fds=(lock,),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            cwd="/",
            start_new_session=True,
        ) as process:
            try:
                report = process.communicate(timeout=max(deadline - time.monotonic(), 0))[0].decode()
            except subprocess.TimeoutExpired as error:
                raise _too_late(folder, "is not ready yet") from error
    if not report:
        raise TransientError(
            f"The embedded PostgreSQL's keeper ended early; try again. {keeper.log_file(folder)} may say why."
        )
    if report != keeper.READY:
        remedy = _remedy("No space left on device" in report)
        raise PermanentError(f"The embedded PostgreSQL in {folder} cannot be started: {report}\n{remedy}")


def _check_version(data: Path) -> None:
    try:
        version = (data / "PG_VERSION").read_text("utf-8").strip()
    except FileNotFoundError:
        return
    if version != str(MAJOR_VERSION):
        raise PermanentError(
            f"{data} was made by PostgreSQL {version}, and the embedded server is PostgreSQL {MAJOR_VERSION}. Copy the "
            f"data over with pg_dump of version {version} and psql, or set METRICS_PIPELINE_HOME to another folder."
        )


def _clear_after_crash(folder: Path) -> None:
    # No server listens and we hold the keeper's lock, so a kill -9 left the files that claim the data. The process id
    # in them may have been reused, and PostgreSQL would take that process for a running server.
    stale = [path for path in keeper.stale_files(folder) if path.exists()]
    if not stale:
        return
    data = str(keeper.data_folder(folder))
    # Backends outlive their postmaster while they compute, and prevent the next one from starting.
    orphan = {"name": "postgres", "cwd": data}
    orphans = [process for process in psutil.process_iter(list(orphan)) if process.info == orphan]
    for process in orphans:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(orphans, timeout=10)
    for path in stale:
        path.unlink(missing_ok=True)  # a server that was just shutting down removes them itself


def _lock(path: Path, kind: int) -> int | None:
    descriptor = _open_private(path, os.O_RDWR)
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        if isinstance(error, BlockingIOError):
            return None
        raise
    return descriptor


def _open_private(path: Path, flags: int) -> int:
    return os.open(path, flags | os.O_CREAT | os.O_NOFOLLOW, 0o600)


def _wait(folder: Path, state: str, deadline: float) -> None:
    if time.monotonic() > deadline:
        raise _too_late(folder, state)
    time.sleep(_WAIT_SECONDS)


def _too_late(folder: Path, state: str) -> TransientError:
    return TransientError(
        f"The embedded PostgreSQL in {folder} {state} after {START_LIMIT_SECONDS:.0f} s. "
        f"{keeper.log_file(folder)} says what it does; try again when it is done."
    )


def _remedy(is_disk_full: bool) -> str:
    what = "Free space on that disk" if is_disk_full else f"Remove the cause (we run as user {os.geteuid()})"
    return (
        f"{what}, set METRICS_PIPELINE_HOME to another folder, or set METRICS_DATABASE_URL to a PostgreSQL of your own."
    )
