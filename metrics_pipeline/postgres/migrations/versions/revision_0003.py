"""Drops metric_day_pruning: a day is pruned in one transaction, so none is pruned in part any more.

What is deleted of a day that is half pruned moves into its row of the ledger, under the key "pruned" of the source
fingerprint. Retention verifies it together with the rest, deletes the rest and removes the key.
"""

from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Needs the ownership of our tables. A day of which nothing is left to prune needs no key."""
    op.execute("""
        UPDATE metric_day_ledger AS ledger
        SET source_fingerprint =
                (source_fingerprint::jsonb || jsonb_build_object('pruned', pruned_fingerprint::jsonb))::text
        FROM metric_day_pruning AS pruning
        WHERE pruning.metric_date = ledger.metric_date AND raw_pruned_at IS NOT NULL
          AND NOT source_fingerprint::jsonb @> pruned_fingerprint::jsonb
    """)
    op.drop_table("metric_day_pruning")
