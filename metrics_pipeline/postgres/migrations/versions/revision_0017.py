"""Adds metric_day_ledger.unlogged: the optional columns that the logs of a day did not have when it was aggregated."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY

revision = "0017"
down_revision = "0016"


def upgrade() -> None:
    """Needs the ownership of our tables. Of stored days none: the release that stored them required every column."""
    op.add_column("metric_day_ledger", sa.Column("unlogged", ARRAY(sa.Text), nullable=False, server_default="{}"))
