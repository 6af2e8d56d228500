"""Adds the packed form of a distribution to agent_day_distributions, for windows of many days."""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"


def upgrade() -> None:
    """Needs the ownership of the table. Stored rows have none, and are read from their arrays as before."""
    op.add_column("agent_day_distributions", sa.Column("packed", sa.LargeBinary))
    # Two thirds are hashes, which cannot be compressed.
    op.execute("ALTER TABLE agent_day_distributions ALTER COLUMN packed SET STORAGE EXTERNAL")
