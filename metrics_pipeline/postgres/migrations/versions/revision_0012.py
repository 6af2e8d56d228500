"""Creates metric_acknowledged_agents: agents that the checks leave out, because somebody knows of them."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    """Needs the privilege CREATE on the schema."""
    op.create_table(
        "metric_acknowledged_agents",
        sa.Column("agent_id", sa.Text, primary_key=True),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("acknowledged_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
    )
