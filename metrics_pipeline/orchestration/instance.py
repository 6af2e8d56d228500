"""The Dagster instance that our commands share: DAGSTER_HOME where it is set, else one under METRICS_PIPELINE_HOME."""

from pathlib import Path

import dagster as dg
import yaml

from metrics_pipeline.errors import SettingsError
from metrics_pipeline.names import LOCATION, LOCATION_MODULE
from metrics_pipeline.orchestration.instance_files import (
    CONFIGURATION,
    WORKSPACE,
    embedded_configuration,
    write_private,
)
from metrics_pipeline.settings import Settings

# Under another name than in the project's workspace.yaml, Dagster would take schedules and runs for another's.
_WORKSPACE = {"load_from": [{"python_module": {"module_name": LOCATION_MODULE, "location_name": LOCATION}}]}


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
    _write(settings, folder / CONFIGURATION, embedded_configuration(settings.home, folder))
    return folder


def workspace_file(settings: Settings) -> Path:
    """A workspace.yaml that says what the project's own does, for an installed package that has none beside it.

    Raises SettingsError for a METRICS_PIPELINE_HOME that we cannot write.
    """
    path = settings.home / WORKSPACE
    _write(settings, path, yaml.safe_dump(_WORKSPACE, sort_keys=False))
    return path


def open_instance(settings: Settings) -> dg.DagsterInstance:
    """The instance as a context manager."""
    return dg.DagsterInstance.from_config(str(instance_folder(settings)))


def _write(settings: Settings, path: Path, content: str) -> None:
    try:
        # By itself, as mkdir gives its mode only to the last folder of a path.
        settings.home.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_private(path, content)
    except OSError as error:
        raise SettingsError(
            f"METRICS_PIPELINE_HOME is {str(settings.home)!r}, where {path.name} cannot be written: {error.strerror}. "
            "Set it to a folder of your own."
        ) from error
