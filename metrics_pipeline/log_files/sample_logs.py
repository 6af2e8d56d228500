"""Putting a sample into the database: the agents, day by day their logs, and alerts."""

from collections.abc import Callable, Iterator, Sequence
from datetime import date

import polars as pl
from sqlalchemy import text

from metrics_pipeline.log_files.loading import load_logs, register_agents
from metrics_pipeline.metrics.windows import DayWindow, day_window
from metrics_pipeline.postgres.database import Database
from metrics_pipeline.sample.agents import SampleSpec, sample_agents
from metrics_pipeline.sample.alerts import sample_alerts
from metrics_pipeline.sample.days import sample_day

_NEW_ALERTS = text("""
INSERT INTO alert_history (agent_id, alert_type, severity, message, triggered_at, resolved_at)
SELECT :agent_id, :alert_type, :severity, :message, :triggered_at, :resolved_at
 WHERE NOT EXISTS (SELECT FROM alert_history WHERE (agent_id, triggered_at) = (:agent_id, :triggered_at))""")


def store_sample(
    database: Database,
    spec: SampleSpec,
    days: Sequence[date],
    time_zone: str,
    on_logs: Callable[[date, int], None],
    *,
    outage: date | None = None,
) -> int:
    """Registers the agents of `spec` and stores their logs of `days`; returns how many logs are new.

    Each day is one transaction. Logs and agents that are stored already are left as they are, so an interrupted
    call can be made again. `outage` is the day on which one of the agents has an outage, unless it is stored already.
    `on_logs` hears the day and how many more of its logs were generated.
    """

    def reported(window: DayWindow) -> Iterator[pl.DataFrame]:
        day = window.metric_date
        for logs in sample_day(spec, window.start, window.end, day, has_outage=day == outage):
            yield logs
            on_logs(window.metric_date, logs.height)

    with database.begin() as connection:
        register_agents(connection, sample_agents(spec))
    stored = 0
    for day in days:
        with database.begin() as connection:
            stored += load_logs(connection, reported(day_window(day, time_zone)))
    return stored


def store_sample_alerts(
    database: Database, spec: SampleSpec, days: Sequence[date], time_zone: str, *, outage: date | None = None
) -> None:
    """Stores the alerts of `days` in the alert_history that we have created; those that are stored stay as they are."""
    alerts = pl.concat(
        sample_alerts(spec, day_window(day, time_zone).start, day, has_outage=day == outage) for day in days
    )
    with database.begin() as connection:
        connection.execute(_NEW_ALERTS, alerts.to_dicts())
