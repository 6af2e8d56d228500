"""One embedded server for the whole session, and a fresh database for each test that asks for one."""

import gc
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest
from hypothesis import HealthCheck, settings
from psycopg import sql

from metrics_pipeline.embedded import acquire, release, server_pid
from metrics_pipeline.postgres.database import Database
from metrics_pipeline.postgres.tables import upstream_metadata
from metrics_pipeline.postgres.upgrading import upgrade
from metrics_pipeline.postgres.urls import DatabaseUrl
from metrics_pipeline_tests.databases import scratch_database
from metrics_pipeline_tests.examples import IS_CI, examples
from metrics_pipeline_tests.homes import (
    HOME_VARIABLE,
    copy_cluster,
    new_folder,
    remove_left_folders,
    scratch_folder,
    scratch_home,
)
from metrics_pipeline_tests.processes import CLI, Start, bare_environment, wait_until

#: Names the CSV file of real executions, for those who have it.
REAL_LOGS_VARIABLE = "PIPELINE_TESTS_REAL_LOGS"


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options of faults/ and cli/, which pytest reads only from a conftest.py that it knows from the beginning."""
    group = parser.getgroup("faults")
    only = "; without either option, only those marked as smoke are played, with seed 0"
    group.addoption("--seeds", type=int, metavar="N", help=f"play each scenario of faults/ with N seeds{only}")
    group.addoption("--seed", type=int, metavar="K", help=f"play each scenario of faults/ with this seed only{only}")
    group.addoption("--renew-screens", action="store_true", help="write the files of cli/screens again")


def pytest_configure() -> None:
    """Names the folder of all files and the home of the session's server, for workers to inherit the names."""
    # Looking for garbage among what every process imports for the tests took a fifth of the time of importing it.
    gc.disable()
    if "PYTEST_XDIST_WORKER" not in os.environ:
        # With it, every worker and every process that a test starts would compile the package again.
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        os.environ["TMPDIR"] = tempfile.tempdir = scratch_folder()
        remove_left_folders()
        os.environ[HOME_VARIABLE] = str(new_folder())
        # The default home, where a demo leaves its first day and dimensions. Some 50 tests took them for the defaults.
        os.environ["XDG_DATA_HOME"] = str(Path(os.environ[HOME_VARIABLE], "data"))


def pytest_unconfigure() -> None:
    """Waits for the server's end, which the last worker's lease brings about, and removes what it leaves."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        home = Path(os.environ.pop(HOME_VARIABLE))
        wait_until(lambda: server_pid(home) is None)
        shutil.rmtree(home)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Two workers more than cores, because a worker waits more than half of the time for processes that it started."""
    return (os.cpu_count() or 1) + 2


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves the tests for CI to CI, and puts long ones first in the shares that --dist=worksteal hands out.

    So none of the long ones begins last.
    """
    for_ci = [item for item in items if item.get_closest_marker("ci") and not IS_CI]
    config.hook.pytest_deselected(items=for_ci)
    items[:] = [item for item in items if item not in for_ci]
    workers = getattr(config, "workerinput", {"workercount": 1})["workercount"]
    long = [item for item in items if item.get_closest_marker("long")]
    others = [item for item in items if not item.get_closest_marker("long")]
    share = -(-len(others) // workers)
    items[:] = [
        item
        for worker in range(workers)
        for item in (*long[worker::workers], *others[worker * share : (worker + 1) * share])
    ]


def pytest_collection_finish() -> None:
    """Leaves modules and collected tests to no search for garbage any more."""
    gc.enable()
    gc.freeze()


#: Rooms whose tests see no difference. A test makes fifteen transactions, and a new session for each of them took the
#: server more processor time than everything else together.
_KEEPING_CONNECTIONS = {"api", "checks", "log_files", "logs", "retention", "store"}

settings.register_profile(
    "default",
    examples(100),
    deadline=None,  # a shared machine is slow at times; slowness is measured in the benchmarks
    derandomize=False,  # in CI, Hypothesis would otherwise draw the same cases each time
    print_blob=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
settings.load_profile("default")


@pytest.fixture(autouse=True, scope="session")
def _no_inherited_configuration() -> None:
    for name in [name for name in os.environ if name.startswith(("METRICS_", "DAGSTER_", "PG"))]:
        del os.environ[name]


@pytest.fixture(autouse=True, scope="session")
def _quick_dagster() -> Iterator[None]:
    if "dagster" not in sys.modules:
        yield
        return
    from metrics_pipeline_tests.quick_dagster import quick_dagster

    with quick_dagster():
        yield


@pytest.fixture(autouse=True, scope="session")
def _one_trust_store() -> Iterator[None]:
    """Reads the system's certificates once. Every client of HTTP did, in 40 ms: two thirds of what a server took."""
    if "httpcore2" not in sys.modules:
        yield
        return
    import httpcore2

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(httpcore2, "default_ssl_context", cache(httpcore2.default_ssl_context))
        yield


