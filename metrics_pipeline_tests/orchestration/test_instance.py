"""The instance that the commands share: where it lies, who may read it, and that its runs last."""

import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import dagster as dg
import psycopg
import pytest
import yaml
from dagster._core.instance.config import dagster_instance_config

from metrics_pipeline.errors import DagsterStorageError, SettingsError
from metrics_pipeline.orchestration.instance import (
    embedded_configuration,
    instance_folder,
    open_instance,
    workspace_file,
    write_instance,
)
from metrics_pipeline.settings import Settings

_READ_RUN = """
import sys
from pathlib import Path
from metrics_pipeline.orchestration.instance import open_instance
from metrics_pipeline.settings import Settings
with open_instance(Settings(home=Path(sys.argv[1]))) as instance:
    print(instance.get_run_by_id(sys.argv[2]).tags["mark"])
"""


@pytest.mark.end_to_end
def test_runs_are_kept_in_the_database_dagster_for_other_processes(server_home: Path, server_uri: str) -> None:
    job = dg.GraphDefinition(name="nothing").to_job()
    with open_instance(Settings(home=server_home)) as instance:
        run = instance.create_run_for_job(job, tags={"mark": "kept"})
        assert not instance.run_monitoring_max_resume_run_attempts
        assert (instance.run_retries_enabled, instance.run_monitoring_enabled, instance.telemetry_enabled) == (
            True,
            True,
            False,
        )
    with psycopg.connect(server_uri, dbname="dagster") as connection:
        assert connection.execute("SELECT count(*) FROM runs WHERE run_id = %s", [run.run_id]).fetchone() == (1,)
    command = [sys.executable, "-c", _READ_RUN, str(server_home), run.run_id]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stdout == "kept\n"


def test_its_connections_are_kept_and_those_that_the_server_has_ended_are_replaced(
    server_home: Path, server_uri: str
) -> None:
    job = dg.GraphDefinition(name="nothing").to_job()
    with (
        open_instance(Settings(home=server_home)) as instance,
        psycopg.connect(server_uri, dbname="dagster", autocommit=True) as observer,
    ):

        def sessions() -> set[int]:
            rows = observer.execute(
                "SELECT pid FROM pg_stat_activity WHERE datname = 'dagster' AND pid <> pg_backend_pid()"
            )
            return {pid for (pid,) in rows}

        others = sessions()
        run = instance.create_run_for_job(job, tags={"mark": "1"})
        ours = sessions() - others
        for mark in "23456":
            instance.add_run_tags(run.run_id, {"mark": mark})
        # Other tests' instances come and go beside this one.
        assert ours
        assert ours <= sessions()
        for pid in ours:
            assert observer.execute("SELECT pg_terminate_backend(%s, 5000)", [pid]).fetchone() == (True,)
        instance.add_run_tags(run.run_id, {"mark": "7"})
        instance.report_engine_event("after the restart", run)
        assert instance.get_run_by_id(run.run_id).tags["mark"] == "7"
        assert [entry.message for entry in instance.all_logs(run.run_id)][-1] == "after the restart"


def test_a_tick_of_a_schedule_that_fails_is_evaluated_again(server_home: Path) -> None:
    with open_instance(Settings(home=server_home)) as instance:
        assert instance.scheduler.max_tick_retries == 3


def test_its_configuration_is_valid_and_private(tmp_path: Path) -> None:
    home = tmp_path / "new" / "home"
    previous = os.umask(0)
    try:
        folder = instance_folder(Settings(home=home))
        workspace = workspace_file(Settings(home=home))
    finally:
        os.umask(previous)
    assert folder == home / "dagster"
    configuration, custom_class = dagster_instance_config(str(folder))
    assert custom_class is None
    assert configuration["storage"]["custom"]["config"] == {"home": str(home)}
    assert {path: stat.S_IMODE(path.stat().st_mode) for path in (home, folder, folder / "dagster.yaml", workspace)} == {
        home: 0o700,
        folder: 0o700,
        folder / "dagster.yaml": 0o600,
        workspace: 0o600,
    }
    assert sorted(path.name for path in home.rglob("*")) == ["dagster", "dagster.yaml", "workspace.yaml"]


