"""Adds metric_day_verifications: what the last full reading of each day's logs found, so that watching is cheap."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """It is a cache, and begins empty."""
    op.create_table(
        "metric_day_verifications",
        sa.Column("metric_date", sa.Date, primary_key=True),
        sa.Column("window_start", sa.DateTime(timezone=True), nullable=False),
        sa.Column("window_end", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ledger_version", sa.Text),
        sa.Column("fingerprint", sa.Text),
        sa.Column("unreadable", sa.Text),
        sa.Column("gone", sa.Text),
        sa.Column("verified_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("mark", JSONB),
        sa.Column("confirmed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("judged_by", sa.Text, nullable=False),
    )
