"""Runs a command in a process group that ends when the calling process ends, even by SIGKILL.

`dagster dev` alone does not do that: after `kill -9` its webserver and daemon keep running, and with them the embedded
server and the port. So a guard starts the command: a process in a session of its own, which reads from a pipe that only
the caller holds open, and sees the end of the pipe when the caller ends. The guard is this file run as a script: it
imports nothing of this package, so it starts in a tenth of a second and needs little memory.

From the signal to the end, what the processes write to stderr is not shown: Dagster's say in long tracebacks that they
were told to end. Their temporary files go with them: Dagster leaves the sockets of its code servers behind.
"""

import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress

import psutil

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# `dagster dev` gives its webserver and its daemon a minute each.
_END_SECONDS = 130.0
_REST_SECONDS = 10.0
_WATCH_SECONDS = 0.1
_LAST_WORDS_SECONDS = 1.0


def run(command: Sequence[str], environment: Mapping[str, str], *, beside: Sequence[str] = (), claim: int) -> int:
    """Runs the command until it ends or this process gets a signal, and returns the command's exit code.

    `beside` is a second command that runs as long as the first; it may end before. Its standard output is not shown,
    nor is anything that they write to stderr once they are told to end. `claim` is a descriptor that stays open until
    both have ended.

    SIGINT, SIGTERM and SIGHUP to this process, and its death, reach the command as one SIGINT. Call it in the main
    thread, as the last thing that the process does.
    """
    watched, held = os.pipe()

    def let_go(_signal: int, _frame: object) -> None:
        nonlocal held
        if held >= 0:
            os.close(held)
            held = -1
            # Not print: a handler may interrupt a print. After SIGHUP there may be no terminal.
            with suppress(OSError):
                os.write(sys.stderr.fileno(), b"Stopping, which takes some seconds.\n")

    for signal_ in _SIGNALS:
        # Under nohup SIGHUP is ignored, and stays ignored.
        if signal.getsignal(signal_) is not signal.SIG_IGN:
            signal.signal(signal_, let_go)
    # In a session of its own, so that Ctrl-C reaches the guard only through the pipe.
    guard = subprocess.Popen(
        [sys.executable, "-P", __file__, str(watched), str(len(command)), *command, *beside],
        env=environment,
        pass_fds=(watched, claim),
        start_new_session=True,
    )
    os.close(watched)
    return guard.wait()


def _guard(pipe: int, command: Sequence[str], beside: Sequence[str] = ()) -> int:
    for signal_ in _SIGNALS:
        # systemd signals every process at once, and the guard must outlive the command to stop what it leaves. Not
        # SIG_IGN: the command would inherit it. So it starts with the default action even where a shell ignores Ctrl-C.
        signal.signal(signal_, lambda _signal, _frame: None)
    with tempfile.TemporaryDirectory(prefix="metrics-pipeline-", ignore_cleanup_errors=True) as folder:
        return _run_in(folder, pipe, command, beside)


def _run_in(folder: str, pipe: int, command: Sequence[str], beside: Sequence[str]) -> int:
    environment = {**os.environ, "TMPDIR": folder}
    read_end, write_end = os.pipe()
    is_ending = threading.Event()
    copying = threading.Thread(target=_copy, args=(read_end, is_ending), daemon=True)
    copying.start()
    process = subprocess.Popen(command, process_group=0, env=environment, stderr=write_end)
    if beside:
        # Ended with whatever else is left of the group.
        subprocess.Popen(
            beside, process_group=process.pid, env=environment, stdout=subprocess.DEVNULL, stderr=write_end
        )
    os.close(write_end)
    while process.poll() is None and not select.select([pipe], [], [], _WATCH_SECONDS)[0]:
        pass
    if process.poll() is None:
        is_ending.set()
        process.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            process.wait(_END_SECONDS)
    else:
        # Why it ended by itself.
        copying.join(_LAST_WORDS_SECONDS)
        is_ending.set()
    # The processes that are left: runs in progress, the command beside, and all if the command itself was killed.
    for signal_ in (signal.SIGINT, signal.SIGKILL):
        for member in _members(process.pid):
            with suppress(ProcessLookupError):
                os.kill(member, signal_)
        deadline = time.monotonic() + _REST_SECONDS
        while _members(process.pid) and time.monotonic() < deadline:
            time.sleep(_WATCH_SECONDS)
    return process.wait()


def _copy(pipe: int, is_ending: threading.Event) -> None:
    while chunk := os.read(pipe, 65536):
        if not is_ending.is_set():
            # After SIGHUP there may be no terminal.
            with suppress(OSError):
                os.write(sys.stderr.fileno(), chunk)


def _members(group: int) -> list[int]:
    # killpg would also count zombies, which stay in a container without an init process.
    return [
        process.pid
        for process in psutil.process_iter(["status"])
        if process.info["status"] != psutil.STATUS_ZOMBIE and _group_of(process.pid) == group
    ]


def _group_of(pid: int) -> int | None:
    try:
        return os.getpgid(pid)
    except (ProcessLookupError, PermissionError):
        return None


if __name__ == "__main__":
    length = int(sys.argv[2])
    sys.exit(_guard(int(sys.argv[1]), sys.argv[3 : 3 + length], sys.argv[3 + length :]))
