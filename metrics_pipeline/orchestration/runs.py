"""What a run has to do: which of its days are still open, and why it was started."""

from collections.abc import Mapping
from datetime import date

import dagster as dg

from metrics_pipeline.errors import PermanentError
from metrics_pipeline.logs.source import LogSource
from metrics_pipeline.metrics.windows import DayWindow
from metrics_pipeline.names import BACKFILL_TAG, REASON_TAG
from metrics_pipeline.orchestration.partitions import window_of
from metrics_pipeline.pipeline.reconciling import finished_days
from metrics_pipeline.postgres.database import Database
from metrics_pipeline.store.publishing import Reason


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


def partitions_to_do(
    context: dg.AssetExecutionContext,
    database: Database,
    logs: LogSource,
    partitions: dg.TimeWindowPartitionsDefinition,
) -> list[str]:
    """The run's partitions that are not done.

    A partition is done if this run, or an unsuccessful one that it repeats, materialised it, and it is sealed or still
    equals its logs. So a retried step and a run that is repeated after a crash continue where they stopped.
    """
    materialised = _materialised(context.instance, context.run) & set(context.partition_keys)
    windows = {key: window_of(partitions, key) for key in context.partition_keys}
    done = _finished(database, logs, [windows[key] for key in sorted(materialised)])
    return [key for key, window in windows.items() if window.metric_date not in done]


def _finished(database: Database, logs: LogSource, windows: list[DayWindow]) -> set[date]:
    if not windows:
        return set()
    with database.snapshot() as snapshot:
        return finished_days(snapshot, logs, windows)


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
