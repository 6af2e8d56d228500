"""Which logs of each day Dagster knows of: observations of agent_execution_logs, one partition per day.

An observation has the data version of the logs as a run or a tick has read them, and is reported only when it differs
from the day's last one. So the UI tells which days were aggregated from other logs than there are now.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import dagster as dg

from metrics_pipeline.metrics.fingerprint import SourceFingerprint
from metrics_pipeline.metrics.reconciliation import DayVerdict
from metrics_pipeline.orchestration.dagster_internals import data_version_tags, reported_data_version
from metrics_pipeline.orchestration.upstream import agent_execution_logs

# A tick asks once for the observations of all its days: a question for each of 14 days took half of its processor time.
# A day has one observation, and one more for each change of its logs.
_RECORDS_AT_ONCE = 200


@dataclass(frozen=True)
class Observed:
    """The last observation of a day's logs. pointer: its id among Dagster's events."""

    data_version: str
    pointer: int


def data_version_of(logs: SourceFingerprint) -> str:
    """The same logs have the same version."""
    return hashlib.sha256(logs.to_text().encode()).hexdigest()


def last_observed(instance: dg.DagsterInstance, partition_key: str) -> Observed | None:
    """What Dagster knows of the day's logs; None if nobody has observed them."""
    return _last_observations(instance, [partition_key]).get(partition_key)


def _last_observations(instance: dg.DagsterInstance, partition_keys: Sequence[str]) -> dict[str, Observed]:
    """The last observation of each of these days that has one."""
    asked = dg.AssetRecordsFilter(asset_key=agent_execution_logs.key, asset_partitions=partition_keys)
    found = instance.fetch_observations(asked, limit=1 if len(partition_keys) == 1 else _RECORDS_AT_ONCE)
    oldest_first = reversed(found.records)
    last = {
        record.partition_key: Observed(reported_data_version(record.event_log_entry), record.storage_id)
        for record in oldest_first
        if record.partition_key is not None
    }
    if found.has_more:
        for key in set(partition_keys) - last.keys():
            last |= _last_observations(instance, [key])
    return last


def observe(instance: dg.DagsterInstance, partition_key: str, logs: SourceFingerprint) -> Observed | None:
    """Reports the logs of the day as they were read, unless Dagster knows of them, and returns what it then knows."""
    last, version = last_observed(instance, partition_key), data_version_of(logs)
    if last is not None and last.data_version == version:
        return last
    metadata = {"logs": dg.MetadataValue.int(logs.logs)}
    if last is None:
        # Without it, the UI calls the partition missing, although its logs are there.
        instance.report_runless_asset_event(
            dg.AssetMaterialization(
                agent_execution_logs.key,
                partition=partition_key,
                metadata=metadata,
                description="The logs of the day were read for the first time.",
            )
        )
    instance.report_runless_asset_event(
        dg.AssetObservation(
            agent_execution_logs.key, partition=partition_key, metadata=metadata, tags=data_version_tags(version)
        )
    )
    return last_observed(instance, partition_key)


def observe_judged_days(instance: dg.DagsterInstance, verdicts: Iterable[DayVerdict]) -> None:
    """Reports the logs of the days that a tick has judged, where Dagster knows of others.

    A day that equals its logs and that nobody has observed was stored before there were observations: it needs none.
    """
    judged = {verdict.metric_date.isoformat(): verdict for verdict in verdicts}
    last = _last_observations(instance, [*judged]) if judged else {}
    for key, verdict in judged.items():
        if verdict.logs is None or (key not in last and not verdict.state.is_fault):
            continue
        if key not in last or last[key].data_version != data_version_of(verdict.logs):
            observe(instance, key, verdict.logs)
