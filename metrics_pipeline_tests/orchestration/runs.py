"""Runs of the daily job that have ended, and what they stored, of some days that have logs."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from functools import cache

import dagster as dg
from dagster._core.storage.partition_status_cache import get_and_update_asset_status_cache_value
from sqlalchemy import text

from metrics_pipeline.definitions import build_defs
from metrics_pipeline.log_files.sample_logs import store_sample
from metrics_pipeline.metrics.windows import day_window, days_between
from metrics_pipeline.postgres.database import Database
from metrics_pipeline.sample.agents import SampleSpec
from metrics_pipeline_tests.oracle import expected_metrics, stored_metrics

KEY = dg.AssetKey("agent_performance_metrics")
#: A Friday to a Sunday.
DAYS = days_between(date(2025, 7, 11), date(2025, 7, 13))
#: One of the nine agents is inactive and has logs, another is active and has none.
SPEC = SampleSpec(seed=3, agents=9, logs_per_day=200)


@dataclass
class Ended:
    """A run that has ended, and its events."""

    run: dg.DagsterRun
    events: list[dg.DagsterEvent]

    @property
    def succeeded(self) -> bool:
        return self.run.status is dg.DagsterRunStatus.SUCCESS

    @property
    def days(self) -> list[str | None]:
        """The partitions that it materialised, in that order."""
        return [materialization.partition for materialization in self.materializations]

    @property
    def materializations(self) -> list[dg.AssetMaterialization]:
        """Those of agent_performance_metrics."""
        events = self.of_type(dg.DagsterEventType.ASSET_MATERIALIZATION)
        return [event.step_materialization_data.materialization for event in events if event.asset_key == KEY]

    @property
    def failure(self) -> str:
        (event,) = self.of_type(dg.DagsterEventType.STEP_FAILURE)
        data = event.step_failure_data
        return data.user_failure_data.description if data.user_failure_data else data.error.to_string()

    @property
    def retries(self) -> int:
        return len(self.of_type(dg.DagsterEventType.STEP_UP_FOR_RETRY))

    def of_type(self, event_type: dg.DagsterEventType) -> list[dg.DagsterEvent]:
        return [event for event in self.events if event.event_type is event_type]


#: The same settings have the same definitions, as from tick to tick in a code server. Building them takes 40 ms.
definitions = cache(build_defs)

Run = Callable[..., Ended]
FaultAt = Callable[..., None]


def store_logs_of_days(database: Database) -> None:
    """The logs of DAYS, and their agents."""
    store_sample(database, SPEC, DAYS, "UTC", lambda _day, _logs: None)


def partitions(instance: dg.DagsterInstance) -> tuple[set[str], set[str]]:
    """The asset's materialised and its failed partitions, as the UI shows them."""
    definition = definitions().resolve_asset_graph().get(KEY).partitions_def
    status = get_and_update_asset_status_cache_value(instance, KEY, definition)
    materialized = status.deserialize_materialized_partition_subsets(definition).get_partition_keys()
    return set(materialized), set(status.deserialize_failed_partition_subsets(definition).get_partition_keys())


def execute(database: Database, statement: str, **parameters: object) -> None:
    with database.engine.begin() as connection:
        connection.execute(text(statement), parameters)


def ledger(database: Database) -> dict[date, str]:
    """The days that are stored, and the runs that stored them."""
    with database.engine.connect() as connection:
        rows = connection.execute(text("SELECT metric_date, run_id FROM metric_day_ledger ORDER BY metric_date"))
        return {row.metric_date: row.run_id for row in rows}


def restatement_reasons(database: Database) -> set[str]:
    with database.engine.connect() as connection:
        return set(connection.scalars(text("SELECT reason FROM metric_restatements")))


def assert_equal_to_oracle(database: Database, *days: date, include_inactive: bool = False) -> None:
    with database.engine.connect() as connection:
        for day in days:
            window = day_window(day, "UTC")
            expected = expected_metrics(connection, window.start, window.end, include_inactive=include_inactive)
            assert expected
            assert stored_metrics(connection, day) == expected
