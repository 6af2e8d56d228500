"""A running `metrics-pipeline dev` as its users see it: backfills over GraphQL, the sensor, and a killed run worker."""

import os
import signal
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import psutil
import pytest
from dagster._core.storage.tags import BACKFILL_ID_TAG

from metrics_pipeline.metrics.windows import day_window, days_between, last_complete_day
from metrics_pipeline.orchestration.instance import open_instance
from metrics_pipeline.orchestration.names import PROCESS_TAG
from metrics_pipeline.orchestration.reconciling import running_days
from metrics_pipeline.sample.agents import SampleSpec
from metrics_pipeline.sample.storing import store_sample
from metrics_pipeline.settings import Settings
from metrics_pipeline.storage.database import Database
from metrics_pipeline.storage.publishing import lock_day
from metrics_pipeline_tests.cli.conftest import Start
from metrics_pipeline_tests.cli.conftest import home as home
from metrics_pipeline_tests.cli.conftest import start as start
from metrics_pipeline_tests.cli.test_dev import Ui
from metrics_pipeline_tests.days import aggregate, execute, query, written_rows
from metrics_pipeline_tests.storage.embedded.conftest import wait_until

from .conftest import assert_equal_to_oracle, ledger

SPEC = SampleSpec(seed=8, agents=9, logs_per_day=40)
#: Far enough back for the sensor and the schedule to leave them alone, and with a change of month.
DAYS = days_between(date(2025, 6, 15), date(2025, 7, 14))
KEYS = [day.isoformat() for day in DAYS]
SEALED = DAYS[11]

_ASSET = {"path": ["agent_performance_metrics"]}
_LAUNCH = """mutation ($params: LaunchBackfillParams!) {
    launchPartitionBackfill(backfillParams: $params) { __typename ... on LaunchBackfillSuccess { backfillId } }
}"""
_BACKFILL = (
    """query ($id: String!) { partitionBackfillOrError(backfillId: $id) { ... on PartitionBackfill { status } } }"""
)
_PARTITIONS = """query ($key: AssetKeyInput!) {
    assetNodeOrError(assetKey: $key) { ... on AssetNode {
        assetPartitionStatuses { ... on TimePartitionStatuses { ranges { status startKey endKey } } }
        assetMaterializations(limit: 100) {
            partition runId timestamp metadataEntries { label ... on IntMetadataEntry { intValue } }
        }
    } }
}"""
_RUN = """query ($id: ID!) { runOrError(runId: $id) { ... on Run {
    status eventConnection { events { ... on ExecutionStepFailureEvent { failureMetadata { description } } } }
} } }"""
_TICKS = """query ($selector: SensorSelector!) { sensorOrError(sensorSelector: $selector) {
    ... on Sensor { sensorState { status ticks(limit: 10) { status runKeys skipReason runs { tags { key value } } } } }
} }"""
_SENSOR = {
    "repositoryName": "__repository__",
    "repositoryLocationName": "metrics_pipeline",
    "sensorName": "late_logs_sensor",
}


@pytest.fixture
def instance(home: Path) -> Iterator[dg.DagsterInstance]:
    with open_instance(Settings(home=home)) as instance:
        yield instance


def launch_backfill(ui: Ui) -> str:
    launched = ui.query(_LAUNCH, params={"assetSelection": [_ASSET], "partitionNames": KEYS})
    return launched["launchPartitionBackfill"]["backfillId"]


def end_of(ui: Ui, backfill_id: str) -> str:
    def status() -> str:
        return ui.query(_BACKFILL, id=backfill_id)["partitionBackfillOrError"]["status"]

    wait_until(lambda: status() not in ("REQUESTED", "FAILING", "CANCELING"), seconds=90)
    return status()


def partitions(ui: Ui) -> tuple[dict[str, str], list[dict[str, Any]]]:
    """The status of each of DAYS that has one, and the asset's materialisations, newest first."""
    node = ui.query(_PARTITIONS, key=_ASSET)["assetNodeOrError"]
    statuses = {
        day.isoformat(): span["status"]
        for span in node["assetPartitionStatuses"]["ranges"]
        for day in days_between(date.fromisoformat(span["startKey"]), date.fromisoformat(span["endKey"]))
    }
    materializations = [each for each in node["assetMaterializations"] if each["partition"] in KEYS]
    return {key: statuses[key] for key in KEYS if key in statuses}, materializations


def waits_for_the_lock(database: Database) -> bool:
    waiting = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    return bool(query(database, waiting))


