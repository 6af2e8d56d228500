"""Which process works on a run, so that the run of a killed one is not taken for running for ever."""

import os
import re
import socket
from pathlib import Path

import dagster as dg
import psutil

from metrics_pipeline.names import PROCESS_TAG

# A tag is anybody's to type: what does not look like ours names no process.
_PROCESS = re.compile(r"(?P<run_id>[^/]+)/(?P<host>[^/]+)/(?P<pid>[0-9]{1,9})/(?P<identity>-?[0-9]+)")
_PROCESS_NAMESPACE = Path("/proc/self/ns/pid")


def own_process(run_id: str) -> str:
    """The process that calls as the one that works on the run, in the form of PROCESS_TAG."""
    return f"{run_id}/{_host()}/{os.getpid()}/{_identity(psutil.Process())}"


def claim(instance: dg.DagsterInstance, run: dg.DagsterRun) -> None:
    """Notes on the run that the process that calls works on it."""
    instance.add_run_tags(run.run_id, {PROCESS_TAG: own_process(run.run_id)})


def is_claimed(run: dg.DagsterRun) -> bool:
    """Whether some process has said that it works on the run."""
    return run.tags.get(PROCESS_TAG, "").startswith(f"{run.run_id}/")


def is_orphaned(run: dg.DagsterRun) -> bool:
    """Whether the process that works on the run is one of this host, and gone."""
    # A repeated run inherits the tags of its parent, whose process says nothing of it.
    match = _PROCESS.fullmatch(run.tags.get(PROCESS_TAG, ""))
    if match is None or (match["run_id"], match["host"]) != (run.run_id, _host()):
        return False
    return not _is_alive(int(match["pid"]), match["identity"])


def end_if_orphaned(instance: dg.DagsterInstance, run: dg.DagsterRun) -> bool:
    """Reports an unfinished run as failed whose process on this host is gone, and says whether it did.

    The code server does so for the workers that it started, but not for commands, and not if it was killed as well.
    """
    if not is_orphaned(run):
        return False
    # Read again: as the process was found gone, this is the status it has left.
    last = instance.get_run_by_id(run.run_id)
    if last is None or last.is_finished:
        return False
    pid = run.tags[PROCESS_TAG].split("/")[2]
    instance.report_run_failed(run, f"The process that worked on this run ({pid}) was killed. Start it again.")
    return True


def _host() -> str:
    # Containers may share a name and yet not see one another's processes.
    namespace = _PROCESS_NAMESPACE.readlink() if _PROCESS_NAMESPACE.is_symlink() else ""
    return f"{socket.gethostname()}:{namespace}"


def _is_alive(pid: int, identity: str) -> bool:
    try:
        process = psutil.Process(pid)
        return _identity(process) == identity and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _identity(process: psutil.Process) -> str:
    # psutil hashes the id and the start in time since boot. create_time() would move with every change of the clock.
    return str(hash(process))
