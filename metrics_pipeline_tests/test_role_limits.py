"""What a login with the grants of `db grants` can do: everything is tried, and only what is listed works."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psycopg
import pytest
from psycopg import errors, sql

from metrics_pipeline.postgres.database import Database
from metrics_pipeline_tests.days import aggregate, store_agents

from .roles import Role, new_role
from .roles import roles as roles

OURS = (
    "agent_performance_metrics",
    "agent_day_distributions",
    "agent_dimension_metrics",
    "agent_dimension_distributions",
    "metric_user_key",
    "metric_day_ledger",
    "metric_day_verifications",
    "metric_acknowledged_agents",
    "metric_restatements",
    "metric_alerts",
    "metric_alert_transitions",
    "metric_alert_deliveries",
    "metric_alert_rules",
    "metric_log_changes",
    "metric_log_feed",
)
TABLES = ("agent_registry", "agent_execution_logs", "alert_history", *OURS, "metrics_pipeline_alembic_version")

#: What is tried on each table: {} is the table, and the second {} its first column.
ON_A_TABLE = {
    "SELECT": ["SELECT 1 FROM {}", "COPY {} TO STDOUT", "SELECT count({1}) FROM {0}"],
    "INSERT": ["INSERT INTO {} DEFAULT VALUES", "COPY {} FROM STDIN"],
    "UPDATE": [
        "UPDATE {0} SET {1} = NULL WHERE false",
        "SELECT 1 FROM {} FOR UPDATE",
        "SELECT 1 FROM {} FOR KEY SHARE",
    ],
    "DELETE": ["DELETE FROM {} WHERE false"],
    "TRUNCATE": ["TRUNCATE {}"],
    "MERGE": ["MERGE INTO {0} USING {0} AS other ON false WHEN MATCHED THEN DELETE"],
    "LOCK": ["LOCK {} IN ACCESS EXCLUSIVE MODE"],
    "LOCK ROWS": ["SELECT 1 FROM {} FOR UPDATE", "SELECT 1 FROM {} FOR KEY SHARE"],
    "TRIGGER": ["CREATE TRIGGER mine BEFORE INSERT ON {} EXECUTE FUNCTION suppress_redundant_updates_trigger()"],
    "own": [
        "DROP TABLE {}",
        "ALTER TABLE {} ADD COLUMN mine text",
        "ALTER TABLE {} OWNER TO CURRENT_USER",
        "ALTER TABLE {} DISABLE TRIGGER ALL",
        "ALTER TABLE {} ENABLE ROW LEVEL SECURITY",
        "ALTER TABLE {} RENAME TO mine",
        "COMMENT ON TABLE {} IS 'mine'",
        "CREATE INDEX ON {0} (({1}))",
        "CREATE POLICY mine ON {}",
        "CREATE RULE mine AS ON DELETE TO {} DO INSTEAD NOTHING",
        "CREATE STATISTICS mine ON {1}, ctid FROM {0}",
        "REINDEX TABLE {}",
    ],
}

#: What is tried once and works for everybody who may connect, because PostgreSQL grants it to PUBLIC.
FOR_EVERYBODY = {
    "CREATE TEMPORARY TABLE mine (x int)",
    "CREATE FUNCTION pg_temp.mine() RETURNS int LANGUAGE sql RETURN 1",
    "SELECT lo_create(0)",
    "DO $$ BEGIN PERFORM 1; END $$",
    "SELECT usename FROM pg_stat_activity",
}
FOR_NOBODY = {
    "CREATE TABLE mine (x int)",
    "CREATE VIEW mine AS SELECT 1",
    "CREATE SEQUENCE mine",
    "CREATE FUNCTION mine() RETURNS int LANGUAGE sql RETURN 1",
    "CREATE SCHEMA mine",
    "CREATE EVENT TRIGGER mine ON ddl_command_start EXECUTE FUNCTION hidden.event()",
    "CREATE FOREIGN DATA WRAPPER mine",
    "CREATE PUBLICATION mine",
    "CREATE LANGUAGE mine HANDLER plpgsql_call_handler",
    "DROP EXTENSION plpgsql",
    "DROP SCHEMA public CASCADE",
    "DROP SCHEMA hidden CASCADE",
    "SELECT * FROM hidden.things",
    "SELECT hidden.answer()",
    "CREATE TABLE hidden.mine (x int)",
    # Files and programs of the server.
    "COPY (SELECT 1) TO PROGRAM 'true'",
    "COPY pg_temp.scratch FROM PROGRAM 'true'",
    "COPY (SELECT 1) TO '/tmp/never'",
    "COPY pg_temp.scratch FROM '/etc/passwd'",
    "SELECT pg_read_file('/etc/passwd')",
    "SELECT pg_read_binary_file('/etc/passwd')",
    "SELECT pg_ls_dir('/')",
    "SELECT pg_stat_file('/etc/passwd')",
    "SELECT pg_ls_waldir()",
    "SELECT pg_current_logfile()",
    "LOAD '/tmp/never.so'",
    # Large objects.
    "SELECT lo_import('/etc/passwd')",
    "SELECT lo_export(4711, '/tmp/never')",
    "SELECT lo_get(4711)",
    "SELECT lo_put(4711, 0, 'x')",
    "SELECT lo_unlink(4711)",
    "SELECT * FROM pg_largeobject",
    # Other roles, and their passwords.
    "SET ROLE postgres",
    "SET SESSION AUTHORIZATION postgres",
    "SELECT rolpassword FROM pg_authid",
    "SELECT passwd FROM pg_shadow",
    "CREATE ROLE mine",
    "ALTER ROLE postgres PASSWORD 'x'",
    "ALTER ROLE CURRENT_USER SUPERUSER",
    "GRANT pg_read_all_data TO CURRENT_USER",
    "REASSIGN OWNED BY postgres TO CURRENT_USER",
    "ALTER DEFAULT PRIVILEGES FOR ROLE postgres GRANT ALL ON TABLES TO PUBLIC",
    # The server.
    "SET session_replication_role = replica",
    "SET log_statement = 'none'",
    "ALTER SYSTEM SET work_mem = '64MB'",
    "CHECKPOINT",
    "CREATE DATABASE mine",
    "CREATE TABLESPACE mine LOCATION '/tmp'",
    "SELECT pg_reload_conf()",
    "SELECT pg_rotate_logfile()",
    "SELECT pg_switch_wal()",
    "SELECT pg_hba_file_rules()",
    "SELECT pg_show_all_file_settings()",
    "SELECT pg_create_restore_point('x')",
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'of the superuser'",
    "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE application_name = 'of the superuser'",
    "SELECT stavalues1 FROM pg_statistic",
}

READ = {"SELECT"}
STORE = {"SELECT", "INSERT", "UPDATE", "LOCK", "LOCK ROWS"}
PRUNE = {"SELECT", "DELETE", "MERGE", "LOCK"}
ALLOWED: dict[str, dict[str, set[str]]] = {
    "pipeline": {
        "agent_registry": READ,
        "agent_execution_logs": READ,
        "agent_performance_metrics": STORE,
        "agent_day_distributions": PRUNE | {"INSERT", "LOCK"},
        "agent_dimension_metrics": STORE | PRUNE,
        "agent_dimension_distributions": PRUNE | {"INSERT", "LOCK"},
        "metric_user_key": READ,
        "metric_day_ledger": STORE,
        "metric_day_verifications": STORE,
        "metric_acknowledged_agents": READ,
        "metric_restatements": {"SELECT", "INSERT"},
        "metric_alerts": PRUNE | {"INSERT"},
        "metric_alert_transitions": {"SELECT", "INSERT"},
        "metric_alert_deliveries": STORE,
        "metric_alert_rules": STORE,
        "metric_log_changes": PRUNE,
        "metric_log_feed": STORE - {"INSERT"},
        "metrics_pipeline_alembic_version": READ,
    },
    "retention": {
        "agent_execution_logs": PRUNE,
        "alert_history": PRUNE,
        "agent_performance_metrics": PRUNE,
        "agent_day_distributions": PRUNE,
        "agent_dimension_metrics": PRUNE,
        "agent_dimension_distributions": PRUNE,
        "metric_day_ledger": STORE,
        "metric_day_verifications": PRUNE,
        "metric_restatements": PRUNE,
        "metric_acknowledged_agents": READ,
        "metric_alerts": PRUNE | {"INSERT"},
        "metric_alert_transitions": PRUNE | {"INSERT"},
        "metric_alert_deliveries": PRUNE,
        "metric_alert_rules": STORE,
        "metrics_pipeline_alembic_version": READ,
    },
    "reader": {
        "agent_registry": READ,
        "agent_execution_logs": READ,
        "agent_performance_metrics": READ,
        "agent_day_distributions": READ,
        "agent_dimension_metrics": READ,
        "agent_dimension_distributions": READ,
        "metric_day_ledger": READ,
        "metric_day_verifications": READ,
        "metric_acknowledged_agents": READ,
        "metric_restatements": READ,
        "metric_alerts": READ,
        "metric_alert_transitions": READ,
        "metric_alert_deliveries": READ,
        "metric_alert_rules": READ,
        "metrics_pipeline_alembic_version": READ,
    },
    "operator": {
        "agent_registry": READ,
        "agent_execution_logs": READ,
        "agent_performance_metrics": STORE | PRUNE,
        "metric_day_ledger": STORE | PRUNE,
        "agent_day_distributions": STORE | PRUNE,
        "agent_dimension_metrics": STORE | PRUNE,
        "agent_dimension_distributions": STORE | PRUNE,
        "metric_user_key": READ,
        "metric_day_verifications": STORE | PRUNE,
        "metric_acknowledged_agents": STORE | PRUNE,
        "metric_restatements": {"SELECT", "INSERT"},
        "metric_alerts": PRUNE | {"INSERT"},
        "metric_alert_transitions": {"SELECT", "INSERT"},
        "metric_alert_deliveries": STORE,
        "metric_alert_rules": STORE,
        "metric_log_changes": PRUNE,
        "metric_log_feed": STORE - {"INSERT"},
        "metrics_pipeline_alembic_version": READ,
    },
    "stranger": {},
}


@pytest.fixture
def everybody(roles: dict[str, Role], database: Database, database_url: str) -> Iterator[dict[str, Role]]:
    """The four roles and a login without any grant, and objects of the superuser that they might try to use."""
    store_agents(database, {"a": "active"})
    aggregate(database)
    with psycopg.connect(database_url, autocommit=True, application_name="of the superuser") as connection:
        for statement in (
            "CREATE SCHEMA hidden",
            "CREATE TABLE hidden.things (x int)",
            "CREATE FUNCTION hidden.answer() RETURNS int LANGUAGE sql RETURN 42",
            "CREATE FUNCTION hidden.event() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END'",
            "SELECT lo_create(4711)",
        ):
            connection.execute(statement)
        with new_role(connection, database_url, "stranger") as stranger:
            yield {**roles, "stranger": stranger}


def works(connection: psycopg.Connection, statement: str) -> bool:
    """Whether the role may do so. What it did is rolled back."""
    try:
        with connection.transaction(force_rollback=True), connection.cursor() as cursor:
            cursor.execute("CREATE TEMPORARY TABLE scratch (line text)")
            if statement.endswith((" TO STDOUT", " FROM STDIN")):
                with cursor.copy(statement) as copy:
                    if statement.endswith("OUT"):
                        list(copy)
            else:
                cursor.execute(statement)
    except errors.InsufficientPrivilege:
        return False
    except errors.IntegrityError:
        pass  # it had the privilege, but the row was invalid
    except errors.ActiveSqlTransaction:
        return _works_outside_of_a_transaction(connection, statement)
    return True


def _works_outside_of_a_transaction(connection: psycopg.Connection, statement: str) -> bool:
    try:
        connection.execute(statement)
    except errors.InsufficientPrivilege:
        return False
    return True


def allowed_on(connection: psycopg.Connection, table: str) -> set[str]:
    # Nobody may set a column that is always generated.
    query = """SELECT attname FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0 AND attidentity <> 'a'
                ORDER BY attnum LIMIT 1"""
    column = connection.execute(query, [table]).fetchone()[0]
    found = set()
    for what, statements in ON_A_TABLE.items():
        composed = [sql.SQL(each).format(*map(sql.Identifier, (table, column))).as_string() for each in statements]
        outcomes = {works(connection, each) for each in composed}
        assert len(outcomes) == 1, f"{what} on {table} works in one way and not in another"
        if outcomes == {True}:
            found.add(what)
    return found


def test_on_each_table_a_role_gets_done_what_it_is_for_and_nothing_else(everybody: dict[str, Role]) -> None:
    found = {}
    for purpose, role in everybody.items():
        with psycopg.connect(role.url, autocommit=True) as connection:
            allowed = {table: allowed_on(connection, table) for table in TABLES}
        found[purpose] = {table: actions for table, actions in allowed.items() if actions}
    assert found == ALLOWED


def test_beyond_the_tables_no_role_gets_anything_done_that_a_stranger_does_not(everybody: dict[str, Role]) -> None:
    for role in everybody.values():
        with psycopg.connect(role.url, autocommit=True) as connection:
            done = {statement for statement in FOR_EVERYBODY | FOR_NOBODY if works(connection, statement)}
        assert done == FOR_EVERYBODY
    assert not Path("/tmp/never").exists()


def test_no_role_can_hand_its_rights_on(everybody: dict[str, Role], database_url: str) -> None:
    acls = "SELECT relname, relacl FROM pg_class WHERE relname = ANY(%s) ORDER BY 1"
    with psycopg.connect(database_url, autocommit=True) as connection:
        before = connection.execute(acls, [list(TABLES)]).fetchall()
        for role in everybody.values():
            with psycopg.connect(role.url, autocommit=True) as its:
                for table in TABLES:
                    # PostgreSQL only warns a role that has some privilege itself.
                    its.execute("SET client_min_messages = error")
                    with suppress(errors.InsufficientPrivilege):
                        its.execute(sql.SQL("GRANT ALL ON {} TO PUBLIC").format(sql.Identifier(table)))
        assert connection.execute(acls, [list(TABLES)]).fetchall() == before


# Every object, column of a table, parameter and tablespace whose list of privileges names the role, anywhere on the
# server, and every role that it is a member of.
_NAMED_IN = """
SELECT pg_describe_object(classid, objid, objsubid) FROM pg_shdepend
 WHERE refclassid = 'pg_authid'::regclass AND refobjid = to_regrole(quote_ident(%(role)s))
   AND dbid IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))
UNION ALL
SELECT 'member of ' || roleid::regrole FROM pg_auth_members WHERE member = to_regrole(quote_ident(%(role)s))
UNION ALL
SELECT 'may do more than log in' FROM pg_roles WHERE rolname = %(role)s
   AND (rolsuper OR rolcreaterole OR rolcreatedb OR rolreplication OR rolbypassrls)"""


def test_the_catalog_knows_of_no_other_right(everybody: dict[str, Role], database_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        database = connection.info.dbname
        for purpose, tables in ALLOWED.items():
            named = {row[0] for row in connection.execute(_NAMED_IN, {"role": everybody[purpose].name})}
            elsewhere = {"schema public", f"database {database}"} if tables else set()
            views = {"view agent_latency_histogram"} if purpose == "reader" else set()
            feed = {f"sequence metric_log_{name}" for name in ("watermark", "failures")}
            sequences = feed if "metric_log_feed" in tables else set()
            assert named == {f"table {table}" for table in tables} | views | sequences | elsewhere
