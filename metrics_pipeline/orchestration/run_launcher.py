"""Launching runs in the code server, as Dagster does by default, with an eye on their processes."""

import dagster as dg
from dagster._core.launcher import CheckRunHealthResult, DefaultRunLauncher, WorkerStatus

from metrics_pipeline.orchestration.processes import is_orphaned


class WatchingRunLauncher(DefaultRunLauncher):
    """Dagster's own launcher, which also answers run monitoring whether a run's process still works on it.

    A run that was killed together with its code server is then ended by the daemon, and run_retries start it again.
    """

    @property
    def supports_check_run_worker_health(self) -> bool:
        """True, unlike the superclass's."""
        return True

    def check_run_worker_health(self, run: dg.DagsterRun) -> CheckRunHealthResult:
        """FAILED for a run whose process on this host is gone.

        RUNNING for every other: monitoring ends a run for any doubt, so what cannot be seen from here (another host's
        process, a run that has not yet said who works on it, another code location's) counts as running.
        """
        if is_orphaned(run):
            return CheckRunHealthResult(WorkerStatus.FAILED, "the process that worked on this run was killed")
        return CheckRunHealthResult(WorkerStatus.RUNNING)
