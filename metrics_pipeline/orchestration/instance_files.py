"""The files of a Dagster instance, for production and for `dev`: one commented template, written for its owner only."""

import re
import tempfile
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from metrics_pipeline.errors import PermanentError
from metrics_pipeline.orchestration.embedded_storage import EmbeddedPostgresStorage

_TEMPLATES = files(__package__) / "instance_template"
_FOLDER = "FOLDER"

CONFIGURATION = "dagster.yaml"
WORKSPACE = "workspace.yaml"
#: The code server's, in the folder of the instance.
SOCKET = "code.sock"

# sun_path holds 104 bytes on macOS and ends with a NUL; gRPC reads the path as part of a URI, and YAML unquoted.
_PLAIN_PATH = re.compile(r"/[A-Za-z0-9_./-]*")
_SOCKET_PATH_BYTES = 103


def write_instance(folder: Path, *, force: bool) -> None:
    """Writes dagster.yaml for a Dagster storage of its own, and the workspace.yaml of the installed package.

    Raises PermanentError, and writes nothing, if one of them is there already (unless `force`), if `folder` cannot be
    written or is open to others, or if it cannot be the place of a socket.
    """
    folder = folder.absolute()
    if not _PLAIN_PATH.fullmatch(str(folder)) or len(str(folder / SOCKET)) > _SOCKET_PATH_BYTES:
        raise PermanentError(
            f"{str(folder)!r} cannot hold the code server's socket. Choose a folder whose path has only ASCII letters, "
            f"digits and ._-/ and at most {_SOCKET_PATH_BYTES - len(SOCKET) - 1} of them."
        )
    if folder.is_dir() and folder.stat().st_mode & 0o077:
        raise PermanentError(
            f"{folder} is open to others, and is to hold the output of runs and the code server's socket, which runs "
            f"what it is told. Make it its owner's alone (chmod 700 {folder}), or choose one that is not there yet."
        )
    existing = [str(folder / name) for name in (CONFIGURATION, WORKSPACE) if (folder / name).exists()]
    if existing and not force:
        raise PermanentError(
            f"{' and '.join(existing)} would be overwritten. Choose another folder, or give --force to replace what is "
            "there by this version's template."
        )
    try:
        for name in (CONFIGURATION, WORKSPACE):
            write_private(folder / name, (_TEMPLATES / name).read_text().replace(_FOLDER, str(folder)))
    except OSError as error:
        raise PermanentError(
            f"{folder} cannot hold a Dagster instance: {error.strerror}. Choose a folder of your own."
        ) from error


def embedded_configuration(home: Path, folder: Path) -> str:
    """The same dagster.yaml with its storage in the embedded server under `home`, without the comments."""
    configuration: dict[str, Any] = yaml.safe_load((_TEMPLATES / CONFIGURATION).read_text())
    configuration["storage"] = {
        "custom": {
            "module": EmbeddedPostgresStorage.__module__,
            "class": EmbeddedPostgresStorage.__name__,
            "config": {"home": str(home)},
        }
    }
    configuration["compute_logs"]["config"]["base_dir"] = str(folder / "storage")
    return yaml.safe_dump(configuration, sort_keys=False)


def write_private(path: Path, content: str) -> None:
    """Writes a file that only its owner can read, and makes its folder, if missing, likewise. Raises OSError."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Replaced, not rewritten: another process that found dagster.yaml empty would keep its runs in SQLite.
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        written = Path(scratch, path.name)
        written.touch(mode=0o600)
        written.write_text(content)
        written.replace(path)
