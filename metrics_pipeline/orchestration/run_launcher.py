"""Launches runs in the code server, as Dagster does by default, and monitors their processes."""

import time

import dagster as dg

from metrics_pipeline.orchestration.dagster_internals import (
    HEALTHY,
    RunHealth,
    instance_of,
    is_unknown_to_its_code_server,
    unhealthy,
)
from metrics_pipeline.orchestration.processes import is_claimed_here, is_orphaned


class WatchingRunLauncher(dg.DefaultRunLauncher):
    """Dagster's own launcher, which also tells run monitoring whether a run's process is alive.

    The daemon then ends a run that was killed together with its code server, and run_retries start it again.
    """

    @property
    def supports_check_run_worker_health(self) -> bool:
        """True, unlike the superclass's."""
        return True

    def check_run_worker_health(self, run: dg.DagsterRun) -> RunHealth:
        """FAILED for a run whose process on this host has ended, or whose code server no longer knows it.

        The code server is asked about runs whose process cannot be seen from here: it was killed before it was
        recorded, or is in another container. RUNNING for every other run, because monitoring ends a run for any other
        answer: a command on another host, a code server that does not answer.
        """
        if is_orphaned(run):
            return unhealthy("the process that worked on this run was killed")
        if not is_claimed_here(run) and self._is_overdue(run) and is_unknown_to_its_code_server(self, run):
            return unhealthy("its code server was restarted and does not know this run")
        return HEALTHY

    def _is_overdue(self, run: dg.DagsterRun) -> bool:
        """Whether the run was started so long ago that its first step must have begun."""
        instance = instance_of(self)
        record = instance.get_run_record_by_id(run.run_id)
        if record is None or record.start_time is None:
            return False
        return time.time() - record.start_time > instance.run_monitoring_start_timeout_seconds
