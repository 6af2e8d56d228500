"""From settings to an open database: the one that a URL names, or the embedded one, started and prepared."""

from dataclasses import replace

from metrics_pipeline.embedded import acquire
from metrics_pipeline.postgres.database import Database
from metrics_pipeline.postgres.upgrading import create_upstream_tables, upgrade
from metrics_pipeline.postgres.urls import DatabaseUrl
from metrics_pipeline.settings import Settings


def open_database(settings: Settings) -> Database:
    """The database that METRICS_DATABASE_URL names, which is left as it is and not connected to.

    Without a URL it is the embedded one: its server is started if need be, and its tables are created or upgraded.
    Raises SettingsError for a URL that cannot be read; embedded, also what the server's start and upgrade raise.
    """
    if settings.database_url is not None:
        return Database(DatabaseUrl.parse(settings.database_url))
    url = DatabaseUrl.parse(acquire(settings.home), source="The embedded server's URI")
    database = Database(replace(url, description=f"the embedded database in {settings.home}"), is_embedded=True)
    create_upstream_tables(database)
    upgrade(database)
    return database
