"""Whether a database is as the pipeline needs it: our tables at this package's revision, upstream tables as agreed."""

from metrics_pipeline.storage.contract import UpstreamContract, check_contract
from metrics_pipeline.storage.database import Database
from metrics_pipeline.storage.faults import database_faults
from metrics_pipeline.storage.migrating import require_current


def require_ready(database: Database) -> UpstreamContract:
    """Connects once and checks both.

    Raises ContractError or PermanentError with the remedy, and what a database fault becomes.
    """
    with database_faults(database.description), database.engine.connect() as connection:
        contract = check_contract(connection)
        require_current(connection)
    return contract
