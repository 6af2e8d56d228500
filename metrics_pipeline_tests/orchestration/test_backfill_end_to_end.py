"""A running `metrics-pipeline dev` as its users see it: the daemon's ticks, backfills over GraphQL, a killed worker."""

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import psutil
import pytest
from dagster._core.storage.tags import PARENT_RUN_ID_TAG

from metrics_pipeline.log_files.sample_logs import store_sample
from metrics_pipeline.metrics.windows import day_window, days_between, last_complete_day
from metrics_pipeline.names import PROCESS_TAG
from metrics_pipeline.orchestration.instance import open_instance
from metrics_pipeline.postgres.database import Database
from metrics_pipeline.sample.agents import SampleSpec
from metrics_pipeline.settings import Settings
from metrics_pipeline.store.publishing import lock_day
from metrics_pipeline_tests.cli.ui import (
    REPOSITORY,
    Ui,
    days_of,
    first_tick,
    launch_backfill,
    note_that_the_daemon_was_down,
    running_ui,
)
from metrics_pipeline_tests.days import Log, aggregate, execute, query, store_logs

from .runs import assert_equal_to_oracle, ledger

# The last tick of the nightly schedule before now asks for the last of these days. When the next one comes in the
# middle of the test, it asks for the day after them, of which nothing is said here.
NEWEST = last_complete_day(datetime.now(UTC) - timedelta(hours=2), "UTC")
EARLIER = days_between(NEWEST - timedelta(days=11), NEWEST - timedelta(days=8))
DAYS = days_between(NEWEST - timedelta(days=7), NEWEST)
FIRST, LATE, _, SEALED, STORED, OUTDATED, MISSED, CORRECTED = DAYS

_ASSET = {"path": ["agent_performance_metrics"]}
_RUNS = """query ($filter: RunsFilter) { runsOrError(filter: $filter) { ... on Runs { results {
    id status tags { key value }
    eventConnection { events { ... on ExecutionStepFailureEvent { failureMetadata { description } } } }
} } } }"""
_BACKFILL = (
    """query ($id: String!) { partitionBackfillOrError(backfillId: $id) { ... on PartitionBackfill { status } } }"""
)
_PARTITIONS = """query ($key: AssetKeyInput!) { assetNodeOrError(assetKey: $key) { ... on AssetNode {
    assetPartitionStatuses { ... on TimePartitionStatuses { ranges { status startKey endKey } } }
    assetMaterializations(limit: 100) {
        partition runId timestamp metadataEntries { label ... on IntMetadataEntry { intValue } }
    }
} } }"""


@pytest.fixture
def instance(home: Path) -> Iterator[dg.DagsterInstance]:
    with open_instance(Settings(home=home)) as instance:
        yield instance


def keys(*days: date) -> list[str]:
    return [day.isoformat() for day in days]


def store_days(database: Database) -> None:
    """Logs of EARLIER and DAYS, of each of DAYS a different number, and what was stored of some of DAYS long ago."""
    spec = SampleSpec(seed=8, agents=9, logs_per_day=40)
    store_sample(database, spec, [*EARLIER, *DAYS], "UTC", lambda *_: None)
    ((agent,),) = query(database, "SELECT min(id) FROM agent_registry WHERE status = 'active'")

    def store_more_logs(day: date, count: int) -> None:
        moment = day_window(day, "UTC").start + timedelta(hours=7)
        store_logs(database, [Log(agent, "success", 11, 13, "0.000000017", timestamp=moment)] * count)

    for number, day in enumerate(DAYS):
        store_more_logs(day, number)
    for day in (LATE, SEALED, STORED, OUTDATED, CORRECTED):
        aggregate(database, day_window(day, "UTC"), run_id="long ago")
    store_more_logs(LATE, 1)
    execute(
        database,
        "UPDATE metric_day_ledger SET raw_pruned_at = now(), raw_pruned_logs = 40 WHERE metric_date = :day",
        day=SEALED,
    )
    execute(
        database,
        "UPDATE metric_day_ledger SET definition_version = '0' WHERE metric_date = :day",
        "UPDATE agent_performance_metrics SET total_tokens = total_tokens + 1 WHERE metric_date = :day",
        day=OUTDATED,
    )
    execute(
        database,
        """UPDATE agent_execution_logs SET cost_usd = 0.5 WHERE "timestamp" >= :day AND cost_usd IS NOT NULL""",
        day=CORRECTED,
    )


