"""The seeds, how to repeat a failing one, and the stage of the scenarios."""

import random
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import dagster as dg
import pytest

from metrics_pipeline.embedded import acquire
from metrics_pipeline.orchestration.instance import open_instance
from metrics_pipeline.settings import Settings
from metrics_pipeline_tests.databases import scratch_database
from metrics_pipeline_tests.forked import forking
from metrics_pipeline_tests.homes import scratch_home

from .stage import Stage, Start


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "seed" in metafunc.fixturenames:
        only = metafunc.config.getoption("seed")
        seeds_asked = metafunc.config.getoption("seeds")
        number = 1 if seeds_asked is None else seeds_asked
        if metafunc.definition.get_closest_marker("half_the_seeds"):
            number = -(-number // 2)
        if metafunc.definition.get_closest_marker("few_seeds"):
            number = min(number, 2)
        seeds = range(number) if only is None else [only]
        metafunc.parametrize("seed", seeds, ids="seed{}".format)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("seed") is None and config.getoption("seeds") is None:
        left_out = [item for item in items if _is_scenario(item) and not item.get_closest_marker("smoke")]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


def _is_scenario(item: pytest.Item) -> bool:
    return item.path.parent == Path(__file__).parent


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report = yield
    if report.failed and hasattr(item, "callspec") and "seed" in item.callspec.params:
        seed = item.callspec.params["seed"]
        replay = f".venv/bin/python -m pytest --numprocesses=0 --seed {seed} '{item.nodeid}'"
        report.sections.append(("how to replay this fault", replay))
    return report


@pytest.fixture(scope="session")
def home() -> Iterator[Path]:
    """METRICS_PIPELINE_HOME of the worker's commands: their Dagster instance, in a server of its own."""
    with scratch_home() as home:
        yield home


@pytest.fixture(scope="module")
def private_home() -> Iterator[Path]:
    """A server that serves nobody else."""
    with scratch_home() as home:
        acquire(home)
        yield home


@pytest.fixture(scope="session")
def instance(home: Path) -> Iterator[dg.DagsterInstance]:
    with open_instance(Settings(home=home)) as instance:
        yield instance


@pytest.fixture
def start(home: Path) -> Iterator[Start]:
    """Starts a command; what still runs at the end of the test is killed."""
    with forking(home) as start:
        yield start


@pytest.fixture
def stage(
    request: pytest.FixtureRequest,
    seed: int,
    server_uri: str,
    _template: str,
    instance: dg.DagsterInstance,
    start: Start,
) -> Iterator[Stage]:
    """A stage whose random choices follow from the scenario's name and the seed."""
    scenario = request.function.__name__
    with ExitStack() as databases:
        yield Stage(
            scenario,
            random.Random(zlib.crc32(f"{scenario}/{seed}".encode())),
            instance,
            start,
            lambda template: databases.enter_context(scratch_database(server_uri, template or _template)),
        )
