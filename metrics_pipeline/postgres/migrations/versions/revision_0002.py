"""Creates metric_day_pruning: the days that retention has deleted in part."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Needs the privilege CREATE on the schema."""
    op.create_table(
        "metric_day_pruning",
        sa.Column("metric_date", sa.Date, primary_key=True),
        sa.Column("verified_before", sa.BigInteger, nullable=False),
        sa.Column("pruned_fingerprint", sa.Text, nullable=False),
    )
