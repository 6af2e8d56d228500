"""Launching runs in the code server, as Dagster does by default, with an eye on their processes."""

import time

import dagster as dg
from dagster._core.errors import DagsterUserCodeUnreachableError
from dagster._core.launcher import CheckRunHealthResult, DefaultRunLauncher, WorkerStatus
from dagster._grpc.types import CanCancelExecutionRequest, CanCancelExecutionResult
from dagster._serdes import deserialize_value

from metrics_pipeline.orchestration.processes import is_claimed, is_orphaned


class WatchingRunLauncher(DefaultRunLauncher):
    """Dagster's own launcher, which also answers run monitoring whether a run's process still works on it.

    A run that was killed together with its code server is then ended by the daemon, and run_retries start it again.
    """

    @property
    def supports_check_run_worker_health(self) -> bool:
        """True, unlike the superclass's."""
        return True

    def check_run_worker_health(self, run: dg.DagsterRun) -> CheckRunHealthResult:
        """FAILED for a run whose process on this host is gone, or that was killed before it could say who works on it.

        RUNNING for every other: monitoring ends a run for any doubt, so what cannot be seen from here (another host's
        process, a code server that does not answer) counts as running.
        """
        if is_orphaned(run):
            return CheckRunHealthResult(WorkerStatus.FAILED, "the process that worked on this run was killed")
        if not is_claimed(run) and self._is_overdue(run) and self._is_unknown_to_its_code_server(run):
            return CheckRunHealthResult(WorkerStatus.FAILED, "its code server was restarted and does not know this run")
        return CheckRunHealthResult(WorkerStatus.RUNNING)

    def _is_overdue(self, run: dg.DagsterRun) -> bool:
        """Whether the run has been started for so long that its first step must have begun."""
        record = self._instance.get_run_record_by_id(run.run_id)
        if record is None or record.start_time is None:
            return False
        return time.time() - record.start_time > self._instance.run_monitoring_start_timeout_seconds

    def _is_unknown_to_its_code_server(self, run: dg.DagsterRun) -> bool:
        client = self._get_grpc_client_for_termination(run.run_id)  # type: ignore[no-untyped-call]
        if client is None:
            return False
        try:
            answer = client.can_cancel_execution(CanCancelExecutionRequest(run_id=run.run_id))
        except DagsterUserCodeUnreachableError:
            # It may be about to start; the next look is half a minute away.
            return False
        return not deserialize_value(answer, CanCancelExecutionResult).can_cancel
