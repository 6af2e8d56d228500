"""What Alembic runs for every command: our revisions, on the connection and in the transaction of the caller."""

from alembic import context

from metrics_pipeline.postgres.tables import metadata
from metrics_pipeline.postgres.upgrading import VERSION_TABLE

context.configure(
    connection=context.config.attributes["connection"], target_metadata=metadata, version_table=VERSION_TABLE
)
with context.begin_transaction():
    context.run_migrations()
