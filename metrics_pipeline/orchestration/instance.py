"""The Dagster instance that our commands share: DAGSTER_HOME where it is set, else one under METRICS_PIPELINE_HOME."""

from pathlib import Path

import dagster as dg
import yaml

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
    """
    if settings.dagster_home is not None:
        return settings.dagster_home
    folder = settings.home / "dagster"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    (folder / "dagster.yaml").write_text(yaml.safe_dump(_embedded_configuration(settings), sort_keys=False))
    return folder


def workspace_file(settings: Settings) -> Path:
    """A workspace.yaml that says what the project's own does, for an installed package that has none beside it."""
    settings.home.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = settings.home / "workspace.yaml"
    path.write_text(yaml.safe_dump(_WORKSPACE))
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
