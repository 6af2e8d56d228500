"""Runs of the daily job in this process, on an instance of their own and a database of the test's."""

from collections.abc import Iterator, Mapping
from datetime import date
from typing import Any

import dagster as dg
import pytest
from dagster._core.definitions.job_base import InMemoryJob
from dagster._core.execution.api import execute_run_iterator
from dagster._core.storage.tags import ASSET_PARTITION_RANGE_END_TAG, ASSET_PARTITION_RANGE_START_TAG

from metrics_pipeline.definitions import build_defs
from metrics_pipeline.postgres.database import Database

from .runs import KEY, Ended, FaultAt, Run, execute


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


@pytest.fixture
def run(database_url: str, instance: dg.DagsterInstance) -> Run:
    """Runs daily_metrics_job over the days from `first` to `last`, as the daemon does it for a backfill."""
    job = build_defs(database_url=database_url).resolve_job_def("daily_metrics_job")

    def execute(
        first: date,
        last: date | None = None,
        *,
        config: Mapping[str, Any] | None = None,
        tags: Mapping[str, str] | None = None,
        parent: Ended | None = None,
    ) -> Ended:
        created = instance.create_run_for_job(
            job,
            run_config={"ops": {KEY.to_python_identifier(): {"config": dict(config)}}} if config else {},
            tags={
                ASSET_PARTITION_RANGE_START_TAG: first.isoformat(),
                ASSET_PARTITION_RANGE_END_TAG: (last or first).isoformat(),
                **(tags or {}),
            },
            parent_run_id=parent and parent.run.run_id,
            root_run_id=parent and parent.run.run_id,
        )
        events = list(execute_run_iterator(InMemoryJob(job), created, instance))
        ended = instance.get_run_by_id(created.run_id)
        assert ended is not None
        return Ended(ended, events)

    return execute


@pytest.fixture
def fault_at(database: Database) -> FaultAt:
    """Has PostgreSQL run `what` when the ledger's row of `day` is written, the first `times` times."""

    def arrange(day: object, what: str, times: int) -> None:
        # A sequence counts on when its transaction is rolled back.
        execute(database, "CREATE SEQUENCE faults")
        execute(
            database,
            f"""CREATE FUNCTION fault() RETURNS trigger LANGUAGE plpgsql AS $$
                BEGIN
                    IF NEW.metric_date = '{day}' AND nextval('faults') <= {times} THEN {what} END IF;
                    RETURN NEW;
                END $$""",
        )
        execute(
            database,
            "CREATE TRIGGER fault BEFORE INSERT OR UPDATE ON metric_day_ledger FOR EACH ROW EXECUTE FUNCTION fault()",
        )

    return arrange
