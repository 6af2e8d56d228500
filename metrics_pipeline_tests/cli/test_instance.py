"""`instance init`: what it writes, and that Dagster runs on it without a change."""

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import dagster as dg
import psycopg
import pytest
import yaml
from dagster._core.workspace.load import location_origins_from_yaml_paths
from typer.testing import CliRunner, Result

from metrics_pipeline.cli.instance import app
from metrics_pipeline.errors import PermanentError
from metrics_pipeline.orchestration.instance import embedded_configuration
from metrics_pipeline.orchestration.run_launcher import WatchingRunLauncher
from metrics_pipeline_tests.processes import HANGING_SECONDS, wait_until


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """A folder with a path that is short enough for a socket, wherever pytest's own folder is."""
    with TemporaryDirectory(prefix="instance-", dir="/tmp") as folder:
        yield Path(folder)


def init(folder: Path, *options: str) -> Result:
    return CliRunner().invoke(app, ["init", str(folder), *options])


def test_dagster_opens_what_it_writes_and_keeps_its_runs_in_postgresql(
    tmp_path: Path, bare_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGSTER_POSTGRES_URL", bare_database_url.replace("postgresql://", "postgresql+psycopg2://", 1))
    folder = tmp_path / "new" / "dagster"
    assert init(folder).exit_code == 0
    with dg.DagsterInstance.from_config(str(folder)) as instance:
        run = instance.create_run_for_job(dg.GraphDefinition(name="nothing").to_job())
        assert isinstance(instance.run_launcher, WatchingRunLauncher)
        assert (instance.run_retries_enabled, instance.run_retries_retry_on_asset_or_op_failure) == (True, False)
        assert (instance.run_monitoring_enabled, instance.telemetry_enabled, instance.nux_enabled) == (
            True,
            False,
            False,
        )
    with psycopg.connect(bare_database_url) as connection:
        assert connection.execute("SELECT run_id FROM runs").fetchall() == [(run.run_id,)]


def test_the_workspace_is_the_code_server_that_the_next_steps_start(tmp_path: Path) -> None:
    folder = tmp_path / "dagster"
    printed = init(folder).output
    (origin,) = location_origins_from_yaml_paths([str(folder / "workspace.yaml")])
    assert origin.location_name == "metrics_pipeline"
    command = (
        f"grpc --module-name metrics_pipeline.definitions --location-name metrics_pipeline --socket {origin.socket}\n"
    )
    assert command in printed
    assert f"DAGSTER_HOME={folder}\n" in printed
    # Without it, Dagster fails a backfill whose daemon starts while the code server is away.
    assert "DAGSTER_BACKFILL_RETRY_DEFINITION_CHANGED_ERROR=1\n" in printed


@pytest.mark.end_to_end
def test_the_code_server_of_the_next_steps_serves_the_workspace(
    tmp_path: Path, server_uri: str, bare_database_url: str
) -> None:
    printed = init(tmp_path / "dagster").output
    (arguments,) = (line.split()[1:] for line in printed.splitlines() if line.strip().startswith("dagster api grpc"))
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "DAGSTER_HOME": str(tmp_path / "dagster"),
        "DAGSTER_POSTGRES_URL": bare_database_url.replace("postgresql://", "postgresql+psycopg2://", 1),
        "METRICS_DATABASE_URL": server_uri,
    }
    dagster = (sys.executable, "-m", "dagster")
    with (tmp_path / "output").open("w") as output:
        server = subprocess.Popen([*dagster, *arguments], env=environment, cwd=tmp_path, stdout=output, stderr=output)
    try:
        wait_until((tmp_path / "dagster" / "code.sock").exists)
        command = [*dagster, "definitions", "validate", "-w", str(tmp_path / "dagster" / "workspace.yaml")]
        validated = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert "Validation successful for code location metrics_pipeline." in validated.stdout + validated.stderr
        server.terminate()
        server.wait(timeout=HANGING_SECONDS)
    finally:
        server.kill()


def test_nobody_else_can_read_the_files_whatever_the_umask(tmp_path: Path) -> None:
    folder = tmp_path / "dagster"
    previous = os.umask(0)
    try:
        init(folder)
    finally:
        os.umask(previous)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (folder, *folder.iterdir())}
    assert modes == {"dagster": 0o700, "dagster.yaml": 0o600, "workspace.yaml": 0o600}


@pytest.mark.parametrize("mode", [0o755, 0o710, 0o701, 0o777])
def test_a_folder_that_others_may_enter_is_refused_with_the_remedy_and_left_as_it_is(tmp_path: Path, mode: int) -> None:
    folder = tmp_path / "dagster"
    folder.mkdir()
    folder.chmod(mode)
    refused = init(folder, "--force")
    assert isinstance(refused.exception, PermanentError)
    assert f"{folder} is open to others" in str(refused.exception)
    assert f"(chmod 700 {folder})" in str(refused.exception)
    assert (stat.S_IMODE(folder.stat().st_mode), list(folder.iterdir())) == (mode, [])
    folder.chmod(0o700)
    assert init(folder).exit_code == 0


@pytest.mark.parametrize("name", ["dagster.yaml", "workspace.yaml"])
def test_a_file_that_is_there_stays_unless_it_is_to_be_replaced(tmp_path: Path, name: str) -> None:
    existing = tmp_path / name
    existing.write_text("# mine")
    refused = init(tmp_path)
    assert isinstance(refused.exception, PermanentError)
    assert f"{existing} would be overwritten" in str(refused.exception)
    assert "--force" in str(refused.exception)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["# mine"]
    assert init(tmp_path, "--force").exit_code == 0
    assert "# mine" not in existing.read_text()
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("name", ["a folder", "é", "100%", "'quoted\"", "x" * 100])
def test_a_path_that_no_socket_can_have_is_refused_and_nothing_made(tmp_path: Path, name: str) -> None:
    refused = init(tmp_path / name)
    assert isinstance(refused.exception, PermanentError)
    assert "cannot hold the code server's socket" in str(refused.exception)
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    refused = init(tmp_path / "file" / "dagster")
    assert isinstance(refused.exception, PermanentError)
    assert f"{tmp_path}/file/dagster cannot hold a Dagster instance: Not a directory" in str(refused.exception)


def test_dev_runs_on_the_same_configuration_but_for_the_storage(tmp_path: Path) -> None:
    init(tmp_path)
    production = yaml.safe_load((tmp_path / "dagster.yaml").read_text())
    embedded = yaml.safe_load(embedded_configuration(tmp_path / "home", tmp_path))
    assert production.pop("storage") != embedded.pop("storage")
    assert production == embedded
