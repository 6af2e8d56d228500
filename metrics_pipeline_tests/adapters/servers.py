"""Servers of Debian's packages for one test: a PostgreSQL that has postgres_fdw, and PgBouncer."""

import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from metrics_pipeline.embedded.installation import server_account
from metrics_pipeline_tests.homes import new_folder
from metrics_pipeline_tests.processes import wait_until


@contextmanager
def postgres_with_fdw() -> Iterator[str]:
    """The URL of an empty database's superuser. The embedded PostgreSQL comes without extensions."""
    extensions = sorted(Path("/usr/lib/postgresql").glob("*/lib/postgres_fdw.so"))
    if not extensions:
        pytest.skip("there is no postgres_fdw: Debian's package postgresql has it")
    programs = extensions[-1].parents[1] / "bin"
    with _folder() as (folder, account):
        data, url = folder / "data", f"postgresql://postgres@/postgres?host={folder}"
        options = ("--username=postgres", "--auth=trust", "--encoding=UTF8", "--no-locale", "--no-sync")
        subprocess.run([programs / "initdb", *options, data], check=True, capture_output=True, **account)
        settings = ("listen_addresses=", f"unix_socket_directories={folder}", "fsync=off")
        with _running(folder, account, url, programs / "postgres", "-D", data, *(f"-c{each}" for each in settings)):
            yield url


@contextmanager
def pgbouncer(socket: str, role: str, database: str) -> Iterator[str]:
    """The URL of `database` through a pooler of transactions with two connections to the server at `socket`."""
    program = shutil.which("pgbouncer", path="/usr/sbin:/usr/bin")
    if program is None:
        pytest.skip("there is no pgbouncer, a package of Debian")
    with _folder() as (folder, account):
        (folder / "users").write_text(f'"{role}" ""\n')
        (folder / "pgbouncer.ini").write_text(
            f"""
            [databases]
            * = host={socket}
            [pgbouncer]
            listen_addr =
            unix_socket_dir = {folder}
            auth_type = trust
            auth_file = {folder}/users
            pool_mode = transaction
            default_pool_size = 2
            """.replace("  ", "")
        )
        url = f"postgresql://{role}@/{database}?host={folder}&port=6432"
        with _running(folder, account, url, program, folder / "pgbouncer.ini"):
            yield url


@contextmanager
def _folder() -> Iterator[tuple[Path, dict[str, int]]]:
    """A folder of the user that the embedded server runs as, because none of these servers runs as root."""
    folder = new_folder()
    user, group = server_account(folder / "data")
    shutil.chown(folder, user, group)
    yield folder, {"user": user, "group": group}
    shutil.rmtree(folder)


@contextmanager
def _running(folder: Path, account: dict[str, int], url: str, *command: str | Path) -> Iterator[None]:
    with (folder / "output").open("w") as output:
        server = subprocess.Popen(command, stdout=output, stderr=output, cwd=folder, **account)
    try:
        wait_until(lambda: server.poll() is not None or _answers(url))
        assert server.poll() is None, (folder / "output").read_text()
        yield
    finally:
        server.send_signal(signal.SIGINT)
        server.wait()


def _answers(url: str) -> bool:
    try:
        psycopg.connect(url).close()
    except psycopg.OperationalError:
        return False
    return True
