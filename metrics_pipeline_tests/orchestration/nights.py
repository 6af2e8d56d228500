"""A code location, its Dagster instance and its database under the test's clock: ticks, and the runs they ask for."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from pathlib import Path
from typing import Any

import dagster as dg
from dagster._core.definitions.schedule_definition import ScheduleExecutionData
from dagster._core.definitions.sensor_definition import SensorExecutionData
from dagster._core.remote_origin import RegisteredCodeLocationOrigin, RemoteJobOrigin, RemoteRepositoryOrigin

from metrics_pipeline.metrics.windows import day_window, days_between
from metrics_pipeline.orchestration.asset_keys import METRICS_ASSET_KEY
from metrics_pipeline.orchestration.sensors import build_late_logs_sensor
from metrics_pipeline.postgres.database import Database
from metrics_pipeline.settings import Settings
from metrics_pipeline_tests.days import aggregate

from .runs import definitions

JOB = "daily_metrics_job"


@dataclass
class Nights:
    """Evaluates schedule and sensor as the code server does, and runs what they ask for in this process.

    The instance is on disk, because each tick opens it again. `settings` override those of an empty environment.
    """

    database: Database
    instance: dg.DagsterInstance
    settings: dict[str, Any] = field(default_factory=dict)

    def schedule(self, at: str) -> ScheduleExecutionData:
        """The tick of the nightly schedule at an ISO time."""
        defs = definitions(**self.settings)
        with dg.build_schedule_context(
            self.instance,
            scheduled_execution_time=datetime.fromisoformat(at),
            resources={"database": self.database},
            repository_def=defs.get_repository_def(),
        ) as context:
            return defs.resolve_schedule_def("daily_metrics_schedule").evaluate_tick(context)

    def sensor(self, at: str) -> SensorExecutionData:
        """A tick of late_logs_sensor when the clock shows an ISO time."""
        defs = definitions(**self.settings)
        sensor = build_late_logs_sensor(
            defs.resolve_job_def(JOB),
            Settings(Path("/nowhere"), **self.settings),
            now=lambda: datetime.fromisoformat(at),
        )
        with dg.build_sensor_context(
            self.instance, resources={"database": self.database}, repository_def=defs.get_repository_def()
        ) as context:
            return sensor.evaluate_tick(context)

    def store(self, *days: date) -> None:
        """Aggregates the days and has Dagster show their partitions as materialised, as a run does."""
        for day in days:
            aggregate(self.database, day_window(day, "UTC"), run_id="nightly")
            self.show(day)

    def show(self, *days: date) -> None:
        """Has Dagster show the partitions of the days as materialised."""
        for day in days:
            self.instance.report_runless_asset_event(
                dg.AssetMaterialization(METRICS_ASSET_KEY, partition=day.isoformat())
            )

    def launch(self, *requests: dg.RunRequest) -> list[dg.ExecuteInProcessResult]:
        """Runs what a tick asked for, one after the other, as the daemon would."""
        defs = definitions(**self.settings)
        return [
            defs.resolve_job_def(JOB).execute_in_process(
                instance=self.instance,
                resources={"database": self.database},
                partition_key=request.partition_key,
                tags=dict(request.tags),
                raise_on_error=False,
            )
            for request in requests
        ]


def waiting_run(
    instance: dg.DagsterInstance,
    status: dg.DagsterRunStatus,
    tags: Mapping[str, str],
    parent: dg.DagsterRun | None = None,
) -> dg.DagsterRun:
    """A run of the daily job in any status, without a process that works on it."""
    location = RegisteredCodeLocationOrigin("metrics_pipeline")
    return instance.create_run_for_job(
        definitions().resolve_job_def(JOB),
        status=status,
        tags=tags,
        parent_run_id=parent and parent.run_id,
        root_run_id=parent and parent.run_id,
        remote_job_origin=RemoteJobOrigin(RemoteRepositoryOrigin(location, "__repository__"), JOB),
    )


def asked(tick: ScheduleExecutionData | SensorExecutionData) -> list[str]:
    """The days that a tick asks for, also those of a range."""
    return [day.isoformat() for request in tick.run_requests for day in days_of(request)]


def days_of(request: dg.RunRequest) -> list[date]:
    """The days of one run."""
    span = request.partition_key_range
    first, last = (span.start, span.end) if span else (request.partition_key, request.partition_key)
    return days_between(date.fromisoformat(first), date.fromisoformat(last))