def runs(ui: Ui, **tags: str) -> list[dict[str, Any]]:
    """The runs with these tags, newest first."""
    wanted = [{"key": key, "value": value} for key, value in tags.items()]
    return ui.query(_RUNS, filter={"tags": wanted})["runsOrError"]["results"]


def ended_runs(ui: Ui, **tags: str) -> list[dict[str, Any]]:
    return ui.wait_for(
        lambda: runs(ui, **tags),
        lambda found: found and all(run["status"] in ("SUCCESS", "FAILURE") for run in found),
    )


def end_of(ui: Ui, backfill_id: str) -> str:
    return ui.wait_for(
        lambda: ui.query(_BACKFILL, id=backfill_id)["partitionBackfillOrError"]["status"],
        lambda status: status not in ("REQUESTED", "FAILING", "CANCELING"),
    )


def failures(run: dict[str, Any]) -> list[str]:
    return [event["failureMetadata"]["description"] for event in run["eventConnection"]["events"] if event]


def statuses(ui: Ui, days: list[date]) -> dict[str, str]:
    """The status of each of the days that has one."""
    node = ui.query(_PARTITIONS, key=_ASSET)["assetNodeOrError"]
    return {
        day.isoformat(): span["status"]
        for span in node["assetPartitionStatuses"]["ranges"]
        for day in days_between(date.fromisoformat(span["startKey"]), date.fromisoformat(span["endKey"]))
        if day in days
    }


def materializations(ui: Ui, *run_ids: str) -> list[dict[str, Any]]:
    """What the runs materialised, in that order, with its integers by their labels."""
    found = ui.query(_PARTITIONS, key=_ASSET)["assetNodeOrError"]["assetMaterializations"]
    for each in found:
        each["counts"] = {entry["label"]: entry.get("intValue") for entry in each["metadataEntries"]}
    return [each for each in reversed(found) if each["runId"] in run_ids]


def restatements(database: Database) -> set[tuple[date, str]]:
    return set(query(database, "SELECT metric_date, reason FROM metric_restatements"))


@pytest.mark.end_to_end
@pytest.mark.long
def test_days_heal_by_the_daemon_and_by_backfills_each_by_itself(
    home: Path, instance: dg.DagsterInstance, database: Database, database_url: str
) -> None:
    store_days(database)
    sealed_rows = f"SELECT xmin, * FROM agent_performance_metrics WHERE metric_date = '{SEALED}'"
    sealed = query(database, sealed_rows)
    note_that_the_daemon_was_down(instance)
    environment = {
        "METRICS_DATABASE_URL": database_url,
        "METRICS_START_DATE": EARLIER[0].isoformat(),
        "METRICS_LOOKBACK_DAYS": "4",
    }
    with running_ui(home, **environment) as ui:
        the_daemon_heals_the_look_back_window(ui, database)
        with database.engine.connect() as connection:
            lock_day(connection, day_window(EARLIER[2], "UTC"))
            interrupted, backfill = (
                launch_backfill(ui, assetSelection=[_ASSET], partitionNames=keys(*days)) for days in (EARLIER, DAYS)
            )
            killed = kill_the_worker(ui, instance, database, interrupted)
        a_backfill_of_the_asset_shows_each_day_by_itself(ui, database, backfill)
        a_backfill_of_the_job_changes_no_stored_row(ui, database)
        assert end_of(ui, backfill) == "COMPLETED_SUCCESS"
        a_backfill_whose_worker_was_killed_goes_on_where_it_stopped(ui, database, interrupted, killed)
    assert query(database, sealed_rows) == sealed


def kill_the_worker(ui: Ui, instance: dg.DagsterInstance, database: Database, backfill_id: str) -> str:
    """Kills the run that waits for a lock, and gives its id."""
    waiting = "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    ui.wait_for(lambda: query(database, waiting))
    (run,) = runs(ui, **{"dagster/backfill": backfill_id})
    worker = instance.get_run_by_id(run["id"])
    assert worker is not None
    psutil.Process(int(worker.tags[PROCESS_TAG].split("/")[2])).kill()
    return run["id"]


