"""How a plain table with a change feed is watched: a look reads the touched days only."""

from datetime import timedelta

import pytest
from typer.testing import CliRunner

from metrics_pipeline.cli import app
from metrics_pipeline.metrics.reconciliation import DayState
from metrics_pipeline.metrics.verification import JudgedBy
from metrics_pipeline.pipeline.opening import open_logs
from metrics_pipeline.pipeline.watching import USUAL_EFFORT
from metrics_pipeline.postgres.database import Database
from metrics_pipeline_tests.days import execute, judged
from metrics_pipeline_tests.examples import variants
from metrics_pipeline_tests.pipeline.test_watching import DAYS, WINDOWS, WRITERS, evidence, fill, said, truth, write
from metrics_pipeline_tests.processes import wait_until
from metrics_pipeline_tests.roles import apply


@pytest.fixture
def fed(database: Database, database_url: str) -> Database:
    """A plain table with a change feed, all of whose days were looked at since."""
    fill(database)
    watch_with_a_feed(database, database_url)
    judged(database, *DAYS)
    return database


def watch_with_a_feed(database: Database, url: str) -> None:
    printed = CliRunner().invoke(app, ["db", "watch"], env={"METRICS_DATABASE_URL": url})
    if printed.exception is not None:
        raise printed.exception
    apply(printed.output, url)
    begin_to_watch(database)


def begin_to_watch(database: Database) -> None:
    open_logs(database).watch(database, WINDOWS[DAYS[-1]].end)

    def has_marks() -> bool:
        with database.connect() as connection:
            return bool(open_logs(database).marks(connection, list(WINDOWS.values())))

    # Transactions are counted for the whole server: one of another test, open for a moment, delays the feed.
    wait_until(has_marks)


def test_with_a_feed_a_look_at_a_plain_table_reads_the_touched_days_only(fed: Database) -> None:
    assert evidence(judged(fed, *DAYS, effort=USUAL_EFFORT)) == [JudgedBy.FEED] * 4
    write(fed, WRITERS["a correction of no total"], DAYS[0])
    looked = judged(fed, *DAYS, effort=USUAL_EFFORT)
    assert evidence(looked) == [JudgedBy.CONTENT, *[JudgedBy.FEED] * 3]
    assert [verdict.state for verdict in looked] == [DayState.DIRTY, *[DayState.AGGREGATED] * 3]
    assert evidence(judged(fed, *DAYS, effort=USUAL_EFFORT)) == [JudgedBy.FEED] * 4
    # Without its triggers nothing is believed that it noted, and a count would not show the correction.
    execute(fed, "ALTER TABLE agent_execution_logs DISABLE TRIGGER metric_note_update")
    write(fed, WRITERS["a correction in place"], DAYS[1])
    looked = judged(fed, *DAYS, effort=USUAL_EFFORT)
    assert evidence(looked) == [JudgedBy.CONTENT] * 4
    assert looked[1].state is DayState.DIRTY
    # They are read once, not each time.
    write(fed, WRITERS["a late log"], DAYS[-1] + timedelta(days=1))
    assert evidence(judged(fed, *DAYS, effort=USUAL_EFFORT)) == [JudgedBy.INSERTS] * 4


@pytest.mark.parametrize("name", variants(WRITERS))
def test_with_a_feed_every_change_is_found_by_the_next_look(fed: Database, name: str) -> None:
    write(fed, WRITERS[name], DAYS[1])
    assert said(judged(fed, *DAYS, effort=USUAL_EFFORT)) == said(truth(fed))


def test_a_feed_that_missed_a_note_begins_again_with_the_next_look_of_the_pipeline(fed: Database) -> None:
    execute(fed, "SELECT nextval('metric_log_failures')")
    assert JudgedBy.FEED not in evidence(judged(fed, *DAYS, effort=USUAL_EFFORT))
    begin_to_watch(fed)
    judged(fed, *DAYS)
    assert evidence(judged(fed, *DAYS, effort=USUAL_EFFORT)) == [JudgedBy.FEED] * 4