@pytest.fixture(scope="session")
def server_home() -> Iterator[Path]:
    """METRICS_PIPELINE_HOME of the session, shared by the workers of pytest-xdist."""
    home = Path(os.environ[HOME_VARIABLE])
    yield home
    release(home)


@pytest.fixture(scope="session")
def server_uri(server_home: Path) -> str:
    """The libpq URI of the session's server.

    Its data is temporary, so it does not wait for the disk. A test that kills a server uses another one, which does.
    """
    copy_cluster(server_home)
    uri = acquire(server_home)
    with psycopg.connect(uri, autocommit=True) as connection:
        for setting in ("fsync", "synchronous_commit", "full_page_writes"):
            connection.execute(sql.SQL("ALTER SYSTEM SET {} = off").format(sql.Identifier(setting)))
        connection.execute("SELECT pg_reload_conf()")
    return uri


@pytest.fixture(scope="session")
def _server_connection(server_uri: str) -> Iterator[psycopg.Connection]:
    """The worker's session that creates and drops the databases: two sessions were a third of the price of each."""
    with psycopg.connect(server_uri, autocommit=True) as connection:
        yield connection


@pytest.fixture(scope="session")
def _template(server_uri: str) -> Iterator[str]:
    with scratch_database(server_uri, "template0") as uri:
        database = Database(DatabaseUrl.parse(uri))
        upstream_metadata.create_all(database.engine)
        upgrade(database)
        yield urlsplit(uri).path[1:]


@pytest.fixture(scope="module")
def _stored_template(
    request: pytest.FixtureRequest, server_uri: str, _template: str, _server_connection: psycopg.Connection
) -> Iterator[str]:
    with scratch_database(server_uri, _template, _server_connection) as uri:
        database = Database(DatabaseUrl.parse(uri))
        request.module.store(database)
        database.engine.dispose()
        yield urlsplit(uri).path[1:]


@pytest.fixture
def database_url(
    request: pytest.FixtureRequest, server_uri: str, _template: str, _server_connection: psycopg.Connection
) -> Iterator[str]:
    """A database with all tables and nothing in them; for a test that asks for `stored`, with what that says."""
    has_more = "stored" in request.fixturenames and hasattr(request.module, "store")
    template = request.getfixturevalue("_stored_template") if has_more else _template
    with scratch_database(server_uri, template, _server_connection) as uri:
        yield uri


@pytest.fixture
def database(request: pytest.FixtureRequest, database_url: str) -> Iterator[Database]:
    """The same, opened."""
    database = Database(DatabaseUrl.parse(database_url))
    if request.path.parent.name not in _KEEPING_CONNECTIONS:
        yield database
        return
    with database.keeping_connections() as kept:
        yield kept


@pytest.fixture
def stored(database: Database) -> Database:
    """The test's database, with what the module's function store() has put into the one that it is a copy of."""
    return database


@pytest.fixture
def logs(database: Database) -> None:
    """The logs of orchestration.runs.DAYS, and their agents."""
    from metrics_pipeline_tests.orchestration.runs import store_logs_of_days

    store_logs_of_days(database)


@pytest.fixture
def bare_database_url(server_uri: str, _server_connection: psycopg.Connection) -> Iterator[str]:
    """A database without any table."""
    with scratch_database(server_uri, "template0", _server_connection) as uri:
        yield uri


@pytest.fixture
def real_logs() -> Path:
    """The file of real executions."""
    if not os.environ.get(REAL_LOGS_VARIABLE):
        pytest.skip(f"{REAL_LOGS_VARIABLE} does not name the file of real executions")
    return Path(os.environ[REAL_LOGS_VARIABLE])


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    """METRICS_PIPELINE_HOME of the module's commands. At the end their processes and files are removed."""
    with scratch_home() as home:
        yield home


@pytest.fixture
def start(home: Path) -> Iterator[Start]:
    """Starts a command; what still runs at the end of the test is killed."""
    started: list[subprocess.Popen[str]] = []

    def popen(*arguments: object, program: tuple[str, ...] = CLI, **environment: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [*program, *map(str, arguments)],
            env=bare_environment(home) | environment,
            cwd=home.parent,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield popen
    for process in started:
        process.kill()
        process.communicate()
