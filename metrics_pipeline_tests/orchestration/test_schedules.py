"""One tick of the nightly schedule: when it comes, and which day it asks for. Catching up is tested elsewhere."""

import tempfile
from collections.abc import Callable, Iterator
from datetime import date, datetime, timedelta
from itertools import takewhile
from typing import Any
from zoneinfo import ZoneInfo

import dagster as dg
import pytest
from dagster._utils.schedules import cron_string_iterator

from metrics_pipeline.definitions import build_defs
from metrics_pipeline.postgres.database import Database

Tick = Callable[..., Any]


@pytest.fixture(scope="module")
def instance() -> Iterator[dg.DagsterInstance]:
    """On disk, because each tick opens the instance again."""
    with tempfile.TemporaryDirectory() as folder, dg.DagsterInstance.local_temp(folder) as instance:
        yield instance


@pytest.fixture
def tick(database: Database, instance: dg.DagsterInstance) -> Tick:
    """What the schedule asks for when it is evaluated for the time `at`, on a database without logs."""

    def evaluate(at: str, **settings: Any) -> Any:
        defs = build_defs(lookback_days=1, **settings)
        with dg.build_schedule_context(
            instance,
            scheduled_execution_time=datetime.fromisoformat(at),
            resources={"database": database},
            repository_def=defs.get_repository_def(),
        ) as context:
            return defs.resolve_schedule_def("daily_metrics_schedule").evaluate_tick(context)

    return evaluate


@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "America/Havana"])
def test_it_runs_by_default_and_ticks_once_a_day_all_year_at_two_on_the_wall(zone: str) -> None:
    nightly = build_defs(time_zone=zone).resolve_schedule_def("daily_metrics_schedule")
    assert nightly.default_status is dg.DefaultScheduleStatus.RUNNING
    year = datetime(2025, 1, 1, tzinfo=ZoneInfo(zone))
    ticks = takewhile(
        lambda time: time.year == 2025,
        cron_string_iterator(year.timestamp(), nightly.cron_schedule, nightly.execution_timezone),
    )
    local = [time.astimezone(ZoneInfo(zone)) for time in ticks]
    assert [time.date() for time in local] == [date(2025, 1, 1) + timedelta(days=n) for n in range(365)]
    # Where clocks jump over two o'clock, the tick comes at the jump.
    jumps = [time for time in local if (time.hour, time.minute) != (2, 0)]
    assert len(jumps) <= 1
    assert all((time - timedelta(seconds=1)).utcoffset() != time.utcoffset() or time.hour == 3 for time in jumps)


@pytest.mark.parametrize(
    ("zone", "at", "day"),
    [
        ("UTC", "2025-07-12T02:00:00+00:00", "2025-07-11"),
        ("Asia/Tokyo", "2025-07-11T17:00:00+00:00", "2025-07-11"),
        ("America/New_York", "2025-07-12T06:00:00+00:00", "2025-07-11"),
        ("Europe/Berlin", "2025-03-30T03:00:00+02:00", "2025-03-29"),
        ("Europe/Berlin", "2025-03-31T02:00:00+02:00", "2025-03-30"),
        ("Europe/Berlin", "2025-10-26T02:00:00+02:00", "2025-10-25"),
        ("Europe/Berlin", "2025-10-27T02:00:00+01:00", "2025-10-26"),
        ("Pacific/Apia", "2025-01-01T13:00:00+00:00", "2025-01-01"),
    ],
)
def test_it_asks_for_the_day_that_has_just_ended_in_the_zone(tick: Tick, zone: str, at: str, day: str) -> None:
    evaluated = tick(at, time_zone=zone)
    assert [request.partition_key for request in evaluated.run_requests] == [day]


def test_what_it_asks_for_is_a_partition_of_its_job(tick: Tick) -> None:
    evaluated = tick("2025-07-12T02:00:00+00:00")
    (request,) = evaluated.run_requests
    job = build_defs().resolve_job_def("daily_metrics_job")
    job.validate_partition_key(request.partition_key, selected_asset_keys=None, context=None)
    assert request.tags["dagster/partition"] == "2025-07-11"
    assert request.run_config == {}


def test_before_the_first_day_has_ended_it_skips_and_says_why(tick: Tick) -> None:
    at = "2025-07-12T02:00:00+00:00"
    evaluated = tick(at, start_date=date(2025, 7, 12))
    assert evaluated.run_requests == []
    assert "METRICS_START_DATE, 2025-07-12" in evaluated.skip_message
    (request,) = tick(at, start_date=date(2025, 7, 11)).run_requests
    assert request.partition_key == "2025-07-11"
