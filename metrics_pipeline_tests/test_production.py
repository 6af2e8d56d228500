"""`dagster dev` in the project's folder, on the instance of `instance init` and under the role of `db grants`."""

import os
import signal
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import dagster as dg
import psycopg
import pytest
from psycopg import sql

from metrics_pipeline.log_files.sample_logs import store_sample
from metrics_pipeline.metrics.windows import day_window, days_between, last_complete_day
from metrics_pipeline.orchestration.instance import write_instance
from metrics_pipeline.postgres.database import Database
from metrics_pipeline.sample.agents import SampleSpec
from metrics_pipeline_tests.cli.ui import (
    Ui,
    days_of,
    first_tick,
    launch_backfill,
    launch_run,
    note_that_the_daemon_was_down,
    running_ui,
)
from metrics_pipeline_tests.days import Log, aggregate, query, store_logs
from metrics_pipeline_tests.orchestration.runs import assert_equal_to_oracle, ledger
from metrics_pipeline_tests.processes import processes, wait_until

from .private_files import everything_in
from .roles import Role, apply, printed
from .roles import roles as roles
from .test_secrets import QUOTED, TOKEN, assert_clean

PROJECT = Path(__file__).parents[1]

# The last tick of the nightly schedule before now asks for the last of these days.
NEWEST = last_complete_day(datetime.now(UTC) - timedelta(hours=2), "UTC")
*BACKFILLED, BY_HAND, _, LATE, MISSED = DAYS = days_between(NEWEST - timedelta(days=5), NEWEST)

# Older than raw logs are kept.
OLD = NEWEST - timedelta(days=40)

_METRICS = {"path": ["agent_performance_metrics"]}
_RUNS = "{ runsOrError { ... on Runs { results { id status tags { key value } } } } }"
_ASSETS = """{ assetNodes {
    assetKey { path } dependencyKeys { path }
    assetChecksOrError { ... on AssetChecks { checks { name executionForLatestMaterialization { status } } } }
} }"""
_METADATA = """query ($key: AssetKeyInput!) { assetNodeOrError(assetKey: $key) { ... on AssetNode {
    assetMaterializations { partition metadataEntries { label ... on IntMetadataEntry { intValue } } }
} } }"""


@pytest.fixture
def role(roles: dict[str, Role], database_url: str) -> Role:
    """One role for all that Dagster runs: the pipeline and retention."""
    role = roles["pipeline"]
    apply(printed(database_url, f"--retention={role.name}"), database_url)
    return role


