"""The resource of a run: the database, opened when the run starts and not when the code is loaded."""

import dagster as dg

from metrics_pipeline.pipeline.opening import open_database
from metrics_pipeline.settings import Settings


def build_database_resource(settings: Settings) -> dg.ResourceDefinition:
    """The Database of METRICS_DATABASE_URL, else the embedded one, which the run's process then keeps running."""
    return dg.ResourceDefinition(
        resource_fn=lambda _context: open_database(settings),
        description="The PostgreSQL that holds logs and metrics.",
    )
