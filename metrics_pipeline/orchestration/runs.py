"""What a run has to do: which of its days are still open, and why it was started."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import dagster as dg

from metrics_pipeline.errors import PermanentError
from metrics_pipeline.logs.source import LogSource
from metrics_pipeline.metrics.dimensions import Dimension
from metrics_pipeline.metrics.reconciliation import DayState, LedgerRow, why_closed
from metrics_pipeline.metrics.windows import DayWindow
from metrics_pipeline.names import BACKFILL_TAG, REASON_TAG
from metrics_pipeline.orchestration.partitions import window_of
from metrics_pipeline.pipeline.reconciling import finished_days, other_dimensions
from metrics_pipeline.postgres.database import Database
from metrics_pipeline.store.ledger import ledger_rows
from metrics_pipeline.store.publishing import Reason


@dataclass(frozen=True)
class Work:
    """The partitions of a run that are not done, by key: the open ones, and the sealed ones with their reasons."""

    to_aggregate: Mapping[str, DayWindow]
    sealed: Mapping[str, tuple[LedgerRow, str]]


def reason_for(run_tags: Mapping[str, str]) -> Reason:
    """Why the run replaces stored values: its reason tag, else BACKFILL if it has a backfill tag, else MANUAL.

    Raises PermanentError for a tag with an unknown reason, because anybody can type one into the launchpad.
    """
    if REASON_TAG in run_tags:
        try:
            return Reason(run_tags[REASON_TAG])
        except ValueError as error:
            raise PermanentError(
                f"The tag {REASON_TAG} is {run_tags[REASON_TAG]!r}, which is not one of {', '.join(Reason)}. "
                "Start the run without it."
            ) from error
    return Reason.BACKFILL if BACKFILL_TAG in run_tags else Reason.MANUAL


def work_of(
    context: dg.AssetExecutionContext,
    database: Database,
    logs: LogSource,
    partitions: dg.TimeWindowPartitionsDefinition,
    *,
    renewed: Sequence[Dimension] | None = None,
) -> Work:
    """What the run has to do: with `renewed`, METRICS_DIMENSIONS, only stored days that have other dimensions.

    A partition is done if this run, or an unsuccessful one that it repeats, materialised it, and it is sealed or still
    equals its logs. So a retried step and a run that is repeated after a crash continue where they stopped.
    """
    windows = {key: window_of(partitions, key) for key in context.partition_keys}
    days = sorted(window.metric_date for window in windows.values())
    materialised = _materialised(context.instance, context.run) & set(windows)
    with database.snapshot() as snapshot:
        done = finished_days(snapshot, logs, [windows[key] for key in sorted(materialised)])
        stored = ledger_rows(snapshot, days[0], days[-1])
    wanted = (
        {window.metric_date for window in windows.values()} if renewed is None else other_dimensions(stored, renewed)
    )
    to_aggregate = {key: window for key, window in windows.items() if window.metric_date in wanted - done}
    sealed = {}
    for key, window in list(to_aggregate.items()):
        row = stored.get(window.metric_date)
        closed = why_closed(row, window.time_zone) if row is not None else None
        if row is not None and closed is not None and closed.state is DayState.SEALED:
            sealed[key] = row, closed.reason
            del to_aggregate[key]
    return Work(to_aggregate, sealed)


def _materialised(instance: dg.DagsterInstance, run: dg.DagsterRun) -> set[str]:
    entries = instance.all_logs(run.run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION)
    done = {
        entry.dagster_event.partition
        for entry in entries
        if entry.dagster_event is not None and entry.dagster_event.partition is not None
    }
    parent = instance.get_run_by_id(run.parent_run_id) if run.parent_run_id else None
    # With another run config (other agents) the parent's days do not count as done.
    if parent is not None and parent.status is not dg.DagsterRunStatus.SUCCESS and parent.run_config == run.run_config:
        done |= _materialised(instance, parent)
    return done
