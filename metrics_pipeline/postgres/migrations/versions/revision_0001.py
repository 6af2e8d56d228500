"""Creates our tables, or adopts an existing agent_performance_metrics."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

from metrics_pipeline.postgres.migrations.adoption import adopt_metrics, metrics_exist

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Needs the privilege CREATE on the schema and, to adopt a table, its ownership."""
    if metrics_exist(op.get_bind()):
        adopt_metrics(op.get_bind())
    else:
        _create_metrics()
    op.create_index(
        "agent_performance_metrics_metric_date", "agent_performance_metrics", ["metric_date"], if_not_exists=True
    )
    op.create_table(
        "metric_day_ledger",
        sa.Column("metric_date", sa.Date, primary_key=True),
        sa.Column("time_zone", sa.Text, nullable=False),
        sa.Column("window_start", sa.DateTime(timezone=True), nullable=False),
        sa.Column("window_end", sa.DateTime(timezone=True), nullable=False),
        sa.Column("source_logs", sa.BigInteger, nullable=False),
        sa.Column("aggregated_logs", sa.BigInteger, nullable=False),
        sa.Column("skipped_logs", sa.BigInteger, nullable=False),
        sa.Column("agents", sa.Integer, nullable=False),
        sa.Column("source_fingerprint", sa.Text, nullable=False),
        sa.Column("definition_version", sa.Text, nullable=False),
        sa.Column("snapshot_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("aggregated_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("run_id", sa.Text, nullable=False),
        sa.Column("raw_pruned_at", sa.DateTime(timezone=True)),
        sa.Column("raw_pruned_logs", sa.BigInteger),
    )
    op.create_table(
        "metric_restatements",
        sa.Column("agent_id", sa.Text, nullable=False),
        sa.Column("metric_date", sa.Date, nullable=False),
        sa.Column("replaced_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        sa.Column("run_id", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("old_row", JSONB, nullable=False),
        sa.Column("new_row", JSONB, nullable=False),
    )
    op.create_index("metric_restatements_agent_date", "metric_restatements", ["agent_id", "metric_date"])


def _create_metrics() -> None:
    op.create_table(
        "agent_performance_metrics",
        sa.Column("agent_id", sa.Text, primary_key=True),
        sa.Column("metric_date", sa.Date, primary_key=True),
        sa.Column("total_executions", sa.BigInteger, nullable=False),
        sa.Column("successful_executions", sa.BigInteger, nullable=False),
        sa.Column("failed_executions", sa.BigInteger, nullable=False),
        sa.Column("success_rate", sa.Numeric(7, 6), nullable=False),
        sa.Column("avg_latency_ms", sa.BigInteger, nullable=False),
        sa.Column("p50_latency_ms", sa.BigInteger, nullable=False),
        sa.Column("p95_latency_ms", sa.BigInteger, nullable=False),
        sa.Column("p99_latency_ms", sa.BigInteger, nullable=False),
        sa.Column("total_tokens", sa.BigInteger, nullable=False),
        sa.Column("total_cost_usd", sa.Numeric(20, 9), nullable=False),
        sa.Column("avg_cost_per_execution", sa.Numeric(20, 9), nullable=False),
        sa.Column("error_distribution", JSONB, nullable=False),
        sa.Column("human_interventions", sa.BigInteger, nullable=False),
        sa.Column("unique_users", sa.BigInteger, nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        sa.Column("updated_at", sa.DateTime(timezone=True)),
    )
