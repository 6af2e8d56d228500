"""Runs a command and all that it starts as one group, which ends with the process that asked for it, however that ends.

The command is started by a guard, a process in a session of its own, which reads from a pipe that only the caller holds
open. The end of the pipe is the end of the caller, also by SIGKILL. The guard is this file run as a script: it imports
nothing of this package, so it starts in a tenth of a second and takes little memory.
"""

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress

import psutil

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# `dagster dev` gives its webserver and its daemon a minute each.
_END_SECONDS = 130.0
_REST_SECONDS = 10.0
_WATCH_SECONDS = 0.1


def run(command: Sequence[str], environment: Mapping[str, str]) -> int:
    """Runs the command until it ends or this process is told to, and returns the command's exit code.

    SIGINT, SIGTERM and SIGHUP to this process, and its death, reach the command as one SIGINT. To be called by the
    main thread, as the last thing that the process does.
    """
    watched, held = os.pipe()

    def let_go(_signal: int, _frame: object) -> None:
        nonlocal held
        if held >= 0:
            os.close(held)
            held = -1

    for signal_ in _SIGNALS:
        # nohup means what it says.
        if signal.getsignal(signal_) is not signal.SIG_IGN:
            signal.signal(signal_, let_go)
    # In a session of its own, so that Ctrl-C reaches it by this way only.
    guard = subprocess.Popen(
        [sys.executable, "-P", __file__, str(watched), *command],
        env=environment,
        pass_fds=(watched,),
        start_new_session=True,
    )
    os.close(watched)
    return guard.wait()


def _guard(pipe: int, command: Sequence[str]) -> int:
    for signal_ in _SIGNALS:
        # Whoever ends everything at once (systemd does) ends the command too; somebody has to see it through. And the
        # command starts with these signals at their defaults, also where a shell has us ignore Ctrl-C.
        signal.signal(signal_, lambda _signal, _frame: None)
    process = subprocess.Popen(command, process_group=0)
    while process.poll() is None and not select.select([pipe], [], [], _WATCH_SECONDS)[0]:
        pass
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            process.wait(_END_SECONDS)
    # What is left: runs in flight, and everything if the command itself was killed.
    for signal_ in (signal.SIGINT, signal.SIGKILL):
        for member in _members(process.pid):
            with suppress(ProcessLookupError):
                os.kill(member, signal_)
        deadline = time.monotonic() + _REST_SECONDS
        while _members(process.pid) and time.monotonic() < deadline:
            time.sleep(_WATCH_SECONDS)
    return process.wait()


def _members(group: int) -> list[int]:
    # killpg would also count those that have ended, and for which nobody in a container without an init has waited.
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
    sys.exit(_guard(int(sys.argv[1]), sys.argv[2:]))
