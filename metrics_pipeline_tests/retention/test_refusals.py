"""Logs that the database does not let go: their day is held back, and everything else is done."""

import uuid

import pytest

from metrics_pipeline.errors import TransientError
from metrics_pipeline.pipeline.opening import require_ready
from metrics_pipeline.postgres.database import Database
from metrics_pipeline.postgres.urls import DatabaseUrl
from metrics_pipeline_tests.days import DAY, execute, query

from .runs import contents, day, held_back, logs_by_day, prune, sealed, store_days


def test_a_slice_that_deletes_other_logs_than_were_verified_takes_the_whole_day_back(database: Database) -> None:
    """Nothing but a fault of ours or of the server makes one of a day's slices differ: here one log is not returned."""
    store_days(database, 0, logs=9)
    execute(
        database,
        """CREATE FUNCTION keep_the_seventh() RETURNS trigger LANGUAGE plpgsql AS
           'BEGIN RETURN CASE WHEN OLD.latency_ms <> 6 THEN OLD END; END'""",
        "CREATE TRIGGER keep BEFORE DELETE ON agent_execution_logs FOR EACH ROW EXECUTE FUNCTION keep_the_seventh()",
    )
    before = contents(database)
    report = prune(database, batch_rows=2)
    [(logs, reason)] = held_back(report).values()
    assert logs == 9
    assert "could not be deleted: a trigger, a rule or a policy of the table kept logs" in reason
    assert "(logs -1, successful -1, latency -6 ms, cost -0.10 USD)" in reason
    assert (report.pruned_logs, report.sealed_days) == ({}, [])
    assert contents(database) == before


def test_a_locked_log_holds_back_its_day_and_the_rest_is_done(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    store_days(database, -400, -1, 0, 1)
    with database.engine.connect() as other:
        other.exec_driver_sql(
            "SELECT FROM agent_execution_logs WHERE latency_ms = 1 AND timestamp::date = '2025-03-03' FOR UPDATE"
        )
        report = prune(database)
    assert report.pruned_logs == {day(-400): 3, DAY: 3}
    assert report.expired_metrics == {day(-400): 1}
    assert held_back(report) == {
        day(-1): (3, "could not be deleted: canceling statement due to lock timeout (SQLSTATE 55P03)")
    }
    assert logs_by_day(database) == {day(-1): 3, day(1): 3}
    assert prune(database).pruned_logs == {day(-1): 3}


def test_a_locked_table_ends_the_run_after_metrics_and_alerts_are_done(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    store_days(database, -400, 0)
    prune(database, "2024-04-01T03:30:00+00:00")
    with database.engine.connect() as other:
        contract = require_ready(database)
        other.exec_driver_sql("LOCK TABLE agent_execution_logs")
        with pytest.raises(TransientError, match="A lock was not free in time"):
            prune(database, contract=contract)
    assert query(database, "SELECT DISTINCT metric_date FROM agent_performance_metrics") == [(DAY,)]
    assert logs_by_day(database) == {DAY: 3}


REFUSALS = {
    "a privilege": (
        ["REVOKE DELETE ON agent_execution_logs FROM CURRENT_USER"],
        "permission denied for table agent_execution_logs (SQLSTATE 42501)",
    ),
    "a replica identity": (
        [
            "ALTER TABLE agent_execution_logs DROP CONSTRAINT agent_execution_logs_pkey",
            "CREATE PUBLICATION everything FOR TABLE agent_execution_logs",
        ],
        (
            'cannot delete from table "agent_execution_logs" because it does not have a replica identity and publishes '
            "deletes (SQLSTATE 55000)"
        ),
    ),
    "the end of a reference": (
        [
            "CREATE TABLE remarks (log_id uuid REFERENCES agent_execution_logs (id))",
            "INSERT INTO remarks SELECT id FROM agent_execution_logs LIMIT 1",
        ],
        (
            'update or delete on table "agent_execution_logs" violates foreign key constraint "remarks_log_id_fkey" on '
            'table "remarks" (SQLSTATE 23503)'
        ),
    ),
    "a trigger's consent": (
        [
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE ''not mine''; END'",
            "CREATE TRIGGER refuse BEFORE DELETE ON agent_execution_logs EXECUTE FUNCTION refuse()",
        ],
        "not mine (SQLSTATE P0001)",
    ),
}


@pytest.mark.parametrize("what", REFUSALS)
def test_what_is_missing_to_delete_logs_is_named_and_metrics_and_alerts_expire(
    database: Database, database_url: str, what: str
) -> None:
    statements, reason = REFUSALS[what]
    role = f"pruner_{uuid.uuid4().hex}"
    store_days(database, -400, 0)
    prune(database, "2024-04-01T03:30:00+00:00")
    execute(
        database,
        f"CREATE ROLE {role}",
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {role}",
        *(each.replace("CURRENT_USER", role) for each in statements),
    )
    joint = "&" if "?" in database_url else "?"
    try:
        report = prune(Database(DatabaseUrl.parse(f"{database_url}{joint}options=-c%20role%3D{role}")))
    finally:
        execute(database, f"DROP OWNED BY {role}", f"DROP ROLE {role}")
    assert held_back(report) == {DAY: (3, f"could not be deleted: {reason}")}
    assert report.expired_metrics == {day(-400): 1}
    assert (logs_by_day(database)[DAY], sealed(database)) == (3, {day(-400): 3})
