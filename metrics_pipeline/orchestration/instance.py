"""The Dagster instance that our commands share: DAGSTER_HOME where it is set, else one under METRICS_PIPELINE_HOME."""

import tempfile
from collections.abc import Mapping
from pathlib import Path

import dagster as dg
import yaml

from metrics_pipeline.errors import SettingsError
from metrics_pipeline.orchestration.embedded_storage import EmbeddedPostgresStorage
from metrics_pipeline.settings import Settings

# Under another name than in the project's workspace.yaml, Dagster would take schedules and runs for another's.
_WORKSPACE = {
    "load_from": [
        {"python_module": {"module_name": "metrics_pipeline.definitions", "location_name": "metrics_pipeline"}}
    ]
}


def instance_folder(settings: Settings) -> Path:
    """The folder of the instance; our own is made and configured when it is missing.

    Its dagster.yaml is written anew each time, so that it follows the version of this package.
    Raises SettingsError for a DAGSTER_HOME that is no folder, or a METRICS_PIPELINE_HOME that we cannot write.
    """
    if settings.dagster_home is not None:
        if not settings.dagster_home.is_absolute() or not settings.dagster_home.is_dir():
            raise SettingsError(
                f"DAGSTER_HOME is {str(settings.dagster_home)!r}, which is not the absolute path of a folder. "
                "Make the folder, or unset the variable to use the instance under METRICS_PIPELINE_HOME."
            )
        return settings.dagster_home
    folder = settings.home / "dagster"
    _write_private(settings, folder / "dagster.yaml", _embedded_configuration(settings))
    return folder


def workspace_file(settings: Settings) -> Path:
    """A workspace.yaml that says what the project's own does, for an installed package that has none beside it.

    Raises SettingsError for a METRICS_PIPELINE_HOME that we cannot write.
    """
    path = settings.home / "workspace.yaml"
    _write_private(settings, path, _WORKSPACE)
    return path


def open_instance(settings: Settings) -> dg.DagsterInstance:
    """The instance as a context manager."""
    return dg.DagsterInstance.from_config(str(instance_folder(settings)))


def _embedded_configuration(settings: Settings) -> dict[str, object]:
    return {
        "storage": {
            "custom": {
                "module": EmbeddedPostgresStorage.__module__,
                "class": EmbeddedPostgresStorage.__name__,
                "config": {"home": str(settings.home)},
            }
        },
        # Our step says itself what is worth another try; a failed day must not be tried again as a whole run.
        "run_retries": {"enabled": True, "max_retries": 2, "retry_on_asset_or_op_failure": False},
        "run_monitoring": {"enabled": True, "start_timeout_seconds": 180, "poll_interval_seconds": 30},
        "telemetry": {"enabled": False},
        "nux": {"enabled": False},
    }


def _write_private(settings: Settings, path: Path, content: Mapping[str, object]) -> None:
    try:
        # Each by itself, as mkdir gives its mode only to the last folder of a path.
        for folder in (settings.home, path.parent):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Replaced, not rewritten: another process that found dagster.yaml empty would keep its runs in SQLite.
        with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
            written = Path(scratch, path.name)
            written.touch(mode=0o600)
            written.write_text(yaml.safe_dump(content, sort_keys=False))
            written.replace(path)
    except OSError as error:
        raise SettingsError(
            f"METRICS_PIPELINE_HOME is {str(settings.home)!r}, where {path.name} cannot be written: {error.strerror}. "
            "Set it to a folder of your own."
        ) from error
