"""The tables for SQLAlchemy: ours, which the migrations create, and the upstream ones that we read."""

from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Date,
    DateTime,
    DefaultClause,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Numeric,
    Table,
    Text,
    Uuid,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.types import TypeEngine

from metrics_pipeline.metrics.catalog import AGENT_DAY, GRAINS
from metrics_pipeline.metrics.upstream import UPSTREAM_TABLES
from metrics_pipeline.names import ALERTS_TABLE, LOGS_TABLE

#: Our tables. Alembic compares this with the database.
metadata = MetaData()

_TYPES: dict[str, TypeEngine[Any]] = {
    "text": Text(),
    "date": Date(),
    "integer": Integer(),
    "bigint": BigInteger(),
    "numeric": Numeric(),
    "numeric(7,6)": Numeric(7, 6),
    "numeric(20,9)": Numeric(20, 9),
    "timestamp with time zone": DateTime(timezone=True),
    "uuid": Uuid(),
    "jsonb": JSONB(),
}


for _grain in GRAINS:
    Table(
        _grain.table,
        metadata,
        *(Column(key.name, _TYPES[key.sql_type], primary_key=True) for key in _grain.keys),
        *(Column(value.name, _TYPES[value.sql_type], nullable=False) for value in _grain.values),
        Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
        Column("updated_at", DateTime(timezone=True)),
        # The primary key leads with agent_id and serves one agent's series; this index serves one day's rows.
        Index(f"{_grain.table}_metric_date", "metric_date"),
    )
    # The view agent_latency_histogram, which a migration creates, has a row per latency of agent_day_distributions.
    Table(
        _grain.distributions,
        metadata,
        *(Column(key.name, _TYPES[key.sql_type], primary_key=True) for key in _grain.keys),
        Column("latencies_ms", ARRAY(Integer), nullable=False),
        Column("latency_executions", ARRAY(Integer), nullable=False),
        Column("total_latency_ms", BigInteger, nullable=False),
        Column("latencies_exact", Boolean, nullable=False),
        Column("user_hashes", ARRAY(BigInteger), nullable=False),
        Column("users_exact", Boolean, nullable=False),
        Column("user_key_id", Text),
        Column("digest", LargeBinary, nullable=False),
        *([Column("packed", LargeBinary)] if _grain is AGENT_DAY else []),
        Index(f"{_grain.distributions}_metric_date", "metric_date"),
    )
agent_performance_metrics = metadata.tables[AGENT_DAY.table]

