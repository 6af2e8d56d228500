"""A night of one Dagster instance as a process: its schedule's tick, its sensor's, and the runs that they ask for."""

from pathlib import Path

from metrics_pipeline.orchestration import failures
from metrics_pipeline.orchestration.instance import open_instance
from metrics_pipeline.postgres.database import Database
from metrics_pipeline.postgres.urls import DatabaseUrl
from metrics_pipeline.settings import Settings
from metrics_pipeline_tests.orchestration.nights import Nights

from .days import FIRST, MORNING, NIGHT


def main(home: str, url: str) -> int:
    failures.FIRST_PAUSE_SECONDS = 0.1
    with open_instance(Settings(Path(home))) as instance:
        nights = Nights(Database(DatabaseUrl.parse(url)), instance, {"start_date": FIRST})
        results = nights.launch(*nights.schedule(NIGHT).run_requests)
        results += nights.launch(*nights.sensor(MORNING).run_requests)
    print("runs:", len(results))
    return sum(not result.success for result in results)
