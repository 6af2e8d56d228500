"""Two Dagster instances whose schedules and sensors ask for the same days of one database at the same time."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from metrics_pipeline.orchestration.instance import open_instance
from metrics_pipeline.settings import Settings
from metrics_pipeline_tests.days import query
from metrics_pipeline_tests.forked import Forked
from metrics_pipeline_tests.homes import scratch_home
from metrics_pipeline_tests.processes import HANGING_SECONDS, bare_environment

from . import night
from .days import BACKFILL, CORRECTED, DAYS, assert_healed, correct, evaluate_schedule_and_sensor, store_days
from .judge import assert_no_unfinished_run, assert_nothing_half_published
from .stage import Play, Stage

_UP_TO_SECONDS = 1.5


@pytest.fixture(scope="module")
def other_home() -> Iterator[Path]:
    with scratch_home() as home:
        yield home


@pytest.mark.half_the_seeds
def test_two_instances_that_run_the_same_days_at_once_end_with_the_oracles_numbers(
    stage: Stage, home: Path, other_home: Path
) -> None:
    url, database = stage.prepared(Play(BACKFILL, store_days))
    both = []
    for each in (home, other_home):
        both.append(Forked(night.main, str(each), url, environment=bare_environment(each), folder=each.parent))
        time.sleep(stage.random.uniform(0, _UP_TO_SECONDS))
    for number in range(1, 4):
        time.sleep(stage.random.uniform(0, _UP_TO_SECONDS))
        correct(database, stage.random.choice(DAYS), number=number)
    for process in both:
        stdout, stderr = process.communicate(timeout=HANGING_SECONDS)
        # No run fails because another instance's was there first.
        assert process.returncode == 0, stdout + stderr
    assert_nothing_half_published(database)
    with open_instance(Settings(home=other_home)) as instance:
        assert_no_unfinished_run(instance, "daily_metrics_job")
    correct(database, CORRECTED, number=9)
    evaluate_schedule_and_sensor(stage, database)
    assert_healed(stage, database)
    assert query(database, "SELECT metric_date FROM metric_day_ledger ORDER BY 1") == [(day,) for day in DAYS]
