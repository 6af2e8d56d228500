"""The change feed: what its triggers note, what no writer notices of it, and when it says that it cannot tell."""

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta

import pytest
from sqlalchemy import Connection, text
from typer.testing import CliRunner

from metrics_pipeline.cli import app
from metrics_pipeline.logs.change_feed import FeedMark, describe_feed, mark, raise_watermark, touched_days
from metrics_pipeline.metrics.windows import day_window
from metrics_pipeline.postgres.database import Database
from metrics_pipeline_tests.days import DAY, execute, query
from metrics_pipeline_tests.examples import variants
from metrics_pipeline_tests.processes import wait_until
from metrics_pipeline_tests.retention.test_partitions import CREATE, daily_partitions
from metrics_pipeline_tests.roles import Role, apply, roles

__all__ = ["roles"]

WINDOWS = [day_window(DAY + timedelta(days=n), "UTC") for n in range(4)]
END = WINDOWS[-1].end


def statements(url: str, *options: str) -> str:
    result = CliRunner().invoke(app, ["db", "watch", *options], env={"METRICS_DATABASE_URL": url})
    assert result.exit_code == 0, result.exception
    return result.output


def log(offset: int, hour: float = 12) -> str:
    return f"'{WINDOWS[0].start + timedelta(days=offset, hours=hour)}'"


def insert(*moments: str, into: str = "agent_execution_logs") -> str:
    rows = ", ".join(f"('a', {moment}, 'success')" for moment in moments)
    return f'INSERT INTO {into} (agent_id, "timestamp", status) VALUES {rows}'


@pytest.fixture
def watched(database: Database, database_url: str) -> Database:
    """Logs of four days, watched from now on."""
    execute(database, *(insert(log(n)) for n in range(4)))
    apply(statements(database_url), database_url)
    raise_watermark(database, END)
    return database


def marked(database: Database) -> FeedMark:
    # Transactions are counted for the whole server: one of another test, open for a moment, delays the mark.
    wait_until(lambda: has_mark(database))
    with database.connect() as connection:
        found = mark(connection)
    assert found is not None
    return FeedMark.from_json(found.to_json())


def has_mark(database: Database) -> bool:
    with database.connect() as connection:
        return mark(connection) is not None


def touched(database: Database, since: FeedMark) -> set[int] | None:
    """The offsets of the days, from DAY."""
    with database.connect() as connection:
        days = touched_days(connection, since, WINDOWS)
    return None if days is None else {(day - DAY).days for day in days}


def problems(database: Database) -> str:
    with database.connect() as connection:
        return " ".join(describe_feed(connection)[1])


@contextmanager
def open_transaction(database: Database, statement: str, isolation: str = "READ COMMITTED") -> Iterator[Connection]:
    """A transaction that has executed the statement, and is committed at the end."""
    with database.engine.connect().execution_options(isolation_level=isolation) as connection:
        connection.execute(text(statement))
        yield connection
        connection.commit()


@pytest.mark.parametrize(
    ("change", "days"),
    variants([
        (insert(log(1)), {1}),
        (insert(log(2, 0)), {2}),
        (insert(log(1, 23.9999)), {1}),
        (insert(log(0), log(2), "now()"), {0, 1, 2}),
        (f"""UPDATE agent_execution_logs SET latency_ms = 7 WHERE "timestamp" = {log(3)}""", {3}),
        (f"""UPDATE agent_execution_logs SET "timestamp" = {log(1)} WHERE "timestamp" = {log(0)}""", {0, 1}),
        (f"""UPDATE agent_execution_logs SET "timestamp" = {log(900)} WHERE "timestamp" = {log(2)}""", {2, 3}),
        (f"""DELETE FROM agent_execution_logs WHERE "timestamp" = {log(2)}""", {2}),
        (f"""WITH moved AS (DELETE FROM agent_execution_logs WHERE "timestamp" = {log(0)} RETURNING *)
             INSERT INTO agent_execution_logs SELECT * FROM moved""", {0}),
        (f"""INSERT INTO agent_execution_logs (id, agent_id, "timestamp", status)
             SELECT id, 'b', {log(2)}, 'failed' FROM agent_execution_logs WHERE "timestamp" = {log(1)}
             ON CONFLICT (id) DO UPDATE SET status = 'failed'""", {1}),
        (f"""MERGE INTO agent_execution_logs AS log USING (SELECT 1) AS one ON log."timestamp" = {log(3)}
             WHEN MATCHED THEN DELETE""", {3}),
        (insert("now()", "now() - interval '29 minutes'", "'infinity'"), set()),
        (f"""UPDATE agent_execution_logs SET latency_ms = 7 WHERE "timestamp" = {log(7)}""", set()),
    ]),
)  # fmt: skip
def test_each_way_to_change_a_log_touches_its_old_day_and_its_new_one(
    watched: Database, change: str, days: set[int]
) -> None:
    since = marked(watched)
    assert touched(watched, since) == set()
    execute(watched, change)
    assert touched(watched, since) == days
    assert touched(watched, marked(watched)) == set()


