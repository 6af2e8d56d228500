"""The private names of Dagster that we use. No other module imports one; each says what breaks if it changes.

setup.cfg keeps dagster below its next minor version, and test_dagster_internals.py exercises what we rely on. Anything
with a public API does not belong here.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import dagster as dg
from dagster._core.definitions.data_version import (
    CODE_VERSION_TAG,
    DATA_VERSION_IS_USER_PROVIDED_TAG,
    DATA_VERSION_TAG,
    DEFAULT_DATA_VERSION,
    NULL_EVENT_POINTER,
    extract_data_version_from_entry,
    get_input_data_version_tag,
    get_input_event_pointer_tag,
)
from dagster._core.definitions.reconstruct import ReconstructableRepository
from dagster._core.definitions.source_asset import SYSTEM_METADATA_KEY_SOURCE_ASSET_OBSERVATION
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition
from dagster._core.errors import DagsterUserCodeUnreachableError
from dagster._core.events import RunFailureReason
from dagster._core.execution.api import execute_run_iterator
from dagster._core.launcher import CheckRunHealthResult, WorkerStatus
from dagster._core.remote_origin import RegisteredCodeLocationOrigin, RemoteJobOrigin, RemoteRepositoryOrigin
from dagster._core.storage.partition_status_cache import AssetPartitionStatus
from dagster._grpc.types import CanCancelExecutionRequest, CanCancelExecutionResult
from dagster._serdes import ConfigurableClassData
from dagster._utils.interrupts import capture_interrupts
from dagster_shared.libraries import DagsterLibraryRegistry
from sqlalchemy import Engine

from metrics_pipeline import __version__
from metrics_pipeline.names import LOCATION, REPOSITORY

if TYPE_CHECKING:
    from dagster_postgres import DagsterPostgresStorage
    from dagster_postgres.event_log import PostgresEventLogStorage
    from dagster_postgres.run_storage import PostgresRunStorage
    from dagster_postgres.schedule_storage import PostgresScheduleStorage

# The page of the code location lists our version beside Dagster's. If it moves, the code location does not load.
DagsterLibraryRegistry.register("metrics-pipeline", __version__, is_dagster_package=False)

# What dg.define_asset_job returns. If it moves, the code location does not load.
AssetJob = UnresolvedAssetJobDefinition

# What a storage is configured with. If it moves, no command and no `dev` can open the embedded instance.
StorageConfiguration = ConfigurableClassData

# Run monitoring ends a run for any other answer. If this one changes its meaning, monitoring ends every run.
RunHealth = CheckRunHealthResult
HEALTHY = CheckRunHealthResult(WorkerStatus.RUNNING)

# Holds signals back until a run has begun. Without it, a signal just before leaves a run that never starts.
signals_held_back = capture_interrupts


def unhealthy(reason: str) -> RunHealth:
    """The answer to run monitoring that ends a run as failed, with the reason in its log."""
    # If it changes its meaning, the run of a killed process stays "started" forever and blocks its days.
    return CheckRunHealthResult(WorkerStatus.FAILED, reason)


def silent_output() -> dg.Output[None]:
    """The output of an asset that has reported its own events: Dagster reports nothing for it, and checks may begin."""
    # If the mark is ignored, a run shows each of its partitions as materialised, without the metadata of the day.
    return dg.Output(None, metadata={SYSTEM_METADATA_KEY_SOURCE_ASSET_OBSERVATION: True})


def version_tags(
    data_version: str, code_version: str, observed: Mapping[dg.AssetKey, tuple[str, int] | None]
) -> dict[str, str]:
    """The tags of a materialisation. observed: the data version of each upstream asset, and the id of its event.

    None for an asset that reports no events.
    """
    # If these change, the UI cannot tell which days were computed from other logs or by an older definition, or calls
    # every day unsynced.
    tags = {**data_version_tags(data_version), CODE_VERSION_TAG: code_version}
    for key, version in observed.items():
        tags[get_input_data_version_tag(key)] = version[0] if version else DEFAULT_DATA_VERSION.value
        tags[get_input_event_pointer_tag(key)] = str(version[1]) if version else NULL_EVENT_POINTER
    return tags


def data_version_tags(data_version: str) -> dict[str, str]:
    """The tags of an event that give what it is about this data version."""
    return {DATA_VERSION_TAG: data_version, DATA_VERSION_IS_USER_PROVIDED_TAG: "true"}


def reported_data_version(event: dg.EventLogEntry) -> str:
    """The data version of an observation or a materialisation; empty if it has none."""
    # If it changes, each tick observes the same logs again.
    version = extract_data_version_from_entry(event)
    return version.value if version is not None else ""


def unmaterialized_partitions(
    instance: dg.DagsterInstance,
    asset_key: dg.AssetKey,
    partition_keys: Sequence[str],
    partitions: dg.PartitionsDefinition[str],
) -> list[str]:
    """Those of `partition_keys` that Dagster shows as failed or missing. A partition in progress is not one of them."""
    # If it changes, ticks fail. The public get_materialized_partitions does not tell which partitions failed later.
    status = instance.get_status_by_partition(asset_key, partition_keys, partitions) or {}
    green = (AssetPartitionStatus.MATERIALIZED, AssetPartitionStatus.IN_PROGRESS)
    return [key for key in partition_keys if status.get(key) not in green]


def run_in_this_process(
    instance: dg.DagsterInstance,
    module: str,
    job_name: str,
    *,
    run_id: str,
    parent: dg.DagsterRun | None,
    run_config: Mapping[str, Any],
    tags: Mapping[str, str],
) -> Iterator[dg.DagsterEvent]:
    """Creates a run of a job of `defs` in `module`. It executes as its events are consumed.

    JobDefinition.execute_in_process takes no parent run, and a run without its parent repeats the days that are done.
    """
    # If these change, `aggregate`, `backfill`, `retention` and `demo` fail before anything is written.
    job = ReconstructableRepository.for_module(module, "defs").get_reconstructable_job(job_name)
    run = instance.create_run_for_job(
        job.get_definition(),
        run_id=run_id,
        parent_run_id=parent.run_id if parent else None,
        root_run_id=(parent.root_run_id or parent.run_id) if parent else None,
        run_config=run_config,
        tags=tags,
        # Without it, the pages of the job and the timeline do not show the run, and the daemon cannot repeat it.
        remote_job_origin=RemoteJobOrigin(
            RemoteRepositoryOrigin(RegisteredCodeLocationOrigin(LOCATION), REPOSITORY), job_name
        ),
        job_code_origin=job.get_python_origin(),
    )
    return execute_run_iterator(job, run, instance)


def is_interrupted(run_failure: dg.DagsterEvent) -> bool:
    """Whether a signal ended the run that the event says has failed."""
    # If it changes, a command that a signal ended reports a failure instead.
    return run_failure.job_failure_data.failure_reason is RunFailureReason.UNEXPECTED_TERMINATION


def quieten_first_start() -> None:
    """Drops what the daemon warns of in a new instance: that it has not read its events so far."""
    # If the name or the text changes, two warnings appear at the first start of `dev`.
    logging.getLogger("dagster.daemon.EventLogConsumerDaemon").addFilter(_is_no_first_start)


def _is_no_first_start(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith("No cursor for event type ")


def use_engine(storage: "DagsterPostgresStorage", engine: Engine) -> None:
    """Makes all parts of the storage take their connections from `engine`."""
    # If the attribute is renamed, Dagster connects again for each statement: a year's backfill takes 4 s longer.
    cast("PostgresRunStorage", storage.run_storage)._engine = engine
    cast("PostgresEventLogStorage", storage.event_log_storage)._engine = engine
    cast("PostgresScheduleStorage", storage.schedule_storage)._engine = engine


def instance_of(launcher: dg.DefaultRunLauncher) -> dg.DagsterInstance:
    """The instance that the launcher belongs to."""
    # If it changes, run monitoring cannot check runs that were killed before they recorded their process.
    return launcher._instance


def is_unknown_to_its_code_server(launcher: dg.DefaultRunLauncher, run: dg.DagsterRun) -> bool:
    """Whether the code server that was told to start the run answers that it does not know the run."""
    # If these change, run monitoring fails for each run that has not yet recorded its process.
    client = launcher._get_grpc_client_for_termination(run.run_id)  # type: ignore[no-untyped-call]
    if client is None:
        return False
    try:
        answer = client.can_cancel_execution(CanCancelExecutionRequest(run_id=run.run_id))
    except DagsterUserCodeUnreachableError:
        # It may be about to start. Monitoring asks again in half a minute.
        return False
    return not dg.deserialize_value(answer, CanCancelExecutionResult).can_cancel
