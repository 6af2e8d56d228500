"""Log tables as other systems make them: whatever they do, no log goes that was not aggregated."""

from dataclasses import replace
from datetime import UTC, date, datetime

import pytest
from psycopg import sql
from sqlalchemy import URL, make_url

from metrics_pipeline.errors import PermanentError
from metrics_pipeline.metrics.windows import day_window
from metrics_pipeline.postgres.database import Database
from metrics_pipeline.postgres.urls import DatabaseUrl
from metrics_pipeline.retention.partitions import tables_of
from metrics_pipeline_tests.days import DAY, Log, aggregate, assert_exact, execute, query, store_agents, store_logs

from .runs import DELETED, VERIFIED, at, held_back, interfering, logs_by_day, prune, sealed, store_days, window

_COLUMNS = """id bigint GENERATED ALWAYS AS IDENTITY, agent_id text, "timestamp" timestamptz, status text,
    latency_ms int, token_count int, cost_usd numeric, error_type text, metadata jsonb"""
PARTITIONED = (
    "DROP TABLE agent_execution_logs",
    f'CREATE TABLE agent_execution_logs ({_COLUMNS}) PARTITION BY RANGE ("timestamp")',
    """CREATE TABLE old PARTITION OF agent_execution_logs FOR VALUES FROM (MINVALUE) TO ('2025-03-05 00:00Z')""",
    """CREATE TABLE young PARTITION OF agent_execution_logs FOR VALUES FROM ('2025-03-05 00:00Z') TO (MAXVALUE)""",
)


@pytest.fixture
def partitioned(database: Database) -> Database:
    """All logs of DAY and before in one partition, which may be dropped."""
    execute(database, *PARTITIONED)
    return database


def test_a_partition_is_not_dropped_with_logs_that_no_calendar_has(partitioned: Database) -> None:
    store_days(partitioned, 0)
    execute(
        partitioned,
        """INSERT INTO agent_execution_logs (agent_id, "timestamp", status)
           VALUES ('a', '-infinity', 'x'), ('a', '0044-03-15 12:00 BC', 'x'), ('a', '1899-12-30', 'x')""",
    )
    report = prune(partitioned)
    assert (report.dropped_partitions, report.pruned_logs) == ([], {DAY: 3})
    assert query(partitioned, "SELECT count(*), max(status) FROM agent_execution_logs") == [(3, "x")]
    assert report.logs_left == 3


def test_logs_that_a_policy_hides_are_not_deleted_from_behind_it(partitioned: Database, database_url: str) -> None:
    """The policy of a partitioned table does not hold for who deletes from its partitions, or drops them."""
    role = "hostile_reader"
    execute(
        partitioned,
        f"DO $$ BEGIN CREATE ROLE {role} LOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$",
        f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {role}",
        "ALTER TABLE agent_execution_logs ENABLE ROW LEVEL SECURITY",
        f"ALTER TABLE old OWNER TO {role}",
        f"ALTER TABLE agent_execution_logs OWNER TO {role}",
        "ALTER TABLE agent_execution_logs FORCE ROW LEVEL SECURITY",
        f"CREATE POLICY visible ON agent_execution_logs TO {role} USING (agent_id <> 'hidden')",
    )
    reader = Database(DatabaseUrl.parse(as_role(database_url, role)))
    store_days(partitioned, 0, is_aggregated=False)
    store_logs(partitioned, [Log("hidden")])
    assert aggregate(reader).computed.metrics.fingerprint.logs == 3
    for is_dry_run in (True, False):
        report = prune(reader, is_dry_run=is_dry_run)
        assert (report.pruned_logs, report.dropped_partitions) == ({DAY: 3}, [])
    assert query(partitioned, "SELECT agent_id FROM agent_execution_logs") == [("hidden",)]


def as_role(url: str, role: str) -> str:
    parsed: URL = make_url(url)
    return parsed.set(username=role).render_as_string(hide_password=False)


def test_a_delete_trigger_that_archives_sees_every_log_of_a_partition(partitioned: Database) -> None:
    execute(
        partitioned,
        "CREATE TABLE archive (LIKE agent_execution_logs)",
        """CREATE FUNCTION archive() RETURNS trigger LANGUAGE plpgsql AS
           'BEGIN INSERT INTO archive SELECT OLD.*; RETURN OLD; END'""",
        """CREATE TRIGGER archive AFTER DELETE ON agent_execution_logs FOR EACH ROW EXECUTE FUNCTION archive()""",
    )
    store_days(partitioned, 0)
    report = prune(partitioned)
    assert (report.dropped_partitions, report.pruned_logs) == ([], {DAY: 3})
    assert query(partitioned, "SELECT count(*) FROM archive") == [(3,)]


