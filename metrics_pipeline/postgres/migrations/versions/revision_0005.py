"""Keeps rows that no reader can read out of agent_performance_metrics, and gives metric_restatements a primary key.

Without a primary key, a publication of all tables lets nobody delete from metric_restatements.
"""

from alembic import op
from sqlalchemy.exc import IntegrityError

from metrics_pipeline.errors import ContractError
from metrics_pipeline.postgres.migrations.readable import READABLE, unreadable_rows

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Needs the ownership of our tables. Raises ContractError, which names rows that cannot be read."""
    # One statement, so that the table is read once.
    checks = (f"ADD CHECK ({condition.replace('VALUE', name)})" for name, (condition, _) in READABLE.items())
    savepoint = op.get_bind().begin_nested()
    try:
        op.execute(f"ALTER TABLE agent_performance_metrics {', '.join(checks)}")
    except IntegrityError as error:
        savepoint.rollback()
        problems = unreadable_rows(op.get_bind(), READABLE)
        raise ContractError(
            f"Rows of agent_performance_metrics cannot be read, so nothing was changed: {'; '.join(problems)}. "
            "Correct or delete them, and run `metrics-pipeline db upgrade` again."
        ) from error
    op.execute("ALTER TABLE metric_restatements ADD COLUMN id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY")
