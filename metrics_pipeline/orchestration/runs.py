"""What a run has to do: which of its days are still open, and why it was started."""

from collections.abc import Mapping

import dagster as dg
from dagster._core.storage.tags import BACKFILL_ID_TAG

from metrics_pipeline.storage.publishing import Reason

#: Set by whoever starts a run for a reason that Dagster's own tags do not tell.
REASON_TAG = "metrics_pipeline/reason"
#: The state of the day that a run was asked for because of (DayVerdict.fingerprint).
DAY_STATE_TAG = "metrics_pipeline/day_state"
#: Set on a run that failed with a PermanentError: asking again for the same state of the day would fail again.
FAILED_PERMANENTLY_TAG = "metrics_pipeline/failed_permanently"


def reason_for(run_tags: Mapping[str, str]) -> Reason:
    """Why the run replaces stored values: what its starter said, else a backfill's tag, else somebody by hand."""
    if REASON_TAG in run_tags:
        return Reason(run_tags[REASON_TAG])
    return Reason.BACKFILL if BACKFILL_ID_TAG in run_tags else Reason.MANUAL


def partitions_to_do(context: dg.AssetExecutionContext) -> list[str]:
    """The run's partitions without those that this run, or an unsuccessful run that it repeats, has materialised.

    A step that is tried again after a lost connection, and a run that is started anew after a crash, thus go on
    where they stopped.
    """
    done = _materialised(context, context.run)
    return [key for key in context.partition_keys if key not in done]


def _materialised(context: dg.AssetExecutionContext, run: dg.DagsterRun) -> set[str]:
    entries = context.instance.all_logs(run.run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION)
    done = {
        entry.dagster_event.partition
        for entry in entries
        if entry.dagster_event is not None and entry.dagster_event.partition is not None
    }
    parent = context.instance.get_run_by_id(run.parent_run_id) if run.parent_run_id else None
    if parent is not None and parent.status is not dg.DagsterRunStatus.SUCCESS:
        done |= _materialised(context, parent)
    return done
