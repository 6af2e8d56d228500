"""Whether a database is as the pipeline needs it: our tables at this package's revision, upstream tables as agreed."""

from collections.abc import Collection

from metrics_pipeline.logs.contract import UPSTREAM_TABLES, UpstreamContract, check_contract
from metrics_pipeline.postgres.database import Database
from metrics_pipeline.postgres.upgrading import require_current


def require_ready(database: Database, tables: Collection[str] = UPSTREAM_TABLES) -> UpstreamContract:
    """Connects once and checks both; of the upstream tables, those that the caller reads.

    Raises ContractError or PermanentError with the remedy, and what a database fault becomes.
    """
    with database.connect() as connection:
        contract = check_contract(connection, tables)
        require_current(connection)
    return contract
