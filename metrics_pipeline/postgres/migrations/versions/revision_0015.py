"""Creates the tables of alerts: the alerts, the journal of their transitions, its deliveries, and the rules' digest."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0015"
down_revision = "0014"

_SCOPES = "scope IN ('agent', 'fleet', 'pipeline')"
_SEVERITIES = "severity IN ('warning', 'critical')"


def upgrade() -> None:
    """Needs the privilege CREATE on the schema. The next day that is stored computes the alerts of all stored days."""
    op.create_table(
        "metric_alerts",
        sa.Column("rule", sa.Text, primary_key=True),
        sa.Column("scope", sa.Text, primary_key=True),
        sa.Column("agent_id", sa.Text, primary_key=True, server_default=""),
        sa.Column("opened_on", sa.Date, primary_key=True),
        sa.Column("severity", sa.Text, nullable=False),
        sa.Column("last_seen_on", sa.Date, nullable=False),
        sa.Column("days", sa.Integer, nullable=False),
        sa.Column("resolved_on", sa.Date),
        sa.Column("evidence", JSONB, nullable=False),
        sa.CheckConstraint(_SCOPES, "metric_alerts_scope"),
        sa.CheckConstraint(_SEVERITIES, "metric_alerts_severity"),
    )
    op.create_index(
        "metric_alerts_open",
        "metric_alerts",
        ["rule", "scope", "agent_id"],
        unique=True,
        postgresql_where=sa.text("resolved_on IS NULL"),
    )
    op.create_index("metric_alerts_opened_on", "metric_alerts", ["opened_on"])
    op.create_table(
        "metric_alert_transitions",
        sa.Column("transition_id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
        sa.Column("rule", sa.Text, nullable=False),
        sa.Column("scope", sa.Text, nullable=False),
        sa.Column("agent_id", sa.Text, nullable=False),
        sa.Column("opened_on", sa.Date, nullable=False),
        sa.Column("transition", sa.Text, nullable=False),
        sa.Column("metric_date", sa.Date, nullable=False),
        sa.Column("severity", sa.Text, nullable=False),
        sa.Column("evidence", JSONB, nullable=False),
        sa.Column("run_id", sa.Text),
        sa.Column("occurred_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        sa.Column("is_quiet", sa.Boolean, nullable=False),
        sa.CheckConstraint(_SCOPES, "metric_alert_transitions_scope"),
        sa.CheckConstraint(_SEVERITIES, "metric_alert_transitions_severity"),
        sa.CheckConstraint(
            "transition IN ('opened', 'changed', 'resolved', 'withdrawn')", "metric_alert_transitions_transition"
        ),
    )
    op.create_index(
        "metric_alert_transitions_told",
        "metric_alert_transitions",
        ["transition_id"],
        postgresql_where=sa.text("NOT is_quiet"),
    )
    op.create_table(
        "metric_alert_deliveries",
        sa.Column("transition_id", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("receiver", sa.Text, primary_key=True),
        sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
        sa.Column("tried_at", sa.DateTime(timezone=True)),
        sa.Column("delivered_at", sa.DateTime(timezone=True)),
        sa.Column("not_before", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        sa.Column("error", sa.Text),
    )
    op.create_table(
        "metric_alert_rules",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("digest", sa.Text, nullable=False),
    )