def the_daemon_heals_the_look_back_window(ui: Ui, database: Database) -> None:
    ticks = [first_tick(ui, name) for name in ("daily_metrics_schedule", "late_logs_sensor")]
    assert all(tick["error"] is None for tick in ticks), ticks
    asked = days_of(*(key for tick in ticks for key in tick["runKeys"]))
    # Dagster's database is new, so it shows no partition of a day that is stored.
    assert asked & set(DAYS) == {STORED, MISSED, CORRECTED}
    assert {run["status"] for run in ended_runs(ui)} == {"SUCCESS"}
    assert_equal_to_oracle(database, MISSED, CORRECTED)
    assert restatements(database) == {(CORRECTED, "late logs")}
    assert set(ledger(database)) & set(DAYS) == {LATE, SEALED, STORED, OUTDATED, MISSED, CORRECTED}
    assert statuses(ui, DAYS) == dict.fromkeys(keys(STORED, MISSED, CORRECTED), "MATERIALIZED")


def a_backfill_of_the_asset_shows_each_day_by_itself(ui: Ui, database: Database, backfill_id: str) -> None:
    (run,) = ended_runs(ui, **{"dagster/backfill": backfill_id})
    assert run["status"] == "SUCCESS"
    assert statuses(ui, DAYS) == dict.fromkeys(keys(*DAYS), "MATERIALIZED")
    counts = query(database, """SELECT "timestamp"::date, count(*) FROM agent_execution_logs GROUP BY 1 ORDER BY 1""")[
        len(EARLIER) :
    ]
    days = materializations(ui, run["id"])
    assert [(each["partition"], each["counts"]["logs_read"]) for each in days] == [
        # The sealed day is reported first, as it is stored.
        (day.isoformat(), count)
        for day, count in sorted(counts, key=lambda row: (row[0] != SEALED, row[0]))
    ]
    times = [int(each["timestamp"]) for each in days]
    assert times == sorted(set(times))

    assert {day for day, run_id in ledger(database).items() if run_id == run["id"]} == set(DAYS) - {SEALED}
    assert_equal_to_oracle(database, *DAYS)
    assert restatements(database) == {
        (LATE, "backfill"),
        (OUTDATED, "definition change"),
        (CORRECTED, "late logs"),
    }


def a_backfill_of_the_job_changes_no_stored_row(ui: Ui, database: Database) -> None:
    def stored() -> list[list[tuple[Any, ...]]]:
        tables = ("agent_performance_metrics", "metric_restatements")
        return [
            query(
                database, f"SELECT xmin, * FROM {table} WHERE metric_date >= '{FIRST}' ORDER BY metric_date, agent_id"
            )
            for table in tables
        ]

    before = stored()
    selector = {"partitionSetName": "daily_metrics_job_partition_set", "repositorySelector": REPOSITORY}
    backfill_id = launch_backfill(ui, selector=selector, partitionNames=keys(*DAYS))
    (run,) = ended_runs(ui, **{"dagster/backfill": backfill_id})
    assert run["status"] == "SUCCESS"
    assert {each["partition"] for each in materializations(ui, run["id"])} == set(keys(*DAYS))
    assert stored() == before


def a_backfill_whose_worker_was_killed_goes_on_where_it_stopped(
    ui: Ui, database: Database, backfill_id: str, killed: str
) -> None:
    assert end_of(ui, backfill_id) == "COMPLETED_SUCCESS"
    (repeated,) = runs(ui, **{PARENT_RUN_ID_TAG: killed})
    assert [each["partition"] for each in materializations(ui, killed)] == keys(*EARLIER[:2])
    assert [each["partition"] for each in materializations(ui, repeated["id"])] == keys(*EARLIER[2:])
    assert statuses(ui, EARLIER) == dict.fromkeys(keys(*EARLIER), "MATERIALIZED")
    assert_equal_to_oracle(database, *EARLIER)
