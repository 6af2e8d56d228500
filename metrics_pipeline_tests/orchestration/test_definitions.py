"""What Dagster loads, by whichever way it is told, and that loading it touches nothing."""

import os
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import get_type_hints
from zoneinfo import ZoneInfo

import dagster as dg
import pytest
import yaml
from dagster._utils.schedules import cron_string_iterator

from metrics_pipeline import __version__
from metrics_pipeline.definitions import SettingsOverrides, build_defs
from metrics_pipeline.embedded import release
from metrics_pipeline.metrics.catalog import AGENT_DAY
from metrics_pipeline.metrics.dimensions import parse_dimensions
from metrics_pipeline.metrics.retention import RetentionPolicy
from metrics_pipeline.metrics.windows import last_due_day
from metrics_pipeline.pipeline.opening import open_database
from metrics_pipeline.postgres.database import Database
from metrics_pipeline.settings import Settings
from metrics_pipeline_tests.homes import has_ended
from metrics_pipeline_tests.processes import wait_until

from .runs import DAYS, assert_equal_to_oracle, ledger

PROJECT = Path(__file__).parents[2]
MODULE = "metrics_pipeline.definitions"
DAGSTER = (sys.executable, "-m", "dagster")

Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """METRICS_PIPELINE_HOME of the test's processes; the server that they may have started is gone at the end."""
    home = tmp_path / "pipeline"
    yield home
    release(home)
    wait_until(lambda: has_ended(home))


@pytest.fixture
def command(home: Path, tmp_path: Path) -> Command:
    """Runs a command in the project's folder, with no environment but PATH, HOME and METRICS_PIPELINE_HOME."""

    def run(*arguments: str, check: bool = True, **environment: str) -> subprocess.CompletedProcess[str]:
        bare = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "METRICS_PIPELINE_HOME": str(home)}
        result = subprocess.run(
            arguments, env=bare | environment, cwd=PROJECT, capture_output=True, text=True, check=False
        )
        assert result.returncode == 0 or not check, result.stdout + result.stderr
        return result

    return run


@pytest.mark.end_to_end
def test_importing_them_opens_no_connection_starts_no_server_warns_of_nothing_and_goes_on_collecting_garbage(
    command: Command, home: Path
) -> None:
    with_a_closed_port = f"""
import gc, importlib, os, {MODULE} as module
assert gc.isenabled() and gc.get_freeze_count() > 0
os.environ["METRICS_DATABASE_URL"] = "postgresql://u:p@127.0.0.1:1/m"
importlib.reload(module)
"""
    result = command(sys.executable, "-W", "error", "-c", with_a_closed_port)
    assert (result.stdout, result.stderr) == ("", "")
    assert not home.exists()


def test_build_defs_overrides_what_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METRICS_TIME_ZONE", "Asia/Tokyo")
    monkeypatch.setenv("METRICS_START_DATE", "2025-03-01")

    def partitions(defs: dg.Definitions) -> tuple[str, str]:
        definition = defs.resolve_asset_graph().get(dg.AssetKey("agent_performance_metrics")).partitions_def
        return definition.timezone, definition.get_first_partition_key()

    assert partitions(build_defs()) == ("Asia/Tokyo", "2025-03-01")
    overridden = build_defs(time_zone="Europe/Berlin", start_date=date(2025, 6, 1))
    assert partitions(overridden) == ("Europe/Berlin", "2025-06-01")
    assert overridden.resolve_schedule_def("daily_metrics_schedule").execution_timezone == "Europe/Berlin"
    with pytest.raises(TypeError, match="no_such_field"):
        build_defs(no_such_field=1)


def test_what_may_be_overridden_are_fields_of_the_settings() -> None:
    assert get_type_hints(SettingsOverrides).items() <= get_type_hints(Settings).items()


def test_the_graph_leads_from_the_upstream_tables_over_the_metrics_to_their_readers() -> None:
    graph = build_defs().resolve_asset_graph()
    metrics = graph.get(dg.AssetKey("agent_performance_metrics"))
    upstream = {"agent_execution_logs", "agent_registry", "alert_history"}
    assert {key.to_user_string() for key in metrics.parent_keys} == {"agent_execution_logs", "agent_registry"}
    assert {key.to_user_string() for key in graph.external_asset_keys} == upstream | {
        "metrics_api",
        "metrics_page",
    }
    assert {key.to_user_string() for key in metrics.child_keys} == {"agent_overview", "data_retention", "metrics_api"}
    assert {key.to_user_string() for key in graph.get(dg.AssetKey("metrics_api")).child_keys} == {"metrics_page"}
    assert metrics.is_materializable


