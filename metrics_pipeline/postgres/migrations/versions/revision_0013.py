"""Adds metric_day_ledger.breakdown_digest: the digest of a day's rows by value as they were published."""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"


def upgrade() -> None:
    """Needs the ownership of our tables. The rows by value of days that are stored already are not judged."""
    op.add_column("metric_day_ledger", sa.Column("breakdown_digest", sa.Text))
