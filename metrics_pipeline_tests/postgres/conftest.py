"""A database that has none of our tables."""

import pytest

from metrics_pipeline.postgres.database import Database
from metrics_pipeline.postgres.urls import DatabaseUrl


@pytest.fixture
def empty(bare_database_url: str) -> Database:
    return Database(DatabaseUrl.parse(bare_database_url))
