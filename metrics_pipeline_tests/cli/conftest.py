"""What the commands find in their database."""

import pytest

from metrics_pipeline.postgres.database import Database
from metrics_pipeline_tests.orchestration.runs import store_logs_of_days


@pytest.fixture
def logs(database: Database) -> None:
    """The logs of orchestration.runs.DAYS, and their agents."""
    store_logs_of_days(database)
