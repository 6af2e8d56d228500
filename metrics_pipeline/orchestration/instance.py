"""Dagster instances: the one that the commands use, and the files of one for production.

Commands use the instance of DAGSTER_HOME, else one under METRICS_PIPELINE_HOME with its runs on the embedded server.
"""

import fcntl
import logging
import math
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from string import Template

import dagster as dg
import yaml
from dagster_postgres.utils import DagsterPostgresException
from sqlalchemy.exc import SQLAlchemyError

from metrics_pipeline.errors import DagsterStorageError, PermanentError, SettingsError
from metrics_pipeline.names import LOCATION, LOCATION_MODULE
from metrics_pipeline.settings import NO_HOME, Settings, no_home

_TEMPLATES = files(__package__) / "instance_template"

CONFIGURATION = "dagster.yaml"
WORKSPACE = "workspace.yaml"
#: The code server's socket, in the folder of the instance.
SOCKET = "code.sock"

# Who runs `dev` on the instance.
_DEV = "dev.pid"

# sun_path holds 104 bytes on macOS and ends with a NUL. gRPC reads the path in a URI, and YAML reads it unquoted.
_PLAIN_PATH = re.compile(r"/[A-Za-z0-9_./-]*")
_SOCKET_PATH_BYTES = 103

# The same name as in the project's workspace.yaml, by which Dagster recognises its schedules and runs.
_WORKSPACE = {"load_from": [{"python_module": {"module_name": LOCATION_MODULE, "location_name": LOCATION}}]}


@contextmanager
def open_instance(settings: Settings) -> Iterator[dg.DagsterInstance]:
    """The instance, for a block that turns the faults of its database into DagsterStorageError.

    Also raises what instance_folder raises.
    """
    folder = instance_folder(settings)
    try:
        with _calm_retries(), dg.DagsterInstance.from_config(str(folder)) as instance:
            yield instance
    # The faults of the metrics' database are errors of our own when they arrive here.
    except (SQLAlchemyError, DagsterPostgresException, dg.DagsterInvalidConfigError) as error:
        raise DagsterStorageError(
            f"Dagster's own database cannot be used: {_reason(error)}. Check that its server runs, the storage in "
            f"{folder / CONFIGURATION}, and the variables that it reads, such as DAGSTER_POSTGRES_URL."
        ) from error


def _reason(error: BaseException) -> str:
    unset = re.search(r'the environment variable "\w+" which is not set', str(error))
    if unset:
        return f"its configuration needs {unset[0]}"
    # Dagster's own exception says how often it tried, SQLAlchemy's adds the statement.
    cause = error.__cause__ or error if isinstance(error, DagsterPostgresException) else error
    return str(getattr(cause, "orig", None) or cause).strip().partition("\n")[0].rstrip(".")


@contextmanager
def _calm_retries() -> Iterator[None]:
    # Dagster logs each of its six attempts to connect, with the whole of SQLAlchemy's message.
    def is_another(record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith("Retrying failed database connection")

    root = logging.getLogger()
    root.addFilter(is_another)
    try:
        yield
    finally:
        root.removeFilter(is_another)


def instance_folder(settings: Settings) -> Path:
    """The folder of the instance. Our own is created if it is missing.

    Its dagster.yaml is written each time, so that it matches the version of this package.
    Raises SettingsError for a DAGSTER_HOME that is not a folder, or a METRICS_PIPELINE_HOME that cannot be written.
    """
    if settings.dagster_home is not None:
        if not settings.dagster_home.is_absolute() or not settings.dagster_home.is_dir():
            raise SettingsError(
                f"DAGSTER_HOME is {str(settings.dagster_home)!r}, which is not the absolute path of a folder. "
                "Make the folder, or unset the variable to use the instance under METRICS_PIPELINE_HOME."
            )
        return settings.dagster_home
    folder = settings.home / "dagster"
    _write_at_home(settings, folder / CONFIGURATION, embedded_configuration(settings.home, folder))
    return folder


@contextmanager
def claimed_for_dev(folder: Path) -> Iterator[int]:
    """Claims the instance in `folder` for `dev` as long as a process has the descriptor open.

    A second daemon would evaluate every tick again. Raises PermanentError, which names the process that has claimed it.
    """
    try:
        claim = os.open(folder / _DEV, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise PermanentError(
            f"{folder / _DEV} cannot be written: {error.strerror}. Choose an instance of your own with DAGSTER_HOME."
        ) from error
    with os.fdopen(claim, "r+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise PermanentError(
                f"metrics-pipeline dev runs already on the instance in {folder}, as process {file.read()}. Use its UI, "
                "or stop it first: that takes some seconds."
            ) from error
        file.truncate()
        file.write(str(os.getpid()))
        file.flush()
        yield claim


def workspace_file(settings: Settings) -> Path:
    """Writes a workspace.yaml that equals the project's, for an installed package that has none, and returns its path.

    Raises SettingsError for a METRICS_PIPELINE_HOME that cannot be written.
    """
    path = settings.home / WORKSPACE
    _write_at_home(settings, path, yaml.safe_dump(_WORKSPACE, sort_keys=False))
    return path


def embedded_configuration(home: Path, folder: Path) -> str:
    """The dagster.yaml of an instance in `folder` that keeps its runs in the embedded server under `home`."""
    return _filled("embedded.yaml", home=_quoted(home), storage=_quoted(folder / "storage"))


def write_instance(folder: Path, *, force: bool) -> None:
    """Writes a dagster.yaml with a separate Dagster storage, and a workspace.yaml for the installed package.

    Raises PermanentError, and writes nothing, if one of them exists (unless `force`), if `folder` cannot be written or
    is open to others, or if its path cannot hold a socket.
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
            f"what it is told. Choose one that is not there yet or, if nobody else needs this one, make it its owner's "
            f"alone (chmod 700 {folder})."
        )
    existing = [str(folder / name) for name in (CONFIGURATION, WORKSPACE) if (folder / name).exists()]
    if existing and not force:
        raise PermanentError(
            f"{' and '.join(existing)} would be overwritten. Choose another folder, or give --force to replace what is "
            "there by this version's template."
        )
    try:
        for name in (CONFIGURATION, WORKSPACE):
            _write_private(folder / name, _filled(name, folder=str(folder)))
    except OSError as error:
        raise PermanentError(
            f"{folder} cannot hold a Dagster instance: {error.strerror}. Choose a folder of your own."
        ) from error


def _filled(template: str, **values: str) -> str:
    return Template((_TEMPLATES / template).read_text(encoding="utf-8")).substitute(values)


def _quoted(path: Path) -> str:
    return yaml.safe_dump(str(path), default_style='"', width=math.inf).rstrip("\n")


def _write_at_home(settings: Settings, path: Path, content: str) -> None:
    if settings.home == NO_HOME:
        raise SettingsError(no_home("Dagster's runs need one"))
    try:
        # Separately, because mkdir applies its mode only to the last folder of a path.
        settings.home.mkdir(mode=0o700, parents=True, exist_ok=True)
        _write_private(path, content)
    except OSError as error:
        raise SettingsError(
            f"METRICS_PIPELINE_HOME is {str(settings.home)!r}, where {path.name} cannot be written: {error.strerror}. "
            "Set it to a folder of your own."
        ) from error


def _write_private(path: Path, content: str) -> None:
    """Writes a file that only its owner can read; a missing folder is created likewise. Raises OSError."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Replaced, not rewritten: another process that reads an empty dagster.yaml would keep its runs in SQLite.
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        written = Path(scratch, path.name)
        written.touch(mode=0o600)
        written.write_text(content, encoding="utf-8")
        written.replace(path)
