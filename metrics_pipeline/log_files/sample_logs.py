"""Putting a sample into the database: the agents and, day by day, their logs."""

from collections.abc import Callable, Iterator, Sequence
from datetime import date

import polars as pl

from metrics_pipeline.log_files.loading import load_logs, register_agents
from metrics_pipeline.metrics.windows import DayWindow, day_window
from metrics_pipeline.postgres.database import Database
from metrics_pipeline.sample.agents import SampleSpec, sample_agents
from metrics_pipeline.sample.days import sample_day


def store_sample(
    database: Database, spec: SampleSpec, days: Sequence[date], time_zone: str, on_logs: Callable[[date, int], None]
) -> int:
    """Registers the agents of `spec` and stores their logs of `days`; returns how many logs are new.

    Each day is one transaction. Logs and agents that are stored already are left as they are, so an interrupted
    call can be made again.
    `on_logs` hears the day and how many more of its logs were generated.
    """

    def reported(window: DayWindow) -> Iterator[pl.DataFrame]:
        for logs in sample_day(spec, window.start, window.end, window.metric_date):
            yield logs
            on_logs(window.metric_date, logs.height)

    with database.begin() as connection:
        register_agents(connection, sample_agents(spec))
    stored = 0
    for day in days:
        with database.begin() as connection:
            stored += load_logs(connection, reported(day_window(day, time_zone)))
    return stored