@pytest.fixture
def environment(home: Path, role: Role, bare_database_url: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What every service is given. Dagster's storage is a database of its own."""
    storage = with_password(bare_database_url, "postgres").replace("postgresql://", "postgresql+psycopg2://", 1)
    monkeypatch.setenv("DAGSTER_POSTGRES_URL", storage)
    folder = home.parent / "dagster"
    write_instance(folder, force=False)
    return {
        "DAGSTER_HOME": str(folder),
        "DAGSTER_POSTGRES_URL": storage,
        "METRICS_DATABASE_URL": with_password(role.url, quote(role.name, safe="")),
        "METRICS_API_TOKENS": f"me:read:{TOKEN}",
        "METRICS_START_DATE": OLD.isoformat(),
        "METRICS_LOOKBACK_DAYS": "2",
    }


def with_password(url: str, user: str) -> str:
    """The same for a server without passwords: it also shows what is not needed."""
    return urlsplit(url)._replace(netloc=f"{user}:{QUOTED}@").geturl()


@pytest.fixture
def instance(environment: dict[str, str]) -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.from_config(environment["DAGSTER_HOME"]) as instance:
        yield instance


def asked_by(ui: Ui, name: str) -> list[str]:
    """The keys of the runs that the first tick of a schedule or sensor asks for."""
    tick = first_tick(ui, name)
    assert tick["error"] is None
    return tick["runKeys"]


def ended_runs(ui: Ui, count: int) -> list[dict[str, Any]]:
    """All runs, once there are so many and none is under way."""
    return ui.wait_for(
        lambda: ui.query(_RUNS)["runsOrError"]["results"],
        lambda runs: len(runs) >= count and all(run["status"] in ("SUCCESS", "FAILURE") for run in runs),
    )


@pytest.mark.end_to_end
@pytest.mark.long
def test_everything_that_an_operator_does_in_the_ui_works_in_production(
    home: Path,
    database: Database,
    bare_database_url: str,
    instance: dg.DagsterInstance,
    environment: dict[str, str],
) -> None:
    spec = SampleSpec(seed=5, agents=9, logs_per_day=60)
    store_sample(database, spec, [OLD, *DAYS], "UTC", lambda *_: None)
    for day in (OLD, LATE):
        aggregate(database, day_window(day, "UTC"), run_id="long ago")
    store_logs(database, [Log("unregistered", timestamp=day_window(LATE, "UTC").start)])
    note_that_the_daemon_was_down(instance)
    command = (sys.executable, "-m", "dagster", "dev", "--log-level", "warning")
    with running_ui(home, command, PROJECT, **environment) as ui:
        backfill = launch_backfill(
            ui, assetSelection=[_METRICS], partitionNames=[day.isoformat() for day in BACKFILLED]
        )
        by_hand = launch_run(ui, "daily_metrics_job", **{"dagster/partition": BY_HAND.isoformat()})
        launch_run(ui, "data_retention_job", config={"ops": {"data_retention": {"config": {"dry_run": False}}}})
        asked = [asked_by(ui, name) for name in ("daily_metrics_schedule", "late_logs_sensor")]
        assert days_of(*asked[0], *asked[1]) == {LATE, MISSED}
        runs = ended_runs(ui, 3 + len(asked[0]) + len(asked[1]))
        assert {run["status"] for run in runs} == {"SUCCESS"}
        run_ids = {tag["value"]: run["id"] for run in runs for tag in run["tags"]}

        stored = ledger(database)
        assert stored.pop(OLD) == "long ago"
        assert list(stored) == [*BACKFILLED, BY_HAND, LATE, MISSED]
        assert stored[BY_HAND] == by_hand
        assert {stored[day] for day in BACKFILLED} == {run_ids[backfill]}
        assert_equal_to_oracle(database, *stored)
        assert query(database, f"SELECT count(*) FROM agent_execution_logs WHERE timestamp::date = '{OLD}'") == [(0,)]
        assert_is_shown(ui, database)
        assert_no_secret(ui, home, bare_database_url)
        os.kill(ui.process.pid, signal.SIGINT)
        assert ui.process.wait(timeout=60) == 0
        wait_until(lambda: not processes(home), seconds=30)
        assert "Traceback" not in ui.output()


def assert_no_secret(ui: Ui, home: Path, dagster_url: str) -> None:
    """Not in the output, the process list, a file, or a row of Dagster's storage."""
    listed = [" ".join(process.cmdline()) for process in processes(home)]
    assert len(listed) >= 4
    files = [path.read_bytes().decode("latin-1") for path in everything_in(home.parent) if path.is_file()]
    assert files
    with psycopg.connect(dagster_url) as connection:
        names = [name for (name,) in connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")]
        rows = [
            row
            for name in names
            for (row,) in connection.execute(sql.SQL("SELECT t::text FROM {} AS t").format(sql.Identifier(name)))
        ]
    assert any("daily_metrics_job" in row for row in rows)
    for said in (ui.output(), *listed, *files, *rows):
        assert_clean(said)


def assert_is_shown(ui: Ui, database: Database) -> None:
    nodes = {node["assetKey"]["path"][-1]: node for node in ui.query(_ASSETS)["assetNodes"]}
    upstream = {name: {key["path"][-1] for key in node["dependencyKeys"]} for name, node in nodes.items()}
    assert upstream["agent_performance_metrics"] == {"agent_execution_logs", "agent_registry"}
    assert upstream["data_retention"] == {"agent_execution_logs", "agent_performance_metrics", "alert_history"}
    evaluations = {
        check["name"]: check["executionForLatestMaterialization"]
        for name in ("agent_performance_metrics", "data_retention")
        for check in nodes[name]["assetChecksOrError"]["checks"]
    }
    assert evaluations.pop("no_logs_held_back")["status"] == "SUCCEEDED"
    # The other checks judge the newest days, so they may be red here, but none may fail with an error.
    assert {evaluation["status"] for evaluation in evaluations.values()} <= {"SUCCEEDED", "FAILED"}, evaluations

    materialized = ui.query(_METADATA, key=_METRICS)["assetNodeOrError"]["assetMaterializations"]
    logs_read = {
        each["partition"]: entry["intValue"]
        for each in reversed(materialized)
        for entry in each["metadataEntries"]
        if entry["label"] == "logs_read"
    }
    logs = query(
        database,
        """SELECT metric_date::text, count(*) FROM metric_day_ledger
             JOIN agent_execution_logs ON "timestamp" >= window_start AND "timestamp" < window_end
            GROUP BY 1""",
    )
    assert logs_read == dict(logs)
