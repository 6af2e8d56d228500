"""Runs a job from a command: as a Dagster run on the shared instance, in this process, with its progress."""

import gc
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import date
from typing import Any
from uuid import uuid4

import dagster as dg

from metrics_pipeline.names import (
    DAILY_METRICS_JOB,
    DATA_RETENTION_JOB,
    LOCATION_MODULE,
    PARTITION_RANGE_END_TAG,
    PARTITION_RANGE_START_TAG,
    PARTITION_TAG,
    PROCESS_TAG,
    REASON_TAG,
)
from metrics_pipeline.orchestration.asset_keys import METRICS_ASSET_KEY, RETENTION_ASSET_KEY
from metrics_pipeline.orchestration.dagster_internals import is_interrupted, run_in_this_process, signals_held_back
from metrics_pipeline.orchestration.processes import end_if_orphaned, own_process
from metrics_pipeline.orchestration.reports import LEFT_OUT
from metrics_pipeline.pipeline.aggregation import AggregationOptions
from metrics_pipeline.store.publishing import Reason

_UNSUCCESSFUL = (dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED)

#: The metadata of a materialised day or of a retention run, as plain values.
Report = dict[str, Any]


@dataclass
class RunOutcome:
    """The outcome of a run: why it failed, if it did, and whether a signal ended it."""

    run_id: str
    failure: str | None = None
    is_interrupted: bool = False


@dataclass
class DaysOutcome(RunOutcome):
    """The days that a run stored, and the unfinished run over the same days that it continued, if there was one.

    left_out: the sealed days, each with a sentence that says why.
    """

    continued_run_id: str | None = None
    days: dict[date, Report] = field(default_factory=dict)
    left_out: dict[date, str] = field(default_factory=dict)


@dataclass
class RetentionOutcome(RunOutcome):
    """What a retention run did. `report` is None if it failed."""

    report: Report | None = None


# Dagster handles signals while the run executes. A signal just before would leave a run that never starts.
@signals_held_back()
def run_days(
    instance: dg.DagsterInstance,
    first: date,
    last: date,
    options: AggregationOptions,
    *,
    reason: Reason,
    on_day: Callable[[date, Report], None],
) -> DaysOutcome:
    """Runs daily_metrics_job over the days from `first` to `last` and calls `on_day` as each is stored or left out.

    The run belongs to `instance`, with its events and lineage, as if the UI had started it. SIGINT and SIGTERM end it
    as failed; the days stored before stay stored.
    """
    # As the UI tags a run: its list of runs shows the partition of a single day only with this tag.
    span = (
        {PARTITION_TAG: first.isoformat()}
        if first == last
        else {PARTITION_RANGE_START_TAG: first.isoformat(), PARTITION_RANGE_END_TAG: last.isoformat()}
    )
    tags = {**span, REASON_TAG: reason.value}
    unfinished = _unfinished_run(instance, tags)
    outcome = DaysOutcome(str(uuid4()), continued_run_id=unfinished.run_id if unfinished else None)
    for event in _execute(instance, outcome, DAILY_METRICS_JOB, METRICS_ASSET_KEY, asdict(options), tags, unfinished):
        if event.event_type is dg.DagsterEventType.ASSET_MATERIALIZATION and event.partition is not None:
            day = date.fromisoformat(event.partition)
            report = _plain_metadata(event)
            if LEFT_OUT in report:
                outcome.left_out[day] = report[LEFT_OUT]
            else:
                outcome.days[day] = report
            on_day(day, report)
    return outcome


@signals_held_back()
def run_retention(
    instance: dg.DagsterInstance, config: Mapping[str, int | None], *, on_message: Callable[[str], None]
) -> RetentionOutcome:
    """Runs data_retention_job with the given run config, as run_days does for days.

    `on_message` is called with each message that our code writes to the run's log.
    """
    outcome = RetentionOutcome(str(uuid4()))

    def pass_on(entry: dg.EventLogEntry) -> None:
        if not entry.is_dagster_event:
            on_message(entry.user_message)

    instance.add_event_listener(outcome.run_id, pass_on)
    for event in _execute(instance, outcome, DATA_RETENTION_JOB, RETENTION_ASSET_KEY, config, {}, None):
        if event.event_type is dg.DagsterEventType.ASSET_MATERIALIZATION and event.asset_key == RETENTION_ASSET_KEY:
            outcome.report = _plain_metadata(event)
    return outcome


def _execute(
    instance: dg.DagsterInstance,
    outcome: RunOutcome,
    job_name: str,
    asset_key: dg.AssetKey,
    config: Mapping[str, Any],
    tags: Mapping[str, str],
    parent: dg.DagsterRun | None,
) -> Iterator[dg.DagsterEvent]:
    """Runs the job in this process and yields its events. Records in `outcome` why it failed."""
    events = run_in_this_process(
        instance,
        LOCATION_MODULE,
        job_name,
        run_id=outcome.run_id,
        parent=parent,
        run_config={
            "ops": {asset_key.to_python_identifier(): {"config": dict(config)}},
            # The console is for the command's output; the run's log is in the instance.
            "loggers": {"console": {"config": {"log_level": "CRITICAL"}}},
        },
        tags={**tags, PROCESS_TAG: own_process(outcome.run_id)},
    )
    # Objects loaded so far stay. Each garbage collection scans them in 30 ms: 1 s of the 13 s of a year's backfill.
    gc.freeze()
    try:
        for event in events:
            if event.is_step_failure:
                # Keep the first failure. Checks run after the days and repeat the same message.
                outcome.failure = outcome.failure or _message(event)
            elif event.is_run_failure:
                outcome.failure = outcome.failure or event.message
                outcome.is_interrupted = is_interrupted(event)
            yield event
    finally:
        gc.unfreeze()


def _plain_metadata(event: dg.DagsterEvent) -> Report:
    materialization = event.step_materialization_data.materialization
    return {key: value.value for key, value in materialization.metadata.items()}


def _unfinished_run(instance: dg.DagsterInstance, tags: dict[str, str]) -> dg.DagsterRun | None:
    """The last run over the same days, if it did not succeed: the new run continues where it stopped."""
    last = next(iter(instance.get_runs(dg.RunsFilter(job_name=DAILY_METRICS_JOB, tags=tags), limit=1)), None)
    if last is None or not (last.status in _UNSUCCESSFUL or end_if_orphaned(instance, last)):
        return None
    return last


def _message(event: dg.DagsterEvent) -> str:
    failure = event.step_failure_data
    if failure.user_failure_data is not None and failure.user_failure_data.description is not None:
        return failure.user_failure_data.description
    # A resource failed, or the retries of a transient fault ran out: our error is among the causes.
    error = failure.error
    while error is not None and error.cause is not None and not _is_ours(error.message):
        error = error.cause
    if error is None:
        return event.message or "The run failed."
    return (error.message.partition(": ")[2] if _is_ours(error.message) else error.message).strip()


def _is_ours(message: str) -> bool:
    return message.startswith("metrics_pipeline.")
