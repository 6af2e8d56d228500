"""Running the daily job from a command: a Dagster run on the shared instance, in this process, followed as it goes."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date
from typing import Any

import dagster as dg
from dagster._core.definitions.reconstruct import ReconstructableRepository
from dagster._core.execution.api import execute_run_iterator
from dagster._core.storage.tags import ASSET_PARTITION_RANGE_END_TAG, ASSET_PARTITION_RANGE_START_TAG

from metrics_pipeline import errors
from metrics_pipeline.orchestration.assets import METRICS_ASSET_KEY
from metrics_pipeline.orchestration.jobs import DAILY_METRICS_JOB
from metrics_pipeline.orchestration.runs import REASON_TAG
from metrics_pipeline.storage.publishing import Reason

_OUR_ERRORS = {name for name, value in vars(errors).items() if isinstance(value, type)}

#: The metadata of a day that was materialised, as plain values.
DayReport = dict[str, Any]


@dataclass
class RunOutcome:
    """What became of a run: the days that it stored, and why it failed if it did."""

    run_id: str
    days: dict[date, DayReport] = field(default_factory=dict)
    failure: str | None = None


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

    The run belongs to `instance`, with its events and lineage, as if the UI had started it.
    """
    job = ReconstructableRepository.for_module("metrics_pipeline.definitions", "defs").get_reconstructable_job(
        DAILY_METRICS_JOB
    )
    run = instance.create_run_for_job(
        job.get_definition(),
        run_config={
            "ops": {
                METRICS_ASSET_KEY.to_python_identifier(): {
                    "config": {"include_inactive_agents": include_inactive_agents}
                }
            },
            # The console belongs to the command; the run's log is in the instance.
            "loggers": {"console": {"config": {"log_level": "CRITICAL"}}},
        },
        tags={
            ASSET_PARTITION_RANGE_START_TAG: first.isoformat(),
            ASSET_PARTITION_RANGE_END_TAG: last.isoformat(),
            REASON_TAG: reason.value,
        },
        job_code_origin=job.get_python_origin(),
    )
    outcome = RunOutcome(run.run_id)
    for event in execute_run_iterator(job, run, instance):
        if event.event_type is dg.DagsterEventType.ASSET_MATERIALIZATION and event.partition is not None:
            day = date.fromisoformat(event.partition)
            materialization = event.step_materialization_data.materialization
            outcome.days[day] = {key: value.value for key, value in materialization.metadata.items()}
            on_day(day, outcome.days[day])
        elif event.is_step_failure:
            outcome.failure = _message(event)
        elif event.is_run_failure and outcome.failure is None:
            outcome.failure = event.message
    return outcome


def _message(event: dg.DagsterEvent) -> str:
    failure = event.step_failure_data
    if failure.user_failure_data is not None and failure.user_failure_data.description is not None:
        return failure.user_failure_data.description
    # A resource that could not be made, or a transient fault whose retries ran out: ours is among the causes.
    error = failure.error
    while error is not None and error.cause is not None and error.cls_name not in _OUR_ERRORS:
        error = error.cause
    return error.message.partition(": ")[2].strip() if error is not None else (event.message or "The run failed.")