def test_a_backfill_shows_each_day_as_it_ends_and_the_sensor_heals_yesterday(
    start: Start, database: Database, database_url: str
) -> None:
    yesterday = last_complete_day(datetime.now(UTC), "UTC")
    store_sample(database.engine, SPEC, [*DAYS, yesterday], "UTC", lambda *_: None)
    aggregate(database, day_window(yesterday, "UTC"))
    execute(database, """UPDATE agent_execution_logs SET cost_usd = 1 WHERE "timestamp" >= :day""", day=yesterday)
    aggregate(database, day_window(SEALED, "UTC"), run_id="long ago")
    seal = "UPDATE metric_day_ledger SET raw_pruned_at = now(), raw_pruned_logs = 40 WHERE metric_date = :day"
    execute(database, seal, day=SEALED)
    sealed_rows = f"SELECT xmin, * FROM agent_performance_metrics WHERE metric_date = '{SEALED}'"
    before = query(database, sealed_rows)

    ui = Ui(start, METRICS_DATABASE_URL=database_url)
    assert end_of(ui, launch_backfill(ui)) == "COMPLETED_FAILED"

    statuses, materializations = partitions(ui)
    assert statuses == dict.fromkeys(KEYS, "MATERIALIZED") | {SEALED.isoformat(): "FAILED"}
    assert sorted(each["partition"] for each in materializations) == [key for key in KEYS if statuses[key] != "FAILED"]
    (run_id,) = {each["runId"] for each in materializations}
    assert {day for day, by in ledger(database).items() if by == run_id} == set(DAYS) - {SEALED}
    counts = {each["partition"]: {entry["label"]: entry.get("intValue") for entry in each["metadataEntries"]}
              for each in materializations}  # fmt: skip
    assert {count["logs_read"] for count in counts.values()} == {40}
    times = [int(each["timestamp"]) for each in materializations]
    assert times == sorted(times, reverse=True)
    assert len(set(times)) > 20
    run = ui.query(_RUN, id=run_id)["runOrError"]
    assert run["status"] == "FAILURE"
    (failure,) = [event["failureMetadata"] for event in run["eventConnection"]["events"] if event]
    assert failure["description"].startswith(f"{SEALED} is sealed: 40 of its raw logs were pruned")
    assert_equal_to_oracle(database, *DAYS)
    assert query(database, sealed_rows) == before

    wait_until(lambda: query(database, "SELECT 1 FROM metric_restatements"))
    assert_equal_to_oracle(database, yesterday)
    assert set(query(database, "SELECT metric_date, reason FROM metric_restatements")) == {(yesterday, "late logs")}
    state = ui.query(_TICKS, selector=_SENSOR)["sensorOrError"]["sensorState"]
    assert state["status"] == "RUNNING"
    (tick,) = [tick for tick in state["ticks"] if tick["runKeys"]]
    assert [key.partition("@")[0] for key in tick["runKeys"]] == [yesterday.isoformat()]


def test_a_backfill_whose_worker_is_killed_goes_on_where_it_stopped(
    start: Start, database: Database, database_url: str, instance: dg.DagsterInstance
) -> None:
    store_sample(database.engine, SPEC, DAYS, "UTC", lambda *_: None)
    ui = Ui(start, METRICS_DATABASE_URL=database_url)
    with database.engine.connect() as connection:
        lock_day(connection, day_window(DAYS[9], "UTC"))
        backfill_id = launch_backfill(ui)
        wait_until(lambda: waits_for_the_lock(database))
        (killed,) = instance.get_runs(dg.RunsFilter(tags={BACKFILL_ID_TAG: backfill_id}))
        worker = psutil.Process(int(killed.tags[PROCESS_TAG].split("/")[2]))
        os.kill(worker.pid, signal.SIGKILL)
        psutil.wait_procs([worker], timeout=10)
    wait_until(lambda: not waits_for_the_lock(database))
    assert list(ledger(database)) == DAYS[:9]
    assert partitions(ui)[0].keys() >= set(KEYS[:9])
    stored = written_rows(database)

    # Dagster notices within half a minute that the worker is gone; whoever looks at the days does so at once.
    wait_until(lambda: running_days(instance).isdisjoint(DAYS[:9]) or not instance.get_run_by_id(killed.run_id))
    assert instance.get_run_by_id(killed.run_id).status is dg.DagsterRunStatus.FAILURE
    assert end_of(ui, backfill_id) == "COMPLETED_SUCCESS"

    statuses, materializations = partitions(ui)
    assert statuses == dict.fromkeys(KEYS, "MATERIALIZED")
    assert sorted(each["partition"] for each in materializations) == KEYS
    (retried,) = instance.get_runs(dg.RunsFilter(tags={"dagster/parent_run_id": killed.run_id}))
    by_run = [killed.run_id] * 9 + [retried.run_id] * (len(DAYS) - 9)
    assert list(ledger(database).values()) == by_run
    assert written_rows(database)["metric_day_ledger"][:9] == stored["metric_day_ledger"]
    assert_equal_to_oracle(database, *DAYS)
