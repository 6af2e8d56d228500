"""From settings to a database and its logs: opened, prepared where they are ours to prepare, and checked."""

from collections.abc import Collection
from dataclasses import replace

from metrics_pipeline.embedded import acquire
from metrics_pipeline.logs.contract import check_contract
from metrics_pipeline.logs.postgres_logs import PostgresLogs
from metrics_pipeline.metrics.upstream import UPSTREAM_TABLES
from metrics_pipeline.postgres.database import Database
from metrics_pipeline.postgres.upgrading import create_upstream_tables, require_current, upgrade
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


def open_logs(database: Database, tables: Collection[str] = tuple(UPSTREAM_TABLES)) -> PostgresLogs:
    """The source of logs, once the database is as the pipeline needs it.

    Connects once and checks our tables' revision and the contract with those of the upstream tables that the caller
    reads. Raises ContractError or PermanentError with the remedy, and what a database fault becomes.
    """
    with database.connect() as connection:
        contract = check_contract(connection, tables)
        require_current(connection)
    return PostgresLogs(database, contract)