def test_the_texts_of_the_ui_hold_the_values_of_the_settings_and_no_password() -> None:
    defs = build_defs(
        database_url="postgresql://u:s3cret@db.example/metrics",
        time_zone="Asia/Tokyo",
        lookback_days=21,
        retention=RetentionPolicy(raw_log_days=61, metric_days=None, alert_days=7),
    )
    about = defs.resources["database"].description
    assert f"- metrics_pipeline {__version__}\n" in about
    assert "- Database: database metrics on db.example:5432 (user u)\n- Time zone: Asia/Tokyo;" in about
    assert "- Look-back: 21 days\n- Kept: raw logs 61 days, metrics never deleted, resolved alerts 7 days" in about
    graph = defs.resolve_asset_graph()
    described = {key.to_user_string(): graph.get(key).description for key in graph.get_all_asset_keys()}
    assert (
        "raw logs are kept for 61 days, metrics\nkept forever, resolved alerts kept for 7 days."
        in (described["data_retention"])
    )
    assert "calendar day in Asia/Tokyo" in described["agent_performance_metrics"]
    texts = [
        *described.values(),
        *(graph.get(key).description for key in graph.asset_check_keys),
        *(each.description or "" for each in defs.resolve_all_job_defs()),  # Dagster adds one
        *(schedule.description for schedule in defs.schedules),
        *(sensor.description for sensor in defs.sensors),
    ]
    assert not [text for text in [about, *texts] if "s3cret" in text or "METRICS_" in text]
    # The catalog and the lineage show the beginning of a description, and Markdown as it is written.
    assert not [text for text in described.values() if set("`*") & set(text.strip().split("\n\n")[0])]


def test_assets_and_checks_lead_to_the_page_the_api_the_documentation_and_their_code() -> None:
    defs = build_defs(api_url="https://metrics.example", source_url="https://git.example/m/tree/main")
    graph = defs.resolve_asset_graph()
    metadata = graph.get(dg.AssetKey("agent_performance_metrics")).metadata
    assert {name: metadata[name].value for name in ("page", "api", "documentation")} == {
        "page": "https://metrics.example/",
        "api": "https://metrics.example/docs",
        "documentation": "https://git.example/m/tree/main/docs/reference/metrics.md",
    }
    (reference,) = metadata["dagster/code_references"].code_references
    address, _, line = reference.url.partition("#L")
    assert address == "https://git.example/m/tree/main/metrics_pipeline/orchestration/assets.py"
    lines = (PROJECT / "metrics_pipeline/orchestration/assets.py").read_text().splitlines()
    assert "def agent_performance_metrics(" in "".join(lines[int(line) - 1 : int(line) + 1])
    pages = PROJECT / "docs"
    for key in graph.get_all_asset_keys():
        page = graph.get(key).metadata.get("documentation")
        assert page is None or (pages / page.value.partition("/docs/")[2]).is_file()
    checks = (pages / "reference/checks.md").read_text()
    for check in graph.asset_check_keys:
        assert (
            f"(https://git.example/m/tree/main/docs/reference/checks.md#{check.name})" in graph.get(check).description
        )
        assert f"### {check.name}\n" in checks

    # Without their addresses there are no links, and the code is a local file.
    graph = build_defs().resolve_asset_graph()
    metadata = graph.get(dg.AssetKey("agent_performance_metrics")).metadata
    assert not {"page", "api", "documentation"} & set(metadata)
    (reference,) = metadata["dagster/code_references"].code_references
    assert reference.file_path == str(PROJECT / "metrics_pipeline/orchestration/assets.py")
    assert not [key for key in graph.asset_check_keys if "Documentation" in graph.get(key).description]


