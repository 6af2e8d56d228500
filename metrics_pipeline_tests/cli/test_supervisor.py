"""A command and its children end when the process that started it ends, even by SIGKILL. With real processes."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from metrics_pipeline.cli import supervisor
from metrics_pipeline_tests.processes import HANGING_SECONDS, is_gone, wait_until

# Prints its id and its child's. On SIGINT it says so, and ends without ending its child.
_COMMAND = """
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", sys.argv[1]], stdout=subprocess.PIPE)
child.stdout.readline()
try:
    print(os.getpid(), child.pid, flush=True)
    time.sleep(600)
except KeyboardInterrupt:
    print("told to end", flush=True)
    sys.exit(7)
"""
_PATIENT = "import time; print(flush=True); time.sleep(600)"
_STUBBORN = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN); " + _PATIENT
# Without the package around it, whose import takes each process two seconds.
_IMPORT = f"""
import sys
from importlib.util import module_from_spec, spec_from_file_location
spec = spec_from_file_location("supervisor", {supervisor.__file__!r})
supervisor = module_from_spec(spec)
spec.loader.exec_module(supervisor)
"""
_CALLER = _IMPORT + "sys.exit(supervisor.run(sys.argv[1:], {}, claim=0))"
# With a shorter _REST_SECONDS, which can be set only inside the guard's own process.
_GUARD = _IMPORT + "supervisor._REST_SECONDS = 0.3; sys.exit(supervisor._guard(0, sys.argv[1:]))"


class Family:
    """A process that supervises _COMMAND, and the ids of the command and its child."""

    def __init__(self, program: str, child: str = _PATIENT) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", program, sys.executable, "-c", _COMMAND, child],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.pids = [int(pid) for pid in self.process.stdout.readline().split()]
        assert len(self.pids) == 2, self.process.communicate()

    def is_gone(self) -> bool:
        return all(map(is_gone, self.pids))

    def kill(self) -> None:
        for pid in self.pids:
            if not is_gone(pid):
                psutil.Process(pid).kill()
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def families() -> Iterator[list[Family]]:
    families: list[Family] = []
    yield families
    for family in families:
        family.kill()


@pytest.mark.parametrize("signal_", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_command_gently_and_its_exit_code_is_ours(
    signal_: signal.Signals, families: list[Family]
) -> None:
    # Whatever the tests were started with: under nohup it is ignored.
    family = Family("import signal; signal.signal(signal.SIGHUP, signal.SIG_DFL)" + _CALLER)
    families.append(family)
    os.killpg(family.process.pid, signal_)  # as a terminal does
    output, errors = family.process.communicate(timeout=HANGING_SECONDS)
    # Not the traceback of the child, which was told as well.
    assert (output, errors) == ("told to end\n", "Stopping, which takes some seconds.\n")
    assert family.process.returncode == 7
    assert family.is_gone()


def test_a_caller_that_is_killed_takes_all_with_it_gently(families: list[Family]) -> None:
    family = Family(_CALLER)
    families.append(family)
    os.killpg(family.process.pid, signal.SIGKILL)
    assert family.process.stdout.readline() == "told to end\n"
    wait_until(family.is_gone)


def test_a_command_that_is_killed_leaves_nobody_behind(families: list[Family]) -> None:
    family = Family(_CALLER)
    families.append(family)
    psutil.Process(family.pids[0]).kill()
    family.process.communicate(timeout=HANGING_SECONDS)
    assert family.process.returncode == 256 - signal.SIGKILL
    assert family.is_gone()


def test_who_does_not_listen_is_killed(families: list[Family]) -> None:
    family = Family(_GUARD, _STUBBORN)
    families.append(family)
    family.process.stdin.close()
    family.process.stdin = None
    family.process.communicate(timeout=HANGING_SECONDS)
    assert family.process.returncode == 7
    assert family.is_gone()


def test_a_guard_that_is_told_to_end_sees_the_command_through(families: list[Family]) -> None:
    family = Family(_CALLER)
    families.append(family)
    caller = psutil.Process(family.process.pid)
    (guard,) = caller.children()
    guard.terminate()
    caller.terminate()
    output, _ = family.process.communicate(timeout=HANGING_SECONDS)
    assert (output, family.process.returncode) == ("told to end\n", 7)
    assert family.is_gone()


@pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's /proc")
def test_nohup_means_what_it_says(families: list[Family]) -> None:
    family = Family("import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)" + _CALLER)
    families.append(family)
    status = Path(f"/proc/{family.process.pid}/status").read_text()
    (ignored,) = (int(line.split()[1], 16) for line in status.splitlines() if line.startswith("SigIgn:"))
    assert ignored >> (signal.SIGHUP - 1) & 1
    family.process.terminate()
    output, _ = family.process.communicate(timeout=HANGING_SECONDS)
    assert (output, family.process.returncode) == ("told to end\n", 7)


def test_a_command_that_ends_by_itself_ends_us_and_says_why_and_its_temporary_files_are_gone() -> None:
    program = """
import sys, tempfile
print(tempfile.mkdtemp())
print("why", file=sys.stderr)
sys.exit(3)
"""
    command = [sys.executable, "-c", _CALLER, sys.executable, "-c", program]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=HANGING_SECONDS)
    assert (result.stderr, result.returncode) == ("why\n", 3)
    assert not Path(result.stdout.strip()).parent.exists()
