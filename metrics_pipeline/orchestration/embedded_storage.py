"""Dagster's own storage in the embedded PostgreSQL, for `metrics-pipeline dev` and whoever shares its instance."""

from pathlib import Path
from typing import Any

from dagster import StringSource
from dagster_postgres import DagsterPostgresStorage
from sqlalchemy import create_engine

from metrics_pipeline.embedded import acquire, ensure_database
from metrics_pipeline.orchestration.dagster_internals import StorageConfiguration, use_engine

_DATABASE = "dagster"


class EmbeddedPostgresStorage(DagsterPostgresStorage):
    """Runs, events, schedules and sensors in a database of their own on the embedded server.

    Every process that opens the instance (webserver, daemon, code server, run worker) makes one of these, and with
    it takes its own lease on the server, so the server lives exactly as long as somebody needs it.
    """

    def __init__(self, postgres_url: str, *, inst_data: StorageConfiguration | None = None) -> None:
        super().__init__(postgres_url, inst_data=inst_data)
        # Dagster connects again for each statement, five times for the event of a day: a backfill of 10,000 logs a day
        # took a quarter longer. Two connections stay open, because Dagster takes a second one within a transaction.
        # Each is probed before it is used, because the server may have been restarted meanwhile.
        engine = create_engine(
            postgres_url, isolation_level="AUTOCOMMIT", pool_size=2, max_overflow=-1, pool_pre_ping=True
        )
        use_engine(self, engine)

    @classmethod
    def config_type(cls) -> dict[str, Any]:
        """The only setting: METRICS_PIPELINE_HOME, whose server it is."""
        return {"home": StringSource}

    @classmethod
    def from_config_value(  # type: ignore[override]  # other settings than the superclass's
        cls, inst_data: StorageConfiguration | None, config_value: dict[str, Any]
    ) -> "EmbeddedPostgresStorage":
        """Starts the server if nobody has, and makes the database if it is not there."""
        uri = ensure_database(acquire(Path(config_value["home"])), _DATABASE)
        # A bare postgresql:// means psycopg 3 to SQLAlchemy 2.1, with which dagster-postgres fails at its first NOTIFY.
        return cls(postgres_url=uri.replace("postgresql://", "postgresql+psycopg2://", 1), inst_data=inst_data)