def test_each_column_is_described_and_led_back_to_columns_that_exist() -> None:
    graph = build_defs(dimensions=parse_dimensions("model,tokens=token_count")).resolve_asset_graph()
    readers = {dg.AssetKey("metrics_api"), dg.AssetKey("metrics_page")}
    tables = {dg.AssetKey("agent_performance_metrics"), *graph.external_asset_keys} - readers
    metadata = {key.to_user_string(): graph.get(key).metadata for key in tables}
    columns = {
        table: {column.name: column for column in found["dagster/column_schema"].columns}
        for table, found in metadata.items()
    }
    assert {table: found["dagster/table_name"] for table, found in metadata.items()} == {
        table: table for table in metadata
    }
    stored = {column.name for column in AGENT_DAY.columns}
    ours = columns["agent_performance_metrics"]
    assert set(ours) == stored | {"created_at", "updated_at"}
    assert ours["success_rate"].type == "numeric(7, 6)"
    assert [name for name, column in ours.items() if column.constraints.nullable] == ["updated_at"]
    assert all(column.description for table in columns.values() for column in table.values())

    lineage = metadata["agent_performance_metrics"]["dagster/column_lineage"].deps_by_column
    by_value = metadata["agent_dimension_metrics"]["dagster/column_lineage"].deps_by_column
    assert set(by_value) | {"created_at", "updated_at"} == set(columns["agent_dimension_metrics"])
    assert {dependency.column_name for dependency in by_value["value"]} == {"metadata", "token_count"}
    assert set(lineage) == stored
    assert all(lineage.values())
    for dependency in [dependency for found in lineage.values() for dependency in found]:
        assert dependency.column_name in columns[dependency.asset_key.to_user_string()]
    used = {dependency.column_name for found in lineage.values() for dependency in found}
    assert used == set(columns["agent_execution_logs"]) - {"id"} | {"id", "status"}


@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin", "Australia/Lord_Howe"])
def test_the_checks_are_evaluated_every_night_shortly_after_yesterday_is_due(zone: str) -> None:
    nightly = build_defs(time_zone=zone).resolve_schedule_def("daily_checks_schedule")
    assert nightly.job_name == "daily_checks_job"
    assert nightly.default_status is dg.DefaultScheduleStatus.RUNNING
    year = datetime(2025, 1, 1, tzinfo=ZoneInfo(zone))
    ticks = cron_string_iterator(year.timestamp(), nightly.cron_schedule, nightly.execution_timezone)
    for night, tick in zip(range(365), ticks, strict=False):
        local = tick.astimezone(ZoneInfo(zone))
        assert local.replace(tzinfo=None) == datetime(2025, 1, 1, 3, 5) + timedelta(days=night)
        assert last_due_day(tick, zone) == local.date() - timedelta(days=1)


def test_pyproject_and_workspace_name_the_same_module_and_location() -> None:
    tools = tomllib.loads((PROJECT / "pyproject.toml").read_text())["tool"]
    (entry,) = yaml.safe_load((PROJECT / "workspace.yaml").read_text())["load_from"]
    named = {
        (tools["dagster"]["module_name"], tools["dagster"]["code_location_name"]),
        (tools["dg"]["project"]["code_location_target_module"], tools["dg"]["project"]["code_location_name"]),
        (entry["python_module"]["module_name"], entry["python_module"]["location_name"]),
    }
    assert named == {(MODULE, "metrics_pipeline")}


@pytest.mark.end_to_end
@pytest.mark.parametrize(
    ("source", "location"),
    [
        ((), "metrics_pipeline"),
        pytest.param(("-w", "workspace.yaml"), "metrics_pipeline", marks=pytest.mark.ci),
        pytest.param(("-m", MODULE), MODULE, marks=pytest.mark.ci),
    ],
    ids=["pyproject.toml", "workspace.yaml", "the module"],
)
def test_dagster_loads_the_same_by_each_of_them_and_finds_nothing_wrong(
    command: Command, home: Path, source: tuple[str, ...], location: str
) -> None:
    closed_port = "postgresql://u:p@127.0.0.1:1/m"
    validated = command(*DAGSTER, "definitions", "validate", *source, METRICS_DATABASE_URL=closed_port)
    assert f"Validation successful for code location {location}." in validated.stderr + validated.stdout
    assert not home.exists()


@pytest.mark.end_to_end
def test_a_day_materialises_on_the_embedded_server_with_no_environment_set(command: Command, home: Path) -> None:
    materialize = (*DAGSTER, "asset", "materialize", "-m", MODULE, "--select", "agent_performance_metrics")
    command(*materialize, "--partition", "2025-07-11")
    assert list(ledger(open_database(Settings(home=home)))) == [date(2025, 7, 11)]


@pytest.mark.end_to_end
def test_days_materialise_in_the_database_that_the_environment_names(
    command: Command, home: Path, logs: None, database: Database, database_url: str
) -> None:
    materialize = (*DAGSTER, "asset", "materialize", "-m", MODULE, "--select", "agent_performance_metrics")
    command(*materialize, "--partition-range", f"{DAYS[0]}...{DAYS[-1]}", METRICS_DATABASE_URL=database_url)
    assert_equal_to_oracle(database, *DAYS)
    assert not home.exists()
