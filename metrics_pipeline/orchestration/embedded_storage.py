"""Dagster's storage in the embedded PostgreSQL, for `metrics-pipeline dev` and all that share its instance."""

import os
from pathlib import Path
from typing import Any

from dagster import StringSource
from dagster_postgres import DagsterPostgresStorage
from psycopg2 import ProgrammingError
from psycopg2.extensions import parse_dsn
from sqlalchemy import URL, Engine, create_engine, event
from sqlalchemy.dialects import plugins
from sqlalchemy.engine import CreateEnginePlugin

from metrics_pipeline.embedded import acquire, before_connecting, ensure_database
from metrics_pipeline.orchestration.dagster_internals import StorageConfiguration, quieten_first_start, use_engine

_DATABASE = "dagster"
_PLUGIN = "metrics_pipeline_embedded_server"
_HOME = "metrics_pipeline_home"


class _EmbeddedServerPlugin(CreateEnginePlugin):
    """What each engine on the storage's URL does, whoever creates it: the webserver makes engines of its own.

    A connection starts a server that was killed, and libpq's environment does not matter to it.
    """

    def __init__(self, url: URL, kwargs: dict[str, Any]) -> None:
        self._home = Path(os.fsdecode(bytes.fromhex(str(url.query[_HOME]))))
        # A kept connection is probed before use, because the server may have been restarted.
        kwargs["pool_pre_ping"] = True

    def update_url(self, url: URL) -> URL:
        return url.difference_update_query([_HOME])

    def engine_created(self, engine: Engine) -> None:
        event.listen(engine, "do_connect", before_connecting(self._home, is_known=_is_known_to_psycopg2))


plugins.register(_PLUGIN, __name__, _EmbeddedServerPlugin.__name__)
# Here, because the daemon of `dev` imports no other module of ours that an instance of one's own does not name.
quieten_first_start()


def _is_known_to_psycopg2(option: str) -> bool:
    # Its libpq is older than psycopg's.
    try:
        parse_dsn(f"{option}=''")
    except ProgrammingError:
        return False
    return True


class EmbeddedPostgresStorage(DagsterPostgresStorage):
    """Runs, events, schedules and sensors in a separate database on the embedded server.

    Every process that opens the instance (webserver, daemon, code server, run worker) creates one of these, which takes
    a lease on the server. So the server runs exactly as long as a process needs it.
    """

    def __init__(self, postgres_url: str, *, inst_data: StorageConfiguration | None = None) -> None:
        super().__init__(postgres_url, inst_data=inst_data)
        # Dagster connects again for each statement, five times for the event of a day: a backfill of 10,000 logs a day
        # took a quarter longer. Two connections stay open, because Dagster takes a second one within a transaction.
        use_engine(self, create_engine(postgres_url, isolation_level="AUTOCOMMIT", pool_size=2, max_overflow=-1))

    @classmethod
    def config_type(cls) -> dict[str, Any]:
        """The only setting: METRICS_PIPELINE_HOME, the folder of the server."""
        return {"home": StringSource}

    @classmethod
    def from_config_value(  # type: ignore[override]  # other settings than the superclass's
        cls, inst_data: StorageConfiguration | None, config_value: dict[str, Any]
    ) -> "EmbeddedPostgresStorage":
        """Starts the server if it is not running, and creates the database if it does not exist."""
        home = config_value["home"]
        uri = ensure_database(acquire(Path(home)), _DATABASE)
        # SQLAlchemy 2.1 reads a bare postgresql:// as psycopg 3, with which dagster-postgres fails at its first NOTIFY.
        url = uri.replace("postgresql://", "postgresql+psycopg2://", 1)
        # In hexadecimal, because a path may hold any byte.
        return cls(postgres_url=f"{url}&plugin={_PLUGIN}&{_HOME}={os.fsencode(home).hex()}", inst_data=inst_data)
