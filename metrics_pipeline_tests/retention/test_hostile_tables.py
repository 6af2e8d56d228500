"""Log tables as other systems make them: whatever they do, no log goes that was not aggregated."""

from datetime import UTC, date, datetime

import pytest
from psycopg import sql
from sqlalchemy import URL, make_url

from metrics_pipeline.errors import PermanentError
from metrics_pipeline.metrics.windows import day_window
from metrics_pipeline.postgres.database import Database
from metrics_pipeline.postgres.urls import DatabaseUrl
from metrics_pipeline_tests.days import DAY, Log, aggregate, assert_exact, execute, query, store_agents, store_logs

from .runs import contents, held_back, logs_by_day, prune, sealed, store_days, window

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
    """The policy of a partitioned table does not hold for who reads or deletes its partitions directly."""
    role = "hostile_reader"
    execute(
        partitioned,
        f"DO $$ BEGIN CREATE ROLE {role} LOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$",
        f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {role}",
        "ALTER TABLE agent_execution_logs ENABLE ROW LEVEL SECURITY",
        f"CREATE POLICY visible ON agent_execution_logs TO {role} USING (agent_id <> 'hidden')",
    )
    reader = Database(DatabaseUrl.parse(as_role(database_url, role)))
    store_days(partitioned, 0, is_aggregated=False)
    store_logs(partitioned, [Log("hidden")])
    assert aggregate(reader).computed.metrics.fingerprint.logs == 3
    before = contents(partitioned)
    for is_dry_run in (True, False):
        with pytest.raises(PermanentError, match="Row-level security hides rows of agent_execution_logs"):
            prune(reader, is_dry_run=is_dry_run)
        assert contents(partitioned) == before


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


def test_logs_that_a_trigger_keeps_are_reported_and_the_others_go(database: Database) -> None:
    execute(
        database,
        """CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS
           'BEGIN RETURN CASE WHEN OLD.latency_ms % 2 = 0 THEN OLD END; END'""",
        """CREATE TRIGGER keep BEFORE DELETE ON agent_execution_logs FOR EACH ROW EXECUTE FUNCTION keep()""",
    )
    store_days(database, -1, 0, logs=9)
    kept = "could not be deleted: a trigger or a policy of the table keeps them"
    for gone in (5, 0):
        report = prune(database, batch_rows=2)
        assert report.pruned_logs == {window(-1).metric_date: gone, DAY: gone}
        assert held_back(report) == {window(-1).metric_date: (4, kept), DAY: (4, kept)}
        assert logs_by_day(database) == {window(-1).metric_date: 4, DAY: 4}
    # Once the trigger is gone, so are the logs.
    execute(database, "DROP TRIGGER keep ON agent_execution_logs")
    assert prune(database, batch_rows=2).held_back == []
    assert sealed(database) == {window(-1).metric_date: 9, DAY: 9}


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

    def detach(message: str) -> None:
        if "4 of 9" in message:
            execute(partitioned, "ALTER TABLE agent_execution_logs DETACH PARTITION old")

    report = prune(partitioned, batch_rows=2, on_progress=detach)
    assert report.pruned_logs == {DAY: 4}
    assert query(partitioned, "SELECT count(*) FROM old") == [(5,)]
    execute(
        partitioned,
        """ALTER TABLE agent_execution_logs ATTACH PARTITION old
               FOR VALUES FROM (MINVALUE) TO ('2025-03-05 00:00Z')""",
    )
    # Its logs are now in no open account of the day: they are reported, and stay.
    assert prune(partitioned).pruned_logs in ({}, {DAY: 5})
    assert sealed(partitioned)[DAY] + logs_by_day(partitioned).get(DAY, 0) == 9


def test_a_table_that_is_attached_meanwhile_keeps_its_logs_however_old_they_are(partitioned: Database) -> None:
    """Their transactions ended long before the day was sealed, and yet they are in no metric."""
    execute(
        partitioned,
        "ALTER TABLE agent_execution_logs DETACH PARTITION old",
        """CREATE TABLE morning PARTITION OF agent_execution_logs
               FOR VALUES FROM ('2025-03-04 00:00Z') TO ('2025-03-04 12:00Z')""",
        f"CREATE TABLE evening ({_COLUMNS.replace('GENERATED ALWAYS AS IDENTITY', 'NOT NULL DEFAULT 1')})",
        """INSERT INTO evening (agent_id, "timestamp", status) VALUES ('a', '2025-03-04 18:00Z', 'failed')""",
    )
    store_days(partitioned, 0)

    def attach(message: str) -> None:
        if "sealed with" in message:
            execute(
                partitioned,
                """ALTER TABLE agent_execution_logs ATTACH PARTITION evening
                       FOR VALUES FROM ('2025-03-04 12:00Z') TO ('2025-03-05 00:00Z')""",
            )

    prune(partitioned, on_progress=attach)
    for is_dry_run in (True, False):
        assert list(held_back(prune(partitioned, is_dry_run=is_dry_run))) == [DAY]
    assert query(partitioned, "SELECT status FROM agent_execution_logs") == [("failed",)]


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


def test_a_dry_run_refuses_a_view_with_the_same_words(database: Database) -> None:
    store_days(database, 0)
    execute(
        database,
        "ALTER TABLE agent_execution_logs RENAME TO elsewhere",
        "CREATE VIEW agent_execution_logs AS SELECT * FROM elsewhere",
    )
    with pytest.raises(PermanentError, match="agent_execution_logs is none"):
        prune(database, is_dry_run=True)


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
