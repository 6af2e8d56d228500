"""Adds metric_day_ledger.skipped_agents: whose logs are in no metric of the day."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    """Needs the ownership of our tables. Days that are stored already do not say whose logs they skipped."""
    op.add_column("metric_day_ledger", sa.Column("skipped_agents", JSONB))