def test_copy_a_cascade_and_a_replication_role_are_noted(watched: Database) -> None:
    execute(
        watched,
        "INSERT INTO agent_registry VALUES ('a', 'A', 'active')",
        "ALTER TABLE agent_execution_logs ADD FOREIGN KEY (agent_id) REFERENCES agent_registry ON DELETE CASCADE",
    )
    raise_watermark(watched, END)
    since = marked(watched)
    with watched.engine.begin() as connection:
        cursor = connection.connection.cursor()
        with cursor.copy('COPY agent_execution_logs (agent_id, "timestamp", status) FROM STDIN') as copy:
            copy.write_row(("a", WINDOWS[1].start, "success"))
    assert touched(watched, since) == {1}
    since = marked(watched)
    execute(watched, "SET LOCAL session_replication_role = replica", insert(log(2)))
    assert touched(watched, since) == {2}
    since = marked(watched)
    execute(watched, "DELETE FROM agent_registry")
    assert touched(watched, since) == {0, 1, 2, 3}


def test_a_transaction_notes_a_span_once_and_what_is_rolled_back_is_not_reported(watched: Database) -> None:
    since = marked(watched)
    execute(
        watched,
        "SAVEPOINT s",
        insert(log(0)),
        "ROLLBACK TO s",
        insert(log(2)),
        *(insert(*(log(2, 12 + n / 1000) for n in range(100))) for _ in range(3)),
    )
    assert touched(watched, since) == {2}
    assert query(watched, "SELECT count(*) FROM metric_log_changes") == [(1,)]


