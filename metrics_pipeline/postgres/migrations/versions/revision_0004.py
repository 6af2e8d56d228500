"""Adds metric_day_ledger.metrics_expired_at: when retention deleted the metrics of a day."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Needs the ownership of our tables.

    Until now an expired day was recognised by its missing rows: it is sealed, and older than every day that has rows.
    """
    op.add_column("metric_day_ledger", sa.Column("metrics_expired_at", sa.DateTime(timezone=True)))
    op.execute("""
        UPDATE metric_day_ledger AS ledger SET metrics_expired_at = now()
        WHERE raw_pruned_at IS NOT NULL
          AND metric_date < (SELECT coalesce(min(metric_date), 'infinity') FROM agent_performance_metrics)
    """)
