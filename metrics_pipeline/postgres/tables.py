"""The tables as SQLAlchemy sees them: ours, which the migrations create, and the upstream ones that we read."""

from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Date,
    DateTime,
    Identity,
    Index,
    Integer,
    MetaData,
    Numeric,
    Table,
    Text,
    Uuid,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.types import TypeEngine

from metrics_pipeline.metrics.schema import KEY_COLUMNS, METRIC_COLUMNS

#: Ours. Alembic compares this with the database.
metadata = MetaData()

_TYPES: dict[str, TypeEngine[Any]] = {
    "text": Text(),
    "date": Date(),
    "bigint": BigInteger(),
    "numeric(7,6)": Numeric(7, 6),
    "numeric(20,9)": Numeric(20, 9),
    "jsonb": JSONB(),
}

agent_performance_metrics = Table(
    "agent_performance_metrics",
    metadata,
    *(Column(column.name, _TYPES[column.sql_type], primary_key=True) for column in KEY_COLUMNS),
    *(Column(column.name, _TYPES[column.sql_type], nullable=False) for column in METRIC_COLUMNS),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("updated_at", DateTime(timezone=True)),
)
# The primary key leads with agent_id, for one agent's series; a day's rows are found by this one.
Index("agent_performance_metrics_metric_date", agent_performance_metrics.c.metric_date)

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
)
Index(
    "metric_restatements_agent_date",
    metric_restatements.c.agent_id,
    metric_restatements.c.metric_date,
)

# A row exists from the moment a day is sealed until the last verified log of it is deleted (PruningProgress).
metric_day_pruning = Table(
    "metric_day_pruning",
    metadata,
    Column("metric_date", Date, primary_key=True),
    Column("verified_before", BigInteger, nullable=False),
    Column("pruned_fingerprint", Text, nullable=False),
)

#: Other systems' tables. We create them only where no other system will: embedded, demo and test databases.
upstream_metadata = MetaData()

agent_registry = Table(
    "agent_registry",
    upstream_metadata,
    Column("id", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("status", Text, nullable=False),
)

agent_execution_logs = Table(
    "agent_execution_logs",
    upstream_metadata,
    Column("id", Uuid, primary_key=True, server_default=func.gen_random_uuid()),
    Column("agent_id", Text, nullable=False),
    Column("timestamp", DateTime(timezone=True), nullable=False),
    Column("status", Text, nullable=False),
    Column("latency_ms", Integer),
    Column("token_count", Integer),
    Column("cost_usd", Numeric),
    Column("error_type", Text),
    Column("metadata", JSONB),
)
Index("agent_execution_logs_timestamp", agent_execution_logs.c.timestamp)

alert_history = Table(
    "alert_history",
    upstream_metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("agent_id", Text, nullable=False),
    Column("alert_type", Text, nullable=False),
    Column("severity", Text, nullable=False),
    Column("message", Text, nullable=False),
    Column("triggered_at", DateTime(timezone=True), nullable=False),
    Column("resolved_at", DateTime(timezone=True)),
)
Index(
    "alert_history_resolved_at",
    alert_history.c.resolved_at,
    postgresql_where=text("resolved_at IS NOT NULL"),
)
