from datetime import UTC, date, datetime, timedelta

import pytest

from metrics_pipeline.metrics.windows import day_window, days_between, last_complete_day
from metrics_pipeline.orchestration.partitions import build_daily_partitions, window_of
from metrics_pipeline.settings import Settings
from metrics_pipeline_tests.examples import variants

FIRST, LAST = date(2018, 1, 1), date(2027, 12, 31)

ZONES = [
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "Africa/Cairo",  # skips midnight in spring
    "America/Sao_Paulo",  # skipped midnight until 2018
    "Asia/Beirut",  # skips midnight
    "America/Havana",  # midnight comes twice in autumn
    "America/Asuncion",  # skipped midnight until 2024, then gave up its changes
    "America/Santiago",
    "Atlantic/Azores",
    "Africa/Casablanca",  # two changes around Ramadan
    "Australia/Lord_Howe",  # half an hour
    "Asia/Tehran",  # gave up its changes in 2022
    "Pacific/Kiritimati",
    "Asia/Kathmandu",
]


@pytest.mark.parametrize("time_zone", variants(ZONES))
def test_windows_are_those_of_dagsters_partitions_and_follow_one_another_without_a_gap(time_zone: str) -> None:
    partitions = build_daily_partitions(
        Settings.from_environment({"METRICS_TIME_ZONE": time_zone, "METRICS_START_DATE": str(FIRST)})
    )
    end = None
    for day in days_between(FIRST, LAST):
        window = day_window(day, time_zone)
        assert window == window_of(partitions, day.isoformat())
        assert end in (None, window.start)
        end = window.end


@pytest.mark.parametrize(
    ("time_zone", "day", "start", "end"),
    [
        ("UTC", date(2025, 3, 4), "2025-03-04T00:00", "2025-03-05T00:00"),
        ("Europe/Berlin", date(2025, 3, 30), "2025-03-29T23:00", "2025-03-30T22:00"),
        ("Europe/Berlin", date(2025, 10, 26), "2025-10-25T22:00", "2025-10-26T23:00"),
        ("America/New_York", date(2025, 3, 9), "2025-03-09T05:00", "2025-03-10T04:00"),
        # 00:00 to 00:59 do not exist: the day starts at 01:00 there, the instant of the change.
        ("Africa/Cairo", date(2025, 4, 25), "2025-04-24T22:00", "2025-04-25T21:00"),
        ("America/Sao_Paulo", date(2018, 11, 4), "2018-11-04T03:00", "2018-11-05T02:00"),
        # At 24:00 clocks go back to 23:00, so the day before has 25 hours.
        ("America/Sao_Paulo", date(2018, 2, 17), "2018-02-17T02:00", "2018-02-18T03:00"),
        # At 01:00 clocks go back to 00:00, so midnight comes twice: the day starts at the first.
        ("America/Havana", date(2025, 11, 2), "2025-11-02T04:00", "2025-11-03T05:00"),
    ],
)
def test_a_window_by_hand(time_zone: str, day: date, start: str, end: str) -> None:
    window = day_window(day, time_zone)
    assert (window.start, window.end) == tuple(
        datetime.fromisoformat(moment).replace(tzinfo=UTC) for moment in (start, end)
    )
    assert window.start.tzinfo is window.end.tzinfo is UTC
    assert (window.metric_date, window.time_zone) == (day, time_zone)


def test_a_window_names_its_day_zone_and_instants() -> None:
    text = str(day_window(date(2025, 3, 30), "Europe/Berlin"))
    assert text == "2025-03-30 (Europe/Berlin: 2025-03-29 23:00Z to 2025-03-30 22:00Z)"


def test_days_between_includes_both_ends() -> None:
    assert days_between(date(2024, 2, 28), date(2024, 3, 1)) == [date(2024, 2, 28), date(2024, 2, 29), date(2024, 3, 1)]
    assert days_between(date(2024, 3, 1), date(2024, 3, 1)) == [date(2024, 3, 1)]
    assert days_between(date(2024, 3, 1), date(2024, 2, 29)) == []


@pytest.mark.parametrize(
    ("now", "time_zone", "expected"),
    [
        ("2025-03-05T00:00:00", "UTC", date(2025, 3, 4)),
        ("2025-03-04T23:59:59.999999", "UTC", date(2025, 3, 3)),
        ("2025-03-04T23:00:00", "Europe/Berlin", date(2025, 3, 4)),
        ("2025-03-05T04:59:59", "America/New_York", date(2025, 3, 3)),
        ("2025-03-04T10:00:00", "Pacific/Kiritimati", date(2025, 3, 4)),
        # Africa/Cairo goes from 23:59:59 on the 24th to 01:00 on the 25th.
        ("2025-04-24T22:00:00", "Africa/Cairo", date(2025, 4, 24)),
        ("2025-04-24T21:59:59", "Africa/Cairo", date(2025, 4, 23)),
    ],
)
def test_the_last_complete_day_ends_at_its_windows_end(now: str, time_zone: str, expected: date) -> None:
    instant = datetime.fromisoformat(now).replace(tzinfo=UTC)
    day = last_complete_day(instant, time_zone)
    assert day == expected
    assert day_window(day, time_zone).end <= instant < day_window(day + timedelta(days=1), time_zone).end