def test_a_day_of_which_a_trigger_keeps_logs_is_held_back_whole(database: Database) -> None:
    execute(
        database,
        """CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS
           'BEGIN RETURN CASE WHEN OLD.latency_ms % 2 = 0 THEN OLD END; END'""",
        """CREATE TRIGGER keep BEFORE DELETE ON agent_execution_logs FOR EACH ROW
           WHEN (OLD."timestamp" >= '2025-03-04') EXECUTE FUNCTION keep()""",
    )
    store_days(database, -1, 0, logs=9)
    for gone in ({window(-1).metric_date: 9}, {}):
        report = prune(database, batch_rows=2)
        assert report.pruned_logs == gone
        [(logs, reason)] = held_back(report).values()
        assert logs == 9
        assert reason.startswith("could not be deleted: a trigger, a rule or a policy of the table kept logs")
        assert "logs -4" in reason
        assert (logs_by_day(database), sealed(database)) == ({DAY: 9}, {window(-1).metric_date: 9})
    # Once the trigger is gone, so are the logs.
    execute(database, "DROP TRIGGER keep ON agent_execution_logs")
    assert prune(database, batch_rows=2).held_back == []
    assert sealed(database) == {window(-1).metric_date: 9, DAY: 9}


@pytest.mark.parametrize(
    "trigger",
    [
        "INSERT INTO agent_execution_logs (agent_id, timestamp, status) VALUES (OLD.agent_id, OLD.timestamp, 'copy')",
        "DELETE FROM agent_execution_logs WHERE latency_ms = 2",
    ],
    ids=["inserts a copy", "deletes others"],
)
def test_a_trigger_that_writes_logs_while_they_are_deleted_loses_none_that_is_in_no_metric(
    database: Database, trigger: str
) -> None:
    execute(
        database,
        f"""CREATE FUNCTION meddle() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            IF OLD.latency_ms = 1 THEN {trigger}; END IF; RETURN OLD; END $$""",
        "CREATE TRIGGER meddle BEFORE DELETE ON agent_execution_logs FOR EACH ROW EXECUTE FUNCTION meddle()",
    )
    store_days(database, 0)
    report = prune(database)
    [(logs, reason)] = held_back(report).values()
    if report.pruned_logs:
        assert (report.pruned_logs, logs, reason[:13]) == ({DAY: 3}, 1, "arrived after")
        assert query(database, "SELECT status FROM agent_execution_logs") == [("copy",)]
    else:
        assert (logs, logs_by_day(database), sealed(database)) == (3, {DAY: 3}, {})


def test_a_partition_that_a_view_depends_on_is_emptied_instead(partitioned: Database) -> None:
    execute(partitioned, "CREATE VIEW of_old AS SELECT * FROM old")
    store_days(partitioned, 0)
    report = prune(partitioned)
    assert (report.dropped_partitions, report.pruned_logs) == ([], {DAY: 3})
    assert query(partitioned, "SELECT count(*) FROM of_old") == [(0,)]


def test_logs_that_other_tables_refer_to_go_with_what_their_foreign_key_says(partitioned: Database) -> None:
    execute(
        partitioned,
        'ALTER TABLE agent_execution_logs ADD PRIMARY KEY (id, "timestamp")',
        """CREATE TABLE remarks (log_id bigint, log_time timestamptz,
               FOREIGN KEY (log_id, log_time) REFERENCES agent_execution_logs ON DELETE CASCADE)""",
    )
    store_days(partitioned, 0)
    execute(partitioned, 'INSERT INTO remarks SELECT id, "timestamp" FROM agent_execution_logs LIMIT 1')
    report = prune(partitioned)
    assert (report.dropped_partitions, report.pruned_logs) == ([], {DAY: 3})
    assert query(partitioned, "SELECT count(*) FROM remarks") == [(0,)]


def test_a_table_that_was_detached_meanwhile_is_left_as_its_owner_has_it(partitioned: Database) -> None:
    execute(partitioned, "CREATE VIEW keeps_it_from_being_dropped AS SELECT * FROM old")
    store_days(partitioned, 0, logs=9)
    detach = "ALTER TABLE agent_execution_logs DETACH PARTITION old"
    # After the days are listed, before the transaction of the day takes its snapshot.
    with interfering(partitioned, "pg_advisory_xact_lock", at(2, lambda: execute(partitioned, detach))):
        report = prune(partitioned, batch_rows=2)
    assert (report.pruned_logs, report.dropped_partitions) == ({}, [])
    assert query(partitioned, "SELECT count(*) FROM old") == [(9,)]
    assert sealed(partitioned) == {}
    execute(
        partitioned,
        """ALTER TABLE agent_execution_logs ATTACH PARTITION old
               FOR VALUES FROM (MINVALUE) TO ('2025-03-05 00:00Z')""",
    )
    assert prune(partitioned).pruned_logs == {DAY: 9}


