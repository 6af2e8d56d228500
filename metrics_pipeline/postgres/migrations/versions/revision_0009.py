"""Adds metric_day_ledger.rows_digest: the digest of a day's rows as they were published."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    """Needs the ownership of our tables. The rows of days that are stored already are compared by their sums only."""
    op.add_column("metric_day_ledger", sa.Column("rows_digest", sa.Text))
