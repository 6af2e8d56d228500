"""A clock that is moved back an hour between two ticks: no day is asked for twice, and no stored row changes."""

from metrics_pipeline_tests.days import written_rows
from metrics_pipeline_tests.orchestration.nights import Nights

from .days import BACKFILL, FIRST, assert_healed, evaluate_schedule_and_sensor, store_days
from .stage import Play, Stage

_AN_HOUR_BEFORE_NIGHT = "2025-07-14T01:00:00+00:00"
_LATE_YESTERDAY = "2025-07-13T23:30:00+00:00"


def test_ticks_of_a_clock_that_was_moved_back_change_no_stored_day(stage: Stage) -> None:
    _, database = stage.prepared(Play(BACKFILL, store_days))
    evaluate_schedule_and_sensor(stage, database)
    stored = written_rows(database)
    nights = Nights(database, stage.instance, {"start_date": FIRST})
    earlier = stage.random.choice([_AN_HOUR_BEFORE_NIGHT, _LATE_YESTERDAY])
    assert [*nights.schedule(earlier).run_requests, *nights.sensor(earlier).run_requests] == []
    assert written_rows(database) == stored
    assert_healed(stage, database)