metric_user_key = Table(
    "metric_user_key",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("secret", LargeBinary, nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
)

metric_day_ledger = Table(
    "metric_day_ledger",
    metadata,
    Column("metric_date", Date, primary_key=True),
    Column("time_zone", Text, nullable=False),
    Column("window_start", DateTime(timezone=True), nullable=False),
    Column("window_end", DateTime(timezone=True), nullable=False),
    Column("source_logs", BigInteger, nullable=False),
    Column("aggregated_logs", BigInteger, nullable=False),
    Column("skipped_logs", BigInteger, nullable=False),
    Column("agents", Integer, nullable=False),
    Column("source_fingerprint", Text, nullable=False),
    Column("definition_version", Text, nullable=False),
    Column("snapshot_at", DateTime(timezone=True), nullable=False),
    Column("aggregated_at", DateTime(timezone=True), nullable=False),
    Column("run_id", Text, nullable=False),
    Column("raw_pruned_at", DateTime(timezone=True)),
    Column("raw_pruned_logs", BigInteger),
    Column("metrics_expired_at", DateTime(timezone=True)),
    Column("rows_digest", Text),
    Column("dimensions", Text),
    Column("skipped_agents", JSONB),
    Column("breakdown_digest", Text),
    Column("unlogged", ARRAY(Text), nullable=False, server_default="{}"),
)

metric_day_verifications = Table(
    "metric_day_verifications",
    metadata,
    Column("metric_date", Date, primary_key=True),
    Column("window_start", DateTime(timezone=True), nullable=False),
    Column("window_end", DateTime(timezone=True), nullable=False),
    Column("ledger_version", Text),
    Column("fingerprint", Text),
    Column("unreadable", Text),
    Column("gone", Text),
    Column("verified_at", DateTime(timezone=True), nullable=False),
    Column("mark", JSONB),
    Column("confirmed_at", DateTime(timezone=True), nullable=False),
    Column("judged_by", Text, nullable=False),
)

metric_acknowledged_agents = Table(
    "metric_acknowledged_agents",
    metadata,
    Column("agent_id", Text, primary_key=True),
    Column("reason", Text, nullable=False),
    Column("acknowledged_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
)

metric_restatements = Table(
    "metric_restatements",
    metadata,
    Column("agent_id", Text, nullable=False),
    Column("metric_date", Date, nullable=False),
    Column("replaced_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("run_id", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("old_row", JSONB, nullable=False),
    Column("new_row", JSONB, nullable=False),
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("old_distribution", Text),
    Column("new_distribution", Text),
    Column("breakdown", JSONB),
    Index("metric_restatements_agent_date", "agent_id", "metric_date"),
)

_SCOPES = "scope IN ('agent', 'fleet', 'pipeline')"
_SEVERITIES = "severity IN ('warning', 'critical')"

#: A function of the stored metrics, the ledger and the rules: a replay gives the same rows.
metric_alerts = Table(
    "metric_alerts",
    metadata,
    Column("rule", Text, primary_key=True),
    Column("scope", Text, primary_key=True),
    Column("agent_id", Text, primary_key=True, server_default=""),
    Column("opened_on", Date, primary_key=True),
    Column("severity", Text, nullable=False),
    Column("last_seen_on", Date, nullable=False),
    Column("days", Integer, nullable=False),
    Column("resolved_on", Date),
    Column("evidence", JSONB, nullable=False),
    CheckConstraint(_SCOPES, "metric_alerts_scope"),
    CheckConstraint(_SEVERITIES, "metric_alerts_severity"),
    Index("metric_alerts_opened_on", "opened_on"),
    Index("metric_alerts_open", "rule", "scope", "agent_id", unique=True, postgresql_where=text("resolved_on IS NULL")),
)

#: The journal of alerts, and the outbox of the messages about them. Rows are only added.
metric_alert_transitions = Table(
    "metric_alert_transitions",
    metadata,
    Column("transition_id", BigInteger, Identity(always=True), primary_key=True),
    Column("rule", Text, nullable=False),
    Column("scope", Text, nullable=False),
    Column("agent_id", Text, nullable=False),
    Column("opened_on", Date, nullable=False),
    Column("transition", Text, nullable=False),
    Column("metric_date", Date, nullable=False),
    Column("severity", Text, nullable=False),
    Column("evidence", JSONB, nullable=False),
    Column("run_id", Text),
    Column("occurred_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("is_quiet", Boolean, nullable=False),
    CheckConstraint(_SCOPES, "metric_alert_transitions_scope"),
    CheckConstraint(_SEVERITIES, "metric_alert_transitions_severity"),
    CheckConstraint(
        "transition IN ('opened', 'changed', 'resolved', 'withdrawn')", "metric_alert_transitions_transition"
    ),
    Index("metric_alert_transitions_told", "transition_id", postgresql_where=text("NOT is_quiet")),
)

metric_alert_deliveries = Table(
    "metric_alert_deliveries",
    metadata,
    Column("transition_id", BigInteger, primary_key=True, autoincrement=False),
    Column("receiver", Text, primary_key=True),
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("tried_at", DateTime(timezone=True)),
    Column("delivered_at", DateTime(timezone=True)),
    Column("not_before", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("error", Text),
)

#: One row.
metric_alert_rules = Table(
    "metric_alert_rules",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("digest", Text, nullable=False),
)

#: What the change feed's triggers note. logs/change_feed.py explains both tables.
metric_log_changes = Table(
    "metric_log_changes",
    metadata,
    Column("transaction_id", BigInteger, primary_key=True, autoincrement=False),
    Column("changed_from", DateTime(timezone=True), primary_key=True),
    Column("changed_until", DateTime(timezone=True), primary_key=True),
    Column("kind", Text, nullable=False),
    Column("noted_at", DateTime(timezone=True), nullable=False),
)

#: One row.
metric_log_feed = Table(
    "metric_log_feed",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("watermark", BigInteger, nullable=False),
    Column("failures", BigInteger, nullable=False),
    Column("structure", Text, nullable=False),
    Column("complete_from", BigInteger, nullable=False),
    Column("pruned_before", BigInteger, nullable=False),
)

#: Other systems' tables. We create them only where no other system will: embedded, demo and test databases.
upstream_metadata = MetaData()

# The default of the key of a new row. An agent's key has none.
_KEY_DEFAULTS: dict[str, tuple[Any, ...]] = {
    LOGS_TABLE: (DefaultClause(func.gen_random_uuid()),),
    ALERTS_TABLE: (Identity(),),
}


def _upstream_table(name: str) -> Table:
    key, *others = UPSTREAM_TABLES[name]
    return Table(
        name,
        upstream_metadata,
        Column(key.name, _TYPES[key.created_as], *_KEY_DEFAULTS.get(name, ()), primary_key=True),
        *(Column(column.name, _TYPES[column.created_as], nullable=not column.is_required) for column in others),
    )


agent_registry, agent_execution_logs, alert_history = map(_upstream_table, UPSTREAM_TABLES)
Index("agent_execution_logs_timestamp", agent_execution_logs.c.timestamp)
Index("alert_history_resolved_at", alert_history.c.resolved_at, postgresql_where=text("resolved_at IS NOT NULL"))