@pytest.mark.parametrize("moment", [VERIFIED, DELETED])
def test_a_table_that_is_attached_meanwhile_keeps_its_logs_however_old_they_are(
    partitioned: Database, moment: str
) -> None:
    """Their transactions ended long before the snapshot, and yet they are in no metric."""
    execute(
        partitioned,
        "ALTER TABLE agent_execution_logs DETACH PARTITION old",
        """CREATE TABLE morning PARTITION OF agent_execution_logs
               FOR VALUES FROM ('2025-03-04 00:00Z') TO ('2025-03-04 12:00Z')""",
        f"CREATE TABLE evening ({_COLUMNS.replace('GENERATED ALWAYS AS IDENTITY', 'NOT NULL DEFAULT 1')})",
        """INSERT INTO evening (agent_id, "timestamp", status) VALUES ('a', '2025-03-04 11:00Z', 'failed')""",
        "CREATE VIEW keeps_it_from_being_dropped AS SELECT * FROM morning",
    )
    store_days(partitioned, 0)
    execute(
        partitioned,
        """INSERT INTO agent_execution_logs (agent_id, "timestamp", status)
           VALUES ('a', '2025-03-04 11:30Z', 'success')""",
        """UPDATE evening SET "timestamp" = '2025-03-04 18:00Z'""",
    )
    aggregate(partitioned)
    attach = """ALTER TABLE agent_execution_logs ATTACH PARTITION evening
                    FOR VALUES FROM ('2025-03-04 12:00Z') TO ('2025-03-05 00:00Z')"""
    first_of_the_day = 1 + (moment == VERIFIED)
    with interfering(partitioned, moment, at(first_of_the_day, lambda: execute(partitioned, attach))):
        prune(partitioned, batch_rows=1)
    for is_dry_run in (True, False):
        assert list(held_back(prune(partitioned, is_dry_run=is_dry_run))) == [DAY]
    assert ("failed",) in query(partitioned, "SELECT status FROM agent_execution_logs")


FOREIGN = (
    "CREATE FOREIGN DATA WRAPPER without_handler",
    "CREATE SERVER elsewhere FOREIGN DATA WRAPPER without_handler",
    *PARTITIONED[:2],
    """CREATE TABLE old PARTITION OF agent_execution_logs FOR VALUES FROM (MINVALUE) TO ('2025-03-05 00:00Z')""",
    """CREATE TABLE young PARTITION OF agent_execution_logs
           FOR VALUES FROM ('2025-03-05 00:00Z') TO ('2030-01-01 00:00Z')""",
)


def test_a_foreign_partition_that_holds_no_day_that_is_old_enough_is_in_nobodys_way(database: Database) -> None:
    execute(
        database,
        *FOREIGN,
        """CREATE FOREIGN TABLE far PARTITION OF agent_execution_logs
               FOR VALUES FROM ('2030-01-01 00:00Z') TO (MAXVALUE) SERVER elsewhere""",
    )
    store_days(database, 0)
    report = prune(database)
    assert (report.dropped_partitions, report.pruned_logs, report.held_back) == (["old"], {DAY: 3}, [])


def test_a_foreign_partition_that_cannot_be_read_ends_the_run_after_the_metrics_expired(database: Database) -> None:
    store_days(database, -400)
    prune(database, "2024-04-01T03:30:00+00:00")
    execute(
        database,
        *FOREIGN[:4],
        """CREATE FOREIGN TABLE near PARTITION OF agent_execution_logs
               FOR VALUES FROM (MINVALUE) TO (MAXVALUE) SERVER elsewhere""",
    )
    with pytest.raises(PermanentError, match="has no handler"):
        prune(database)
    assert query(database, "SELECT count(*) FROM agent_performance_metrics") == [(0,)]


