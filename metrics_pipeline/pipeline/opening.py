"""Opens the database and the logs that the settings name, prepares them if they are embedded, and checks them."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from metrics_pipeline.embedded import acquire, before_connecting
from metrics_pipeline.logs.contract import (
    SOURCE_TABLES,
    UpstreamContract,
    check_contract,
    check_dimensions,
)
from metrics_pipeline.logs.postgres_logs import PostgresLogs
from metrics_pipeline.logs.source import LogSource
from metrics_pipeline.metrics.dimensions import Dimension
from metrics_pipeline.names import LOGS_TABLE, REGISTRY_TABLE
from metrics_pipeline.postgres.database import Database
from metrics_pipeline.postgres.upgrading import create_upstream_tables, require_current, upgrade
from metrics_pipeline.postgres.urls import DatabaseUrl
from metrics_pipeline.settings import Settings


def open_database(settings: Settings) -> Database:
    """The database that METRICS_DATABASE_URL names. It is neither connected to nor changed.

    Without a URL, the embedded database: its server is started if necessary, and its tables are created or upgraded.
    Raises SettingsError for a URL that cannot be read; for the embedded one, also what acquire and upgrade raise.
    """
    if settings.database_url is not None:
        return Database(DatabaseUrl.parse(settings.database_url))
    url = DatabaseUrl.parse(acquire(settings.home), source="The embedded server's URI")
    url = replace(url, description=f"the embedded database in {settings.home}")
    database = Database(url, before_connecting=before_connecting(settings.home))
    create_upstream_tables(database)
    upgrade(database)
    return database


def require_ready(database: Database, tables: Collection[str] = SOURCE_TABLES) -> UpstreamContract:
    """Connects once and checks our tables' revision, and the contract of the upstream `tables` that the caller reads.

    Raises ContractError or PermanentError with the remedy, and TransientError for a passing database fault.
    """
    with database.connect() as connection:
        contract = check_contract(connection, tables)
        require_current(connection)
    return contract


def open_logs(
    database: Database, dimensions: Sequence[Dimension] = (), statuses: Mapping[str, str] | None = None
) -> PostgresLogs:
    """The logs in the database, if it is ready.

    dimensions: METRICS_DIMENSIONS. Raises ContractError for one whose column the logs do not have.
    statuses: Settings.statuses.
    """
    contract = replace(require_ready(database), statuses=statuses or {})
    if any(not dimension.keys or dimension.column not in contract.types for dimension in dimensions):
        with database.connect() as connection:
            check_dimensions(connection, dimensions)
    return PostgresLogs(database, contract, dimensions)


def open_source(database: Database, settings: Settings) -> LogSource:
    """The source of logs that METRICS_LOGS_URL names, if it and the database are ready. Sources are chosen only here.

    The agents of a lake and of Spark are registered in the database too.
    """
    if settings.logs_url is None:
        return open_logs(database, settings.dimensions, settings.statuses)
    # Their libraries take time to import, which commands without a lake need not spend.
    from metrics_pipeline.logs.lake_logs import LakeLogs
    from metrics_pipeline.logs.spark_logs import SparkLogs

    require_ready(database, [REGISTRY_TABLE])
    columns = dict(settings.logs_columns)
    if settings.logs_table is not None:
        return SparkLogs(settings.logs_url, settings.logs_table, columns, settings.statuses, settings.dimensions)
    return LakeLogs(settings.logs_url, columns, settings.statuses, settings.dimensions)


def require_ready_to_prune(database: Database, settings: Settings) -> UpstreamContract | None:
    """The contract of the logs that retention may prune; None if they are in a lake, which it does not prune."""
    if settings.logs_url is None:
        return replace(require_ready(database, [LOGS_TABLE]), statuses=settings.statuses)
    require_ready(database, [])
    return None
