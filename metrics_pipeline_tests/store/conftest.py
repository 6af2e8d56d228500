import pytest

from metrics_pipeline.postgres.database import Database
from metrics_pipeline_tests.days import Log, aggregate, store_agents, store_logs


@pytest.fixture
def aggregated(database: Database) -> Database:
    """Three agents with logs, aggregated once."""
    store_agents(database, dict.fromkeys("abc", "active"))
    store_logs(database, [Log(agent, latency_ms=10, cost_usd="0.5") for agent in "abc"])
    aggregate(database, run_id="first")
    return database
