"""Checks evaluated by Dagster, on an instance and a database of the test's."""

from collections.abc import Callable
from typing import Any

import dagster as dg
import pytest

from metrics_pipeline.postgres.database import Database

from .evaluations import Evaluate, check_runner


@pytest.fixture
def run_check(database: Database, instance: dg.DagsterInstance) -> Callable[..., dg.ExecuteInProcessResult]:
    """Runs the check of that name when the clock shows `now`, with settings other than the defaults."""
    return check_runner(database, instance)


@pytest.fixture
def evaluate(run_check: Callable[..., dg.ExecuteInProcessResult]) -> Evaluate:
    """The verdict of the check of that name."""

    def verdict(name: str, **arguments: Any) -> dg.AssetCheckEvaluation:
        result = run_check(name, **arguments)
        assert result.success
        (evaluation,) = result.get_asset_check_evaluations()
        return evaluation

    return verdict