@pytest.mark.parametrize(
    "name", ["a folder", "$folder", "home: #1", "'quoted' \"\\", "é😀", "\udcff", "x" * 200 + " y", "- 1", "{}", "null"]
)
def test_its_configuration_holds_every_path_that_a_folder_can_have(name: str) -> None:
    configuration = yaml.safe_load(embedded_configuration(Path("/home", name), Path("/srv", name)))
    assert configuration["storage"]["custom"]["config"]["home"] == f"/home/{name}"
    assert configuration["compute_logs"]["config"]["base_dir"] == f"/srv/{name}/storage"


def test_no_process_ever_reads_half_a_configuration(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    path = instance_folder(settings) / "dagster.yaml"
    complete = path.read_text()
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            instance_folder(settings)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        assert {path.read_text() for _ in range(2000)} == {complete}
    finally:
        stop.set()
        writer.join()


def test_an_instance_of_ones_own_is_used_and_not_written_to(tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    settings = Settings(home=tmp_path / "home", dagster_home=theirs)
    assert instance_folder(settings) == theirs
    assert list(theirs.iterdir()) == []
    assert not settings.home.exists()


@pytest.mark.parametrize("name", ["missing", "relative", "file"])
def test_a_dagster_home_that_is_no_folder_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    path = Path(name) if name == "relative" else tmp_path / name
    with pytest.raises(SettingsError, match=f"DAGSTER_HOME is '{path}'.*not the absolute path of a folder"):
        instance_folder(Settings(home=tmp_path, dagster_home=path))


@pytest.mark.parametrize("write", [instance_folder, workspace_file])
def test_a_home_that_cannot_be_written_is_named(tmp_path: Path, write: object) -> None:
    (tmp_path / "file").touch()
    home = tmp_path / "file" / "home"
    with pytest.raises(SettingsError, match=f"METRICS_PIPELINE_HOME is '{home}'.*Not a directory"):
        write(Settings(home=home))


def test_the_workspace_says_what_the_projects_own_does(tmp_path: Path) -> None:
    ours = Path(__file__).parents[2] / "workspace.yaml"
    assert yaml.safe_load(workspace_file(Settings(home=tmp_path)).read_text()) == yaml.safe_load(ours.read_text())


@pytest.fixture
def production(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings with an instance whose runs are in the database that DAGSTER_POSTGRES_URL names."""
    write_instance(tmp_path / "dagster", force=False)
    # Dagster waits up to 14 s for a database.
    monkeypatch.setattr("dagster_postgres.utils.time.sleep", lambda _seconds: None)
    return Settings(home=tmp_path / "home", dagster_home=tmp_path / "dagster")


@pytest.mark.parametrize(
    ("url", "words"),
    [
        (None, 'needs the environment variable "DAGSTER_POSTGRES_URL" which is not set'),
        ("nonsense", "Could not parse SQLAlchemy URL"),
        ("postgresql+psycopg2://dagster:hunter2@127.0.0.1:1/dagster", "Connection refused"),
        ("postgresql+psycopg2://nobody:hunter2@/dagster?host={socket}", 'role "nobody" does not exist'),
        ("postgresql+psycopg2://postgres:hunter2@/nowhere?host={socket}", 'database "nowhere" does not exist'),
    ],
)
def test_a_database_of_dagsters_that_cannot_be_used_is_one_sentence_without_its_password(
    url: str | None,
    words: str,
    production: Settings,
    server_uri: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    if url is not None:
        socket = psycopg.conninfo.conninfo_to_dict(server_uri)["host"]
        monkeypatch.setenv("DAGSTER_POSTGRES_URL", url.format(socket=socket))
    with pytest.raises(DagsterStorageError) as raised, open_instance(production):
        pass
    said = str(raised.value)
    assert said.startswith("Dagster's own database cannot be used: ")
    assert words in said
    assert f"the storage in {production.dagster_home}/dagster.yaml, and the variables that it reads, such as" in said
    assert "\n" not in said
    assert "hunter2" not in said + caplog.text
    assert "Retrying" not in caplog.text


def test_a_database_of_dagsters_that_is_lost_midway_is_the_same_sentence(
    production: Settings, bare_database_url: str, server_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = psycopg.conninfo.conninfo_to_dict(bare_database_url)["dbname"]
    monkeypatch.setenv("DAGSTER_POSTGRES_URL", bare_database_url.replace("postgresql://", "postgresql+psycopg2://"))

    def lose() -> None:
        with open_instance(production) as instance, psycopg.connect(server_uri, autocommit=True) as connection:
            assert instance.get_runs_count() == 0
            connection.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
            instance.get_runs_count()

    with pytest.raises(DagsterStorageError, match="not currently accepting connections"):
        lose()
