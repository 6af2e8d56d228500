"""The days of most scenarios: one was stored and then corrected, the others are missing; and how they are repaired."""

from collections.abc import Sequence
from datetime import date, timedelta

from metrics_pipeline.log_files.sample_logs import store_sample
from metrics_pipeline.metrics.windows import day_window, days_between
from metrics_pipeline.postgres.database import Database
from metrics_pipeline.sample.agents import SampleSpec
from metrics_pipeline_tests.days import Log, aggregate, assert_exact, execute, query, store_logs
from metrics_pipeline_tests.orchestration.nights import Nights
from metrics_pipeline_tests.processes import HANGING_SECONDS

from .judge import assert_no_unfinished_run, assert_nothing_half_published, assert_nothing_left_behind
from .stage import Stage

DAYS = days_between(date(2025, 7, 11), date(2025, 7, 13))
FIRST, CORRECTED, LAST = DAYS
BACKFILL = ("backfill", "--from", FIRST, "--to", LAST)
NIGHT = "2025-07-14T02:00:00+00:00"
MORNING = "2025-07-14T08:00:00+00:00"

_CORRECT = """
UPDATE agent_execution_logs SET cost_usd = cost_usd * 3 + 0.000000001, latency_ms = latency_ms + :number
 WHERE "timestamp" >= :start AND "timestamp" < :end"""


def store_days(database: Database, logs_per_day: int = 300) -> None:
    """Nine agents, one of them inactive with logs, another active without."""
    spec = SampleSpec(seed=17, agents=9, logs_per_day=logs_per_day)
    store_sample(database, spec, DAYS, "UTC", lambda *_: None)
    aggregate(database, day_window(CORRECTED, "UTC"), run_id="long ago")
    correct(database, CORRECTED)


def correct(database: Database, day: date, number: int = 1) -> None:
    """A log of the day arrives late, and the others are corrected in place."""
    window = day_window(day, "UTC")
    ((agent,),) = query(database, "SELECT min(id) FROM agent_registry WHERE status = 'active'")
    store_logs(database, [Log(agent, "failed", 7, 11, "0.5", "late", timestamp=window.start + timedelta(hours=23))])
    execute(database, _CORRECT, start=window.start, end=window.end, number=number)


def heal(stage: Stage, database: Database, url: str) -> None:
    """The seed chooses how: by the night's schedule and the sensor, or by the same command again."""
    if stage.random.random() < 0.5:
        evaluate_schedule_and_sensor(stage, database)
    else:
        again = stage.start(url, *BACKFILL)
        stdout, stderr = again.communicate(timeout=HANGING_SECONDS)
        assert (again.returncode, stderr) == (0, ""), stdout


def evaluate_schedule_and_sensor(stage: Stage, database: Database) -> None:
    nights = Nights(database, stage.instance, {"start_date": FIRST})
    for tick in (nights.schedule(NIGHT), nights.sensor(MORNING)):
        assert [result for result in nights.launch(*tick.run_requests) if not result.success] == []
    assert nights.sensor(MORNING).run_requests == []


def assert_healed(stage: Stage, database: Database, days: Sequence[date] = DAYS) -> None:
    assert_nothing_half_published(database)
    for day in days:
        assert_exact(database, day_window(day, "UTC"))
    assert_nothing_left_behind(database)
    assert_no_unfinished_run(stage.instance, "daily_metrics_job")
