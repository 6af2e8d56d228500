"""The change feed under random writers: every committed change after a mark is reported."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Connection, text

from metrics_pipeline.logs.change_feed import FeedMark, mark, raise_watermark, touched_days
from metrics_pipeline.postgres.database import Database
from metrics_pipeline.postgres.urls import DatabaseUrl
from metrics_pipeline_tests.databases import scratch_database
from metrics_pipeline_tests.days import execute
from metrics_pipeline_tests.examples import examples
from metrics_pipeline_tests.logs.test_change_feed import WINDOWS, insert, log, statements
from metrics_pipeline_tests.roles import apply


def days_of(connection: Connection) -> dict[date, list[str]]:
    """The witness: every log of each day."""
    rows = connection.execute(
        text("""SELECT ("timestamp" AT TIME ZONE 'UTC')::date, array_agg(log::text ORDER BY log::text)
                FROM agent_execution_logs AS log GROUP BY 1""")
    )
    return {row[0]: row[1] for row in rows}


WRITERS, OFFSETS = st.integers(0, 2), st.integers(0, 3)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("insert"), WRITERS, OFFSETS),
        st.tuples(st.sampled_from(["insert", "update", "delete", "move"]), WRITERS, OFFSETS),
        st.tuples(st.sampled_from(["commit", "commit", "rollback"]), WRITERS, st.just(0)),
        st.tuples(st.just("raise"), st.just(0), OFFSETS),
        st.tuples(st.just("verify"), st.just(0), st.just(0)),
        st.tuples(st.just("verify"), st.just(0), st.just(0)),
    ),
    min_size=8,
    max_size=25,
)


@pytest.fixture(scope="module")
def history(server_uri: str, _template: str) -> Iterator[Database]:
    with scratch_database(server_uri, _template) as url:
        apply(statements(url), url)
        yield Database(DatabaseUrl.parse(url))


@pytest.mark.usefixtures("short_waits")
@given(STEPS)
@examples(25)
def test_every_committed_change_after_a_mark_is_reported(
    history: Database, steps: Sequence[tuple[str, int, int]]
) -> None:
    """Three writers at once, each under another isolation level, and a verifier that keeps all of its marks."""
    with history.keeping_connections() as kept, ExitStack() as stack:
        execute(kept, "TRUNCATE agent_execution_logs", "UPDATE metric_log_feed SET watermark = 0, structure = ''")
        execute(kept, "SELECT setval('metric_log_watermark', 0)", *(insert(log(n)) for n in range(4)))
        writers = [
            stack.enter_context(kept.engine.connect().execution_options(isolation_level=level))
            for level in ("READ COMMITTED", "REPEATABLE READ", "READ COMMITTED")
        ]
        verified: list[tuple[FeedMark, dict[date, list[str]]]] = []

        def verify() -> None:
            with kept.connect() as connection:
                found = mark(connection)
            with kept.snapshot() as connection:
                state = days_of(connection)
                for since, before in verified:
                    reported = touched_days(connection, since, WINDOWS)
                    changed = {w.metric_date for w in WINDOWS if before.get(w.metric_date) != state.get(w.metric_date)}
                    assert reported is not None
                    assert changed <= reported
            if found is not None:
                verified.append((found, state))

        for action, writer, day in steps:
            if action == "raise":
                raise_watermark(kept, WINDOWS[day].end)
            elif action == "verify":
                verify()
            elif action == "commit":
                writers[writer].commit()
            elif action == "rollback":
                writers[writer].rollback()
            else:
                # Writers change rows of their own only, so that none waits for another.
                own = f"""agent_id = '{writer}' AND "timestamp" >= {log(day, 0)} AND "timestamp" < {log(day + 1, 0)}"""
                writers[writer].execute(
                    text(
                        {
                            "insert": insert(log(day)).replace("'a'", f"'{writer}'"),
                            "update": f"UPDATE agent_execution_logs SET latency_ms = 1 WHERE {own}",
                            "delete": f"DELETE FROM agent_execution_logs WHERE {own}",
                            "move": f"""UPDATE agent_execution_logs SET "timestamp" = {log(3 - day)} WHERE {own}""",
                        }[action]
                    )
                )
        for connection in writers:
            connection.commit()
        verify()


@pytest.fixture
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """The writers of a history end only after the wait."""
    monkeypatch.setattr("metrics_pipeline.logs.change_feed._WAIT_SECONDS", 0)