def test_a_day_that_lies_partly_in_a_foreign_table_is_held_back(
    partitioned: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No foreign data wrapper is at hand, so the catalog is made to say that a partition is foreign."""
    store_days(partitioned, 0, 1)
    monkeypatch.setattr(
        "metrics_pipeline.retention.raw_logs.tables_of",
        lambda *arguments: [
            replace(table, is_table=table.name != "old", is_droppable=False) for table in tables_of(*arguments)
        ],
    )
    for is_dry_run in (True, False):
        assert held_back(prune(partitioned, "2025-04-05T03:30:00+00:00", is_dry_run=is_dry_run)) == {
            DAY: (3, "in a view or a foreign table, wholly or in part: retention deletes from tables only")
        }
    assert logs_by_day(partitioned) == {DAY: 3}


def test_logs_of_inheriting_tables_are_deleted_too(database: Database) -> None:
    execute(database, "CREATE TABLE heir () INHERITS (agent_execution_logs)")
    store_days(database, 0)
    execute(
        database,
        """INSERT INTO heir (agent_id, "timestamp", status) VALUES ('a', '2025-03-04 13:00Z', 'failed')""",
    )
    aggregate(database)
    assert_exact(database)
    report = prune(database)
    assert (report.pruned_logs, report.held_back, report.logs_left) == ({DAY: 4}, [], 0)
    assert sealed(database) == {DAY: 4}


def test_a_minute_that_came_twice_around_midnight_ends_no_run(database: Database) -> None:
    """Clocks in St John's went back from 00:01 to 23:01: after the day had begun, they showed the one before again."""
    zone = "America/St_Johns"
    store_agents(database, {"a": "active"})
    changed = day_window(date(2010, 11, 7), zone)
    moments = [datetime(2010, 11, 7, 3, minute, tzinfo=UTC) for minute in (0, 29)]
    store_logs(database, [Log(timestamp=moment) for moment in moments])
    aggregate(database, changed)
    assert prune(database, time_zone=zone).pruned_logs == {date(2010, 11, 7): 2}


@pytest.mark.parametrize("strategy", ["LIST (agent_id)", "HASH (agent_id)"])
def test_partitions_by_something_else_than_time_are_emptied_and_stay(database: Database, strategy: str) -> None:
    bounds = {
        "L": ["FOR VALUES IN ('a')", "DEFAULT"],
        "H": [f"FOR VALUES WITH (MODULUS 2, REMAINDER {n})" for n in (0, 1)],
    }
    execute(
        database,
        "DROP TABLE agent_execution_logs",
        f"CREATE TABLE agent_execution_logs ({_COLUMNS}) PARTITION BY {strategy}",
        *(
            f"CREATE TABLE part_{n} PARTITION OF agent_execution_logs {bound}"
            for n, bound in enumerate(bounds[strategy[0]])
        ),
    )
    store_days(database, -1, 0, 1)
    report = prune(database, batch_rows=2)
    assert (report.dropped_partitions, report.pruned_logs) == ([], {window(-1).metric_date: 3, DAY: 3})
    assert logs_by_day(database) == {window(1).metric_date: 3}


def test_partitions_in_another_schema_with_names_of_any_kind_go(database: Database) -> None:
    name = 'Lo"gs: :rows %s %(x)s'
    execute(database, *PARTITIONED[:2], "CREATE SCHEMA elsewhere")
    with database.engine.begin() as connection:
        for bounds, suffix in (("(MINVALUE) TO ('2025-03-04')", "1"), ("('2025-03-04') TO (MAXVALUE)", "2")):
            statement = sql.SQL("CREATE TABLE {} PARTITION OF agent_execution_logs FOR VALUES FROM ").format(
                sql.Identifier("elsewhere", name + suffix)
            )
            connection.connection.cursor().execute(statement + sql.SQL(bounds))
    store_days(database, -1, 0, 1)
    report = prune(database)
    assert report.dropped_partitions == [f'elsewhere."{name.replace(chr(34), chr(34) * 2)}1"']
    assert report.pruned_logs == {window(-1).metric_date: 3, DAY: 3}


def test_uuid_agents_enum_statuses_and_naive_times_are_pruned(database: Database) -> None:
    agent = "7e57d004-2b97-4e7a-b45f-5387367791cd"
    execute(
        database,
        "DROP TABLE agent_execution_logs",
        "CREATE TYPE outcome AS ENUM ('success', 'failed')",
        """CREATE TABLE agent_execution_logs (id int, agent_id uuid, "timestamp" timestamp, status outcome,
               latency_ms smallint, token_count int, cost_usd numeric, error_type text, metadata json)
               PARTITION BY RANGE ("timestamp")""",
        """CREATE TABLE old PARTITION OF agent_execution_logs FOR VALUES FROM (MINVALUE) TO ('2025-03-04')""",
        """CREATE TABLE young PARTITION OF agent_execution_logs FOR VALUES FROM ('2025-03-04') TO (MAXVALUE)""",
    )
    store_agents(database, {agent: "active"})
    for offset in (-1, 0, 1):
        store_logs(database, [Log(agent, "failed", 5, 6, "0.5", None, '{"a": 1, "a": 2}', window(offset).start)] * 3)
        aggregate(database, window(offset))
    report = prune(database, batch_rows=2)
    assert report.dropped_partitions == ["old"]
    assert report.pruned_logs == {window(-1).metric_date: 3, DAY: 3}
    assert logs_by_day(database) == {window(1).metric_date: 3}
