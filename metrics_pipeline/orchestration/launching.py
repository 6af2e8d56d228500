"""Running the daily job from a command: a Dagster run on the shared instance, in this process, followed as it goes."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date
from typing import Any

import dagster as dg
from dagster._core.definitions.reconstruct import ReconstructableRepository
from dagster._core.events import RunFailureReason
from dagster._core.execution.api import execute_run_iterator
from dagster._core.storage.tags import ASSET_PARTITION_RANGE_END_TAG, ASSET_PARTITION_RANGE_START_TAG
from dagster._core.utils import make_new_run_id
from dagster._utils.interrupts import capture_interrupts
from dagster_shared.error import SerializableErrorInfo

from metrics_pipeline.orchestration.names import DAILY_METRICS_JOB, METRICS_ASSET_KEY, PROCESS_TAG, REASON_TAG
from metrics_pipeline.orchestration.processes import end_if_orphaned, own_process
from metrics_pipeline.storage.publishing import Reason

_UNSUCCESSFUL = (dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED)

#: The metadata of a day that was materialised, as plain values.
DayReport = dict[str, Any]


@dataclass
class RunOutcome:
    """What became of a run: the days that it stored, why it failed if it did, and whether a signal ended it.

    continued_run_id: the unfinished run over the same days that it continued, if there was one.
    """

    run_id: str
    continued_run_id: str | None = None
    days: dict[date, DayReport] = field(default_factory=dict)
    failure: str | None = None
    is_interrupted: bool = False


# Dagster does so itself while the run executes; a signal just before would leave a run that never starts.
@capture_interrupts()
def run_days(
    instance: dg.DagsterInstance,
    first: date,
    last: date,
    *,
    reason: Reason,
    include_inactive_agents: bool,
    on_day: Callable[[date, DayReport], None],
) -> RunOutcome:
    """Runs daily_metrics_job over the days from `first` to `last` and calls `on_day` as each is stored.

    The run belongs to `instance`, with its events and lineage, as if the UI had started it. SIGINT and SIGTERM end it
    as a failed run, with the days stored until then.
    """
    job = ReconstructableRepository.for_module("metrics_pipeline.definitions", "defs").get_reconstructable_job(
        DAILY_METRICS_JOB
    )
    tags = {
        ASSET_PARTITION_RANGE_START_TAG: first.isoformat(),
        ASSET_PARTITION_RANGE_END_TAG: last.isoformat(),
        REASON_TAG: reason.value,
    }
    unfinished = _unfinished_run(instance, tags)
    run_id = make_new_run_id()
    run = instance.create_run_for_job(
        job.get_definition(),
        run_id=run_id,
        parent_run_id=unfinished.run_id if unfinished else None,
        root_run_id=(unfinished.root_run_id or unfinished.run_id) if unfinished else None,
        run_config={
            "ops": {
                METRICS_ASSET_KEY.to_python_identifier(): {
                    "config": {"include_inactive_agents": include_inactive_agents}
                }
            },
            # The console belongs to the command; the run's log is in the instance.
            "loggers": {"console": {"config": {"log_level": "CRITICAL"}}},
        },
        tags={**tags, PROCESS_TAG: own_process(run_id)},
        job_code_origin=job.get_python_origin(),
    )
    outcome = RunOutcome(run.run_id, continued_run_id=unfinished.run_id if unfinished else None)
    for event in execute_run_iterator(job, run, instance):
        if event.event_type is dg.DagsterEventType.ASSET_MATERIALIZATION and event.partition is not None:
            day = date.fromisoformat(event.partition)
            materialization = event.step_materialization_data.materialization
            outcome.days[day] = {key: value.value for key, value in materialization.metadata.items()}
            on_day(day, outcome.days[day])
        elif event.is_step_failure:
            outcome.failure = _message(event)
        elif event.is_run_failure:
            outcome.failure = outcome.failure or event.message
            outcome.is_interrupted = event.job_failure_data.failure_reason is RunFailureReason.UNEXPECTED_TERMINATION
    return outcome


def _unfinished_run(instance: dg.DagsterInstance, tags: dict[str, str]) -> dg.DagsterRun | None:
    """The last run over the same days, if it did not succeed: the new run goes on where that one stopped."""
    last = next(iter(instance.get_runs(dg.RunsFilter(job_name=DAILY_METRICS_JOB, tags=tags), limit=1)), None)
    if last is None or not (last.status in _UNSUCCESSFUL or end_if_orphaned(instance, last)):
        return None
    return last


def _message(event: dg.DagsterEvent) -> str:
    failure = event.step_failure_data
    if failure.user_failure_data is not None and failure.user_failure_data.description is not None:
        return failure.user_failure_data.description
    # A resource that could not be made, or a transient fault whose retries ran out: ours is among the causes.
    error = failure.error
    while error is not None and error.cause is not None and not _is_ours(error):
        error = error.cause
    if error is None:
        return event.message or "The run failed."
    return (error.message.partition(": ")[2] if _is_ours(error) else error.message).strip()


def _is_ours(error: SerializableErrorInfo) -> bool:
    return error.message.startswith("metrics_pipeline.")