@pytest.mark.parametrize("isolation", ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"])
def test_a_transaction_that_is_open_at_the_mark_and_commits_after_the_verification_is_found(
    watched: Database, isolation: str
) -> None:
    with open_transaction(watched, insert(log(1)), isolation):
        since = marked(watched)
        assert touched(watched, since) == set()
    assert touched(watched, since) == {1}


def test_there_is_no_mark_while_a_writer_is_active_that_read_the_old_watermark(
    database: Database, database_url: str
) -> None:
    apply(statements(database_url), database_url)
    raise_watermark(database, WINDOWS[0].end)
    with open_transaction(database, insert(log(1))):
        raise_watermark(database, END)
        assert not has_mark(database)
    assert query(database, "SELECT count(*) FROM metric_log_changes") == [(0,)]
    since = marked(database)
    execute(database, insert(log(1)))
    assert touched(database, since) == {1}


def test_a_writer_whose_snapshot_is_older_than_the_watermark_notes_as_well(
    database: Database, database_url: str
) -> None:
    apply(statements(database_url), database_url)
    raise_watermark(database, WINDOWS[0].end)
    with open_transaction(database, "SELECT count(*) FROM metric_log_feed", "REPEATABLE READ") as writer:
        raise_watermark(database, END)
        writer.execute(text(insert(log(1))))
        since = marked(database)
    assert touched(database, since) == {1}


def test_days_after_the_watermark_are_touched_until_it_is_raised(database: Database, database_url: str) -> None:
    apply(statements(database_url), database_url)
    assert not has_mark(database)
    raise_watermark(database, WINDOWS[1].end)
    since = marked(database)
    assert touched(database, since) == {2, 3}
    raise_watermark(database, END)
    raise_watermark(database, WINDOWS[0].end)
    assert touched(database, since) == {2, 3}
    assert touched(database, marked(database)) == set()


@pytest.mark.parametrize(
    "loss",
    variants(
        [
            ["DROP TRIGGER metric_note_update ON agent_execution_logs"],
            ["ALTER TABLE agent_execution_logs DISABLE TRIGGER metric_note_insert"],
            ["ALTER TABLE agent_execution_logs ENABLE TRIGGER metric_note_insert"],
            ["DROP SEQUENCE metric_log_failures"],
            ["DROP FUNCTION metric_note_log_change CASCADE"],
            ["ALTER TABLE metric_log_changes DISABLE TRIGGER ALL"],
            ["CREATE SCHEMA other", "ALTER TABLE metric_log_changes SET SCHEMA other"],
        ]
    ),
)
def test_a_feed_that_lost_a_part_gives_no_mark_and_fails_no_writer(watched: Database, loss: list[str]) -> None:
    since = marked(watched)
    execute(watched, *loss)
    execute(watched, insert(log(1)))
    assert touched(watched, since) is None
    raise_watermark(watched, END)
    assert not has_mark(watched)


@pytest.mark.parametrize(
    "changes",
    variants([
        ["ALTER TABLE agent_execution_logs DISABLE TRIGGER USER", insert(log(1)),
         "ALTER TABLE agent_execution_logs ENABLE ALWAYS TRIGGER metric_note_insert",
         "ALTER TABLE agent_execution_logs ENABLE ALWAYS TRIGGER metric_note_update",
         "ALTER TABLE agent_execution_logs ENABLE ALWAYS TRIGGER metric_note_delete"],
        ["TRUNCATE agent_execution_logs"],
        ["ALTER TABLE agent_execution_logs RENAME latency_ms TO other",
         "ALTER TABLE agent_execution_logs RENAME token_count TO latency_ms",
         "ALTER TABLE agent_execution_logs RENAME other TO token_count"],
        ["ALTER TABLE agent_execution_logs ALTER latency_ms TYPE integer USING latency_ms + 1"],
        ["ALTER FUNCTION metric_note_log_change() COST 2"],
        ["REVOKE INSERT ON metric_log_changes FROM postgres", insert(log(1)),
         "GRANT INSERT ON metric_log_changes TO postgres"],
        [insert(log(1)), "DELETE FROM metric_log_changes"],
        [insert(log(1)), "UPDATE metric_log_changes SET transaction_id = 1"],
        [insert(log(1)), "SET LOCAL session_replication_role = replica", "DELETE FROM metric_log_changes"],
        [insert(log(1)), "TRUNCATE metric_log_changes"],
    ]),
)  # fmt: skip
def test_what_was_changed_and_put_back_makes_the_mark_worthless_until_the_feed_begins_again(
    watched: Database, changes: list[str]
) -> None:
    since = marked(watched)
    execute(watched, *changes)
    assert touched(watched, since) is None
    raise_watermark(watched, END)
    assert touched(watched, marked(watched)) == set()
    assert touched(watched, since) is None


def test_a_note_that_cannot_be_written_fails_no_writer_and_is_noticed_also_if_it_comes_late(watched: Database) -> None:
    execute(watched, "ALTER TABLE metric_log_changes ADD CONSTRAINT full_disk CHECK (false) NOT VALID")
    raise_watermark(watched, END)
    since = marked(watched)
    with open_transaction(watched, insert(log(1))):
        assert touched(watched, since) is None
        assert not has_mark(watched)
        execute(watched, "ALTER TABLE metric_log_changes DROP CONSTRAINT full_disk")
        # The feed begins again, but the writer that noted nothing is still open.
        raise_watermark(watched, END)
        assert not has_mark(watched)
    assert query(watched, "SELECT count(*) FROM agent_execution_logs") == [(5,)]
    wait_until(lambda: has_mark(watched))


def test_locked_notes_hold_a_late_writer_up_for_a_second_and_others_not_at_all(watched: Database) -> None:
    since = marked(watched)
    with watched.engine.begin() as connection:
        connection.exec_driver_sql("LOCK TABLE metric_log_changes, metric_log_feed")
        writers = [
            threading.Thread(target=execute, args=(watched, "SET LOCAL lock_timeout = 0", insert(moment)))
            for moment in ("now()", log(1))
        ]
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join(timeout=30)
            assert not writer.is_alive()
    assert touched(watched, since) is None


def test_two_writers_of_one_day_do_not_wait_for_each_other(watched: Database) -> None:
    since = marked(watched)
    with ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(open_transaction(watched, insert(log(1))))
    assert touched(watched, since) == {1}


def test_naive_timestamps_are_utc_in_every_session(database: Database, database_url: str) -> None:
    execute(database, 'ALTER TABLE agent_execution_logs ALTER "timestamp" TYPE timestamp')
    apply(statements(database_url), database_url)
    raise_watermark(database, WINDOWS[1].end)
    since = marked(database)
    execute(database, "SET LOCAL TimeZone = 'Asia/Tokyo'", insert("'2025-03-05 23:50'"))
    execute(database, "SET LOCAL TimeZone = 'Asia/Tokyo'", insert("now() AT TIME ZONE 'UTC'", "'2025-03-06 00:10'"))
    assert touched(database, since) == {1, 2, 3}
    assert query(database, "SELECT changed_from::text FROM metric_log_changes") == [("2025-03-05 23:45:00+00",)]


def test_partitions_are_watched_also_new_ones_and_through_their_own_name(database: Database, database_url: str) -> None:
    execute(database, *CREATE, *daily_partitions(0, 1, 2))
    apply(statements(database_url), database_url)
    raise_watermark(database, END)
    since = marked(database)
    execute(database, insert(log(0), into="logs_0304"), insert(log(1)))
    assert touched(database, since) == {0, 1}
    since = marked(database)
    execute(database, f"""UPDATE agent_execution_logs SET "timestamp" = {log(2)} WHERE "timestamp" = {log(0)}""")
    assert touched(database, since) == {0, 1, 2}
    for structure in (
        next(daily_partitions(3)),
        "TRUNCATE logs_0304",
        "ALTER TABLE agent_execution_logs DETACH PARTITION logs_0305",
        f"""ALTER TABLE agent_execution_logs ATTACH PARTITION logs_0305
            FOR VALUES FROM ('{WINDOWS[1].start}') TO ('{WINDOWS[1].end}')""",
    ):
        since = marked(database)
        execute(database, structure)
        assert touched(database, since) is None
        assert problems(database) == ""
        raise_watermark(database, END)
    since = marked(database)
    execute(database, insert(log(3), into="logs_0307"))
    assert touched(database, since) == {3}
    execute(database, "ALTER TABLE logs_0307 DISABLE TRIGGER USER")
    assert "public.logs_0307 lacks a trigger" in problems(database)
    assert "metrics-pipeline db watch" in problems(database)
    assert touched(database, since) is None


def test_old_notes_are_pruned_and_a_mark_that_needed_them_is_worthless(watched: Database) -> None:
    since = marked(watched)
    execute(watched, insert(log(1)))
    later = marked(watched)
    # Beside an open transaction of another test, the mark would need the note that is pruned here.
    while not later.snapshot.endswith(":"):
        later = marked(watched)
    execute(watched, "ALTER TABLE metric_log_changes DISABLE TRIGGER USER")
    execute(watched, "UPDATE metric_log_changes SET noted_at = noted_at - interval '4 days'")
    execute(watched, "ALTER TABLE metric_log_changes ENABLE ALWAYS TRIGGER metric_log_changes_tampered")
    raise_watermark(watched, END)
    assert query(watched, "SELECT count(*) FROM metric_log_changes") == [(0,)]
    # As if nothing but the notes had changed.
    structure = marked(watched).structure
    assert touched(watched, FeedMark(since.snapshot, since.watermark, 0, structure)) is None
    assert touched(watched, FeedMark(later.snapshot, later.watermark, 0, structure)) == set()


def test_the_statements_can_be_applied_twice_and_removed(watched: Database, database_url: str) -> None:
    apply(statements(database_url), database_url)
    raise_watermark(watched, END)
    wait_until(lambda: has_mark(watched))
    with watched.connect() as connection:
        assert describe_feed(connection) == ("Change feed: installed and complete", [])
    apply(statements(database_url, "--remove"), database_url)
    with watched.connect() as connection:
        assert describe_feed(connection) == ("Change feed: not installed", [])
    assert query(watched, "SELECT 1 FROM pg_trigger WHERE tgrelid = 'agent_execution_logs'::regclass") == []
    assert not has_mark(watched)


def test_a_view_is_refused(database: Database, database_url: str) -> None:
    execute(
        database,
        "ALTER TABLE agent_execution_logs RENAME TO stored",
        "CREATE VIEW agent_execution_logs AS SELECT * FROM stored",
    )
    result = CliRunner().invoke(app, ["db", "watch"], env={"METRICS_DATABASE_URL": database_url})
    assert "is not a table in this database" in str(result.exception)
    assert not has_mark(database)


def test_granted_roles_can_use_the_feed_and_writers_need_nothing(watched: Database, roles: dict[str, Role]) -> None:
    pipeline, retention = roles["pipeline"].database, roles["retention"].database
    raise_watermark(pipeline, END)
    since = marked(pipeline)
    execute(retention, f"""DELETE FROM agent_execution_logs WHERE "timestamp" = {log(0)}""")
    assert touched(pipeline, since) == {0}
    assert "this role may not read it" in problems(retention)
    assert not has_mark(retention)
