"""Creates the tables of breakdowns by dimension; the ledger says which dimensions a day has."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

revision = "0010"
down_revision = "0009"

_KEYS = ("agent_id", "metric_date", "dimension", "value_kind", "value")


def _keys() -> list["sa.Column[object]"]:
    return [sa.Column(name, sa.Date if name == "metric_date" else sa.Text, primary_key=True) for name in _KEYS]


def upgrade() -> None:
    """Needs the ownership of our tables, and the privilege CREATE on the schema. Stored days stay as they are."""
    counts = ("total_executions", "successful_executions", "failed_executions")
    latencies = ("avg_latency_ms", "p50_latency_ms", "p95_latency_ms", "p99_latency_ms")
    op.create_table(
        "agent_dimension_metrics",
        *_keys(),
        *(sa.Column(name, sa.BigInteger, nullable=False) for name in counts),
        sa.Column("success_rate", sa.Numeric(7, 6), nullable=False),
        *(sa.Column(name, sa.BigInteger, nullable=False) for name in latencies),
        sa.Column("total_tokens", sa.BigInteger, nullable=False),
        sa.Column("total_cost_usd", sa.Numeric(20, 9), nullable=False),
        sa.Column("avg_cost_per_execution", sa.Numeric(20, 9), nullable=False),
        sa.Column("error_distribution", JSONB, nullable=False),
        sa.Column("human_interventions", sa.BigInteger, nullable=False),
        sa.Column("unique_users", sa.BigInteger, nullable=False),
        sa.Column("merged_values", sa.BigInteger, nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        sa.Column("updated_at", sa.DateTime(timezone=True)),
    )
    op.create_table(
        "agent_dimension_distributions",
        *_keys(),
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
    # Hashes cannot be compressed, so the server need not try.
    op.execute("ALTER TABLE agent_dimension_distributions ALTER COLUMN user_hashes SET STORAGE EXTERNAL")
    for table in ("agent_dimension_metrics", "agent_dimension_distributions"):
        op.create_index(f"{table}_metric_date", table, ["metric_date"])
    op.add_column("metric_day_ledger", sa.Column("dimensions", sa.Text))
    op.add_column("metric_restatements", sa.Column("breakdown", JSONB))
