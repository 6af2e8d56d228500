"""Error messages say what happened, where, and what to do, and every wait has a limit."""

import fcntl
import os
import stat
from pathlib import Path

import pytest

from metrics_pipeline.embedded import acquire, installation, keeper, lease, release
from metrics_pipeline.errors import PermanentError, TransientError
from metrics_pipeline_tests.homes import has_ended
from metrics_pipeline_tests.processes import wait_until


def test_a_home_that_cannot_be_made_is_named_with_the_ways_out(home: Path) -> None:
    file = home.with_name("file")
    file.touch()
    with pytest.raises(PermanentError, match=rf"{file}.*METRICS_PIPELINE_HOME.*METRICS_DATABASE_URL"):
        acquire(file / "home")


def test_a_home_with_a_line_break_is_refused(home: Path) -> None:
    with pytest.raises(PermanentError, match="line break"):
        acquire(home / "a\nb")


def test_data_of_another_major_version_is_refused_and_left_alone(home: Path) -> None:
    data = home / "embedded/data"
    data.mkdir(parents=True)
    (data / "PG_VERSION").write_text("16\n")
    with pytest.raises(
        PermanentError, match=r"was made by PostgreSQL 16, and the embedded server is PostgreSQL 18.*pg_dump"
    ):
        acquire(home)
    assert [path.name for path in data.iterdir()] == ["PG_VERSION"]


@pytest.mark.usefixtures("cluster")
def test_a_server_that_cannot_start_shows_the_end_of_its_log_and_leaves_no_lease(home: Path) -> None:
    acquire(home)
    release(home)
    wait_until(lambda: has_ended(home))
    control = home / "embedded/data/global/pg_control"
    contents = control.read_bytes()
    control.write_bytes(b"")
    with pytest.raises(PermanentError, match=r"(?s)postgres ended with code .*pg_control"):
        acquire(home)
    with keeper.leases_file(home / "embedded").open("r+b") as leases:
        fcntl.flock(leases, fcntl.LOCK_EX | fcntl.LOCK_NB)
    control.write_bytes(contents)
    acquire(home)


def test_a_platform_without_programs_is_told_to_bring_a_database(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installation, "MAJOR_VERSION", 99)
    with pytest.raises(PermanentError, match=r"no embedded PostgreSQL 99 .* set METRICS_DATABASE_URL"):
        installation.binaries()


@pytest.mark.parametrize(
    ("file", "message"), [("keeper.lock", "is not ready yet"), ("leases.lock", "is still shutting down")]
)
def test_a_keeper_that_never_finishes_is_a_transient_error(
    home: Path, monkeypatch: pytest.MonkeyPatch, file: str, message: str
) -> None:
    monkeypatch.setattr(lease, "START_LIMIT_SECONDS", 0.1)
    (home / "embedded").mkdir(parents=True)
    with (home / "embedded" / file).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(TransientError, match=message):
            acquire(home)
    monkeypatch.undo()
    acquire(home)


def test_a_socket_folder_of_somebody_else_is_refused(home: Path) -> None:
    long_home = home / ("long" * 40)
    sockets = keeper.socket_folder(long_home / "embedded")
    sockets.mkdir(mode=0o700)
    sockets.chmod(0o777)
    try:
        with pytest.raises(PermanentError, match=f"{sockets} is not a private folder"):
            acquire(long_home)
    finally:
        sockets.rmdir()


def test_a_long_log_is_begun_anew_when_the_server_starts(home: Path) -> None:
    log = home / "embedded/server.log"
    log.parent.mkdir(parents=True)
    log.write_bytes(b"old\n" * 2**20 + b"!")
    acquire(home)
    assert log.stat().st_size < 10_000


def test_only_missing_rights_to_pass_are_added_and_the_programs_become_readable(home: Path) -> None:
    programs = home / "site/package" / f"pginstall{installation.MAJOR_VERSION}" / "bin"
    libraries = home / "site/package.libs"
    for folder in (programs, libraries, home / "mine"):
        folder.mkdir(parents=True)
    files = {programs / "postgres": 0o700, programs.parent / "share": 0o600, libraries / "libpq.so": 0o700}
    for path, mode in files.items():
        path.touch()
        path.chmod(mode)
    for folder in (home, home / "site", home / "site/package", programs.parent, programs, libraries, home / "mine"):
        folder.chmod(0o700)
    somebody = os.geteuid() + 1
    installation.let_through(somebody, home / "mine/data", programs)

    def modes(*paths: Path) -> list[int]:
        return [stat.S_IMODE(path.stat().st_mode) for path in paths]

    assert modes(home, home / "mine", home / "site", home / "site/package") == [0o701] * 4
    assert modes(programs.parent, programs, libraries, *files) == [0o705, 0o705, 0o705, 0o705, 0o604, 0o705]


def test_folders_of_the_servers_own_user_are_left_as_they_are(home: Path) -> None:
    home.mkdir(mode=0o700)
    installation.let_through(os.geteuid(), home / "data", installation.binaries())
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
