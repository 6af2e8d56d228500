"""What the UI says of a day whose logs have changed since it was aggregated, and that nothing is reported twice."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.definitions.data_version import CachingStaleStatusResolver, StaleStatus
from dagster._core.loader import LoadingContextForTest

from metrics_pipeline.definitions import build_defs
from metrics_pipeline.names import PARTITION_RANGE_END_TAG, PARTITION_RANGE_START_TAG
from metrics_pipeline.orchestration import observations
from metrics_pipeline.orchestration.asset_keys import METRICS_ASSET_KEY
from metrics_pipeline.postgres.database import Database
from metrics_pipeline_tests.days import DAY, Log, execute, store_agents, store_logs

from .nights import Nights, asked

LOGS = dg.AssetKey("agent_execution_logs")
SECOND = DAY + timedelta(days=1)
NOON = "2025-03-06T12:00:00+00:00"
LATE = """INSERT INTO agent_execution_logs (agent_id, "timestamp", status, latency_ms)
          VALUES ('a', '2025-03-04 23:00Z', 'success', 7)"""


@pytest.fixture
def nights(database: Database, tmp_path: Path) -> Iterator[Nights]:
    """Two days of one agent, aggregated by a run."""
    store_agents(database, {"a": "active"})
    store_logs(database, [Log("a")])
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        nights = Nights(database, instance, {"start_date": DAY})
        span = {PARTITION_RANGE_START_TAG: DAY.isoformat(), PARTITION_RANGE_END_TAG: SECOND.isoformat()}
        assert nights.launch(dg.RunRequest(tags=span))[0].success
        yield nights


def upstream_changed(nights: Nights) -> dict[str, list[str]]:
    """The days that the UI marks, with the assets that it names as the cause."""
    graph = build_defs(**nights.settings).resolve_asset_graph()
    resolver = CachingStaleStatusResolver(nights.instance, graph, LoadingContextForTest(nights.instance))
    stale = [str(day) for day in (DAY, SECOND) if resolver.get_status(METRICS_ASSET_KEY, str(day)) is StaleStatus.STALE]
    causes = {day: resolver.get_stale_root_causes(METRICS_ASSET_KEY, day) for day in stale}
    return {day: [cause.asset_key.to_user_string() for cause in found] for day, found in causes.items()}


def observed(nights: Nights) -> list[str | None]:
    return [
        record.event_log_entry.asset_observation.partition
        for record in reversed(nights.instance.fetch_observations(LOGS, limit=100).records)
    ]


def test_a_day_with_late_logs_is_marked_from_the_tick_that_finds_them_until_it_is_aggregated_again(
    nights: Nights,
) -> None:
    nights.sensor(NOON)
    assert upstream_changed(nights) == {}
    assert observed(nights) == [str(DAY), str(SECOND)]
    assert nights.instance.get_materialized_partitions(LOGS) == {str(DAY), str(SECOND)}

    execute(nights.database, LATE)
    tick = nights.sensor(NOON)
    nights.sensor(NOON)
    assert asked(tick) == [str(DAY)]
    assert upstream_changed(nights) == {str(DAY): ["agent_execution_logs"]}
    assert observed(nights) == [str(DAY), str(SECOND), str(DAY)]

    assert nights.launch(*tick.run_requests)[0].success
    nights.sensor(NOON)
    assert upstream_changed(nights) == {}
    assert observed(nights) == [str(DAY), str(SECOND), str(DAY)]


@pytest.mark.parametrize("records_at_once", [200, 1])
def test_a_day_that_lost_logs_is_marked_until_they_are_back(
    nights: Nights, monkeypatch: pytest.MonkeyPatch, records_at_once: int
) -> None:
    """Also if another day was observed since, and this one's observation is not among those that are asked for."""
    monkeypatch.setattr(observations, "_RECORDS_AT_ONCE", records_at_once)
    execute(nights.database, "CREATE TABLE gone AS SELECT * FROM agent_execution_logs")
    execute(nights.database, "DELETE FROM agent_execution_logs")
    assert asked(nights.sensor(NOON)) == []
    assert upstream_changed(nights) == {str(DAY): ["agent_execution_logs"]}
    execute(nights.database, LATE.replace(str(DAY), str(SECOND)))
    assert asked(nights.sensor(NOON)) == [str(SECOND)]
    execute(nights.database, "INSERT INTO agent_execution_logs SELECT * FROM gone")
    nights.sensor(NOON)
    assert upstream_changed(nights) == {str(SECOND): ["agent_execution_logs"]}
    assert observed(nights) == [str(DAY), str(SECOND), str(DAY), str(SECOND), str(DAY)]


def test_days_that_were_stored_before_there_were_observations_are_not_marked_and_not_observed(
    database: Database, tmp_path: Path
) -> None:
    store_agents(database, {"a": "active"})
    store_logs(database, [Log("a")])
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        nights = Nights(database, instance, {"start_date": DAY})
        nights.store(DAY, SECOND)
        nights.sensor(NOON)
        assert observed(nights) == []
        assert upstream_changed(nights) == {}
