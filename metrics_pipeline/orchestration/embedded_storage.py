"""Dagster's storage in the embedded PostgreSQL, for `metrics-pipeline dev` and all that share its instance."""

from pathlib import Path
from typing import Any

from dagster import StringSource
from dagster_postgres import DagsterPostgresStorage
from sqlalchemy import create_engine

from metrics_pipeline.embedded import acquire, ensure_database
from metrics_pipeline.orchestration.dagster_internals import StorageConfiguration, use_engine

_DATABASE = "dagster"


class EmbeddedPostgresStorage(DagsterPostgresStorage):
    """Runs, events, schedules and sensors in a separate database on the embedded server.

    Every process that opens the instance (webserver, daemon, code server, run worker) creates one of these, which takes
    a lease on the server. So the server runs exactly as long as a process needs it.
    """

    def __init__(self, postgres_url: str, *, inst_data: StorageConfiguration | None = None) -> None:
        super().__init__(postgres_url, inst_data=inst_data)
        # Dagster connects again for each statement, five times for the event of a day: a backfill of 10,000 logs a day
        # took a quarter longer. Two connections stay open, because Dagster takes a second one within a transaction.
        # Each is probed before use, because the server may have been restarted.
        engine = create_engine(
            postgres_url, isolation_level="AUTOCOMMIT", pool_size=2, max_overflow=-1, pool_pre_ping=True
        )
        use_engine(self, engine)

    @classmethod
    def config_type(cls) -> dict[str, Any]:
        """The only setting: METRICS_PIPELINE_HOME, the folder of the server."""
        return {"home": StringSource}

    @classmethod
    def from_config_value(  # type: ignore[override]  # other settings than the superclass's
        cls, inst_data: StorageConfiguration | None, config_value: dict[str, Any]
    ) -> "EmbeddedPostgresStorage":
        """Starts the server if it is not running, and creates the database if it does not exist."""
        uri = ensure_database(acquire(Path(config_value["home"])), _DATABASE)
        # SQLAlchemy 2.1 reads a bare postgresql:// as psycopg 3, with which dagster-postgres fails at its first NOTIFY.
        return cls(postgres_url=uri.replace("postgresql://", "postgresql+psycopg2://", 1), inst_data=inst_data)
