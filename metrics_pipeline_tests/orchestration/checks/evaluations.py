"""Checks evaluated by Dagster: a job of the one check, at a given time."""

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import dagster as dg

from metrics_pipeline.orchestration.checks.assembly import build_checks
from metrics_pipeline.orchestration.jobs import build_daily_checks_job
from metrics_pipeline.postgres.database import Database
from metrics_pipeline.settings import Settings
from metrics_pipeline_tests.days import NOON, WINDOW

#: Noon of the day after DAY, of which both are then due.
TOMORROW = NOON + (WINDOW.end - WINDOW.start)

Evaluate = Callable[..., dg.AssetCheckEvaluation]


def check_runner(database: Database, instance: dg.DagsterInstance) -> Callable[..., dg.ExecuteInProcessResult]:
    """Runs the check of that name when the clock shows `now`, with settings other than the defaults."""

    def execute(name: str, *, now: datetime = TOMORROW, **settings: Any) -> dg.ExecuteInProcessResult:
        checks = build_checks(Settings(Path("/nowhere"), **settings), now=lambda: now)
        (check,) = [check for check in checks if [key.name for key in check.check_keys] == [name]]
        job = build_daily_checks_job([check])
        defs = dg.Definitions(asset_checks=[check], jobs=[job], resources={"database": database})
        return defs.resolve_job_def(job.name).execute_in_process(instance=instance, raise_on_error=False)

    return execute


def values(evaluation: dg.AssetCheckEvaluation) -> dict[str, Any]:
    """The metadata as plain values."""
    return {name: value.value for name, value in evaluation.metadata.items()}
