"""Adds the tables, sequences and functions of the change feed, which does nothing until the logs have its triggers.

`metrics-pipeline db watch` prints the triggers. logs/change_feed.py reads their notes, and says why none is missed.
"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Needs what the first revision needs: CREATE on the schema."""
    op.create_table(
        "metric_log_changes",
        sa.Column("transaction_id", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("changed_from", sa.DateTime(timezone=True), primary_key=True),
        sa.Column("changed_until", sa.DateTime(timezone=True), primary_key=True),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("noted_at", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_table(
        "metric_log_feed",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("watermark", sa.BigInteger, nullable=False),
        sa.Column("failures", sa.BigInteger, nullable=False),
        sa.Column("structure", sa.Text, nullable=False),
        sa.Column("complete_from", sa.BigInteger, nullable=False),
        sa.Column("pruned_before", sa.BigInteger, nullable=False),
    )
    op.execute("INSERT INTO metric_log_feed VALUES (1, 0, 0, '', 0, 0)")
    op.execute("CREATE SEQUENCE metric_log_watermark MINVALUE 0 START 0")
    op.execute("CREATE SEQUENCE metric_log_failures MINVALUE 0 START 0")
    op.execute("SELECT nextval('metric_log_failures')")
    names = "SELECT quote_ident(s), quote_literal(quote_ident(s) || '.metric_log_failures') FROM current_schema() AS s"
    schema, failures = op.get_bind().execute(sa.text(names)).one()
    for statement in (_NOTE, _TAMPERED):
        named = statement.replace("{schema}", schema).replace("{failures}", failures)
        # A colon in the name would begin a parameter.
        op.execute(named.replace(":", "\\:"))
    op.execute("""
        CREATE TRIGGER metric_log_changes_tampered AFTER UPDATE OR DELETE ON metric_log_changes
        FOR EACH ROW EXECUTE FUNCTION metric_count_tampered_notes()""")
    op.execute("ALTER TABLE metric_log_changes ENABLE ALWAYS TRIGGER metric_log_changes_tampered")


# Called for each row that is older than half an hour. It reads the watermark from a sequence, whose value is the same
# in every snapshot: a writer under REPEATABLE READ cannot see an old one. first and last are seconds since 1970;
# date_part takes a naive timestamp as UTC. The setting lives as long as the note: until the transaction ends, or until
# a savepoint is rolled back. It is compared outside of the inner block, whose savepoint costs more than all the rest.
_NOTE = """
CREATE FUNCTION metric_note_log_change() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $body$
DECLARE
    first double precision := date_part('epoch', least(OLD."timestamp", NEW."timestamp"));
    last double precision := date_part('epoch', greatest(OLD."timestamp", NEW."timestamp"));
    noted text[] := string_to_array(current_setting('metrics_pipeline.noted', true), ' ');
    patience text := current_setting('lock_timeout');
BEGIN
    IF noted[1] IS DISTINCT FROM pg_current_xact_id()::text THEN
        noted := NULL;
    ELSIF first >= noted[2]::double precision AND last < noted[3]::double precision THEN
        RETURN NULL;
    END IF;
    BEGIN
        IF first * 1000000 >= (SELECT last_value FROM {schema}.metric_log_watermark) THEN
            RETURN NULL;
        END IF;
        first := least(floor(first / 900) * 900, noted[2]::double precision);
        last := greatest(floor(last / 900) * 900 + 900, noted[3]::double precision);
        PERFORM set_config('lock_timeout', '1s', true);
        INSERT INTO {schema}.metric_log_changes
        VALUES (pg_current_xact_id()::text::bigint, to_timestamp(first), to_timestamp(last), TG_OP, clock_timestamp())
        ON CONFLICT DO NOTHING;
        PERFORM set_config('lock_timeout', patience, true);
        PERFORM set_config('metrics_pipeline.noted', concat_ws(' ', pg_current_xact_id(), first, last), true);
    EXCEPTION WHEN OTHERS THEN
        RAISE LOG 'metrics_pipeline could not note a change of the logs: %', SQLERRM;
        BEGIN
            PERFORM nextval({failures});
        EXCEPTION WHEN OTHERS THEN
            RAISE LOG 'metrics_pipeline could not count it: %', SQLERRM;
        END;
    END;
    RETURN NULL;
END
$body$"""

_TAMPERED = """
CREATE FUNCTION metric_count_tampered_notes() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $body$
BEGIN
    IF TG_OP = 'UPDATE' OR OLD.transaction_id >= (SELECT pruned_before FROM {schema}.metric_log_feed) THEN
        PERFORM nextval({failures});
    END IF;
    RETURN NULL;
END
$body$"""
