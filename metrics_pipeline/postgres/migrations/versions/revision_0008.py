"""Creates agent_day_distributions and the key of its users; restatements name distributions that were replaced."""

import secrets

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Needs the ownership of our tables, and the privilege CREATE on the schema. Stored days stay as they are."""
    op.create_table(
        "agent_day_distributions",
        sa.Column("agent_id", sa.Text, primary_key=True),
        sa.Column("metric_date", sa.Date, primary_key=True),
        sa.Column("latencies_ms", ARRAY(sa.Integer), nullable=False),
        sa.Column("latency_executions", ARRAY(sa.Integer), nullable=False),
        sa.Column("total_latency_ms", sa.BigInteger, nullable=False),
        sa.Column("latencies_exact", sa.Boolean, nullable=False),
        sa.Column("user_hashes", ARRAY(sa.BigInteger), nullable=False),
        sa.Column("users_exact", sa.Boolean, nullable=False),
        sa.Column("user_key_id", sa.Text),
        sa.Column("digest", sa.LargeBinary, nullable=False),
        # Other arrays could not be read.
        sa.CheckConstraint(
            "cardinality(latencies_ms) = cardinality(latency_executions) AND array_position(user_hashes, NULL) IS NULL "
            "AND num_nulls(array_position(latencies_ms, NULL), array_position(latency_executions, NULL)) = 2"
        ),
    )
    op.create_index("agent_day_distributions_metric_date", "agent_day_distributions", ["metric_date"])
    # Hashes cannot be compressed, so the server need not try.
    op.execute("ALTER TABLE agent_day_distributions ALTER COLUMN user_hashes SET STORAGE EXTERNAL")
    op.execute("""
        CREATE VIEW agent_latency_histogram AS
        SELECT agent_id, metric_date, latency_ms, executions
        FROM agent_day_distributions
        CROSS JOIN LATERAL unnest(latencies_ms, latency_executions) AS pair(latency_ms, executions)
    """)
    key = op.create_table(
        "metric_user_key",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("secret", sa.LargeBinary, nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
    )
    op.bulk_insert(key, [{"id": 1, "secret": secrets.token_bytes(32)}])
    op.add_column("metric_restatements", sa.Column("old_distribution", sa.Text))
    op.add_column("metric_restatements", sa.Column("new_distribution", sa.Text))
