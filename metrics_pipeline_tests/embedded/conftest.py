"""Homes of an embedded server and the processes that hold a lease on it."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from metrics_pipeline.embedded import release
from metrics_pipeline_tests.homes import copy_cluster, has_ended, new_folder
from metrics_pipeline_tests.processes import wait_until

from .holder import Holder


@pytest.fixture
def home() -> Iterator[Path]:
    """A new home with a short path. Its server is stopped at the end of the test."""
    base = new_folder()
    home = base / "h"
    yield home
    release(home)
    try:
        wait_until(lambda: has_ended(home))
    finally:
        for process in psutil.process_iter(["cwd"]):
            if (process.info["cwd"] or "").startswith(f"{base}/"):
                process.kill()
        shutil.rmtree(base)


@pytest.fixture
def cluster(home: Path) -> None:
    """The home has its data already. Tests of initdb do not use it."""
    copy_cluster(home)


@pytest.fixture
def hold(home: Path) -> Iterator[Callable[..., Holder]]:
    holders: list[Holder] = []

    def start(**how: object) -> Holder:
        holders.append(Holder(home, **how))
        return holders[-1]

    yield start
    for holder in holders:
        holder.kill()
