"""Which process works on a run, so that the run of a killed process does not look started forever."""

import os
import re
import socket
from pathlib import Path

import dagster as dg
import psutil

from metrics_pipeline.names import PROCESS_TAG

# Anybody can type a tag, so one in another form is ignored.
_PROCESS = re.compile(r"(?P<run_id>[^/]+)/(?P<host>[^/]+)/(?P<pid>[0-9]{1,9})/(?P<identity>-?[0-9]+)")
_PROCESS_NAMESPACE = Path("/proc/self/ns/pid")


def own_process(run_id: str) -> str:
    """The calling process as the one that works on the run, in the form of PROCESS_TAG."""
    return f"{run_id}/{_host()}/{os.getpid()}/{_identity(psutil.Process())}"


def claim(instance: dg.DagsterInstance, run: dg.DagsterRun) -> None:
    """Tags the run with the calling process, which works on it."""
    instance.add_run_tags(run.run_id, {PROCESS_TAG: own_process(run.run_id)})


def is_claimed_here(run: dg.DagsterRun) -> bool:
    """Whether a process of this host has claimed the run. Another container is another host."""
    return _claim_here(run) is not None


def is_orphaned(run: dg.DagsterRun) -> bool:
    """Whether the process that works on the run was on this host and has ended."""
    claimed = _claim_here(run)
    return claimed is not None and not _is_alive(int(claimed["pid"]), claimed["identity"])


def end_if_orphaned(instance: dg.DagsterInstance, run: dg.DagsterRun) -> bool:
    """Reports an unfinished orphaned run as failed, and returns whether it did.

    The code server does so for the workers that it started, but not for commands, and not if it was killed too.
    """
    if not is_orphaned(run):
        return False
    # Read again: because the process has ended, this status is its last.
    last = instance.get_run_by_id(run.run_id)
    if last is None or last.is_finished:
        return False
    pid = run.tags[PROCESS_TAG].split("/")[2]
    instance.report_run_failed(run, f"The process that worked on this run ({pid}) was killed. Start it again.")
    return True


def _claim_here(run: dg.DagsterRun) -> re.Match[str] | None:
    # A repeated run inherits the tags of its parent, including the parent's process.
    match = _PROCESS.fullmatch(run.tags.get(PROCESS_TAG, ""))
    return match if match is not None and (match["run_id"], match["host"]) == (run.run_id, _host()) else None


def _host() -> str:
    # Containers may share a host name without seeing each other's processes.
    namespace = _PROCESS_NAMESPACE.readlink() if _PROCESS_NAMESPACE.is_symlink() else ""
    return f"{socket.gethostname()}:{namespace}"


def _is_alive(pid: int, identity: str) -> bool:
    try:
        process = psutil.Process(pid)
        return _identity(process) == identity and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _identity(process: psutil.Process) -> str:
    # psutil hashes the id and the start time since boot. create_time() would change whenever the clock is set.
    return str(hash(process))
