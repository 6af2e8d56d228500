"""Alembic runs this for every command: our revisions, on the caller's connection and in its transaction."""

from alembic import context

from metrics_pipeline.postgres.tables import metadata
from metrics_pipeline.postgres.upgrading import VERSION_TABLE

context.configure(
    connection=context.config.attributes["connection"], target_metadata=metadata, version_table=VERSION_TABLE
)
with context.begin_transaction():
    context.run_migrations()
