"""How a view of logs is watched: by the counters of the tables behind it, unless a change may escape them."""

from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metrics_pipeline.logs.table_counters import behind_view, describe_view
from metrics_pipeline.metrics.verification import JudgedBy
from metrics_pipeline.pipeline.opening import open_logs
from metrics_pipeline.pipeline.watching import USUAL_EFFORT
from metrics_pipeline.postgres.database import Database
from metrics_pipeline_tests.days import aggregate, empty, execute, judged, store_agents
from metrics_pipeline_tests.examples import examples, variants
from metrics_pipeline_tests.pipeline.test_watching import (
    CERTAIN,
    COUNTED,
    DAYS,
    NEW,
    PARTITIONED,
    WINDOWS,
    WRITERS,
    WRITERS_OF_PARTITIONS,
    counts,
    evidence,
    said,
    truth,
    write,
)

_REST = "status, latency_ms, token_count, cost_usd, error_type, metadata"
_TYPES = "status text, latency_ms int, token_count int, cost_usd numeric, error_type text, metadata jsonb"
_VIEW = f"""
CREATE OR REPLACE VIEW agent_execution_logs AS SELECT id, agent_id, "timestamp", {_REST}
FROM stored WHERE agent_id IN (SELECT agent_id FROM shown)"""
_WRITERS = {
    name: tuple(statement.replace("TRUNCATE agent_execution_logs", "TRUNCATE stored") for statement in statements)
    for name, statements in WRITERS.items()
} | {
    "a row of the other table deleted": ("DELETE FROM shown WHERE agent_id = 'b'",),
    "a row of the other table inserted": ("INSERT INTO shown VALUES ('b')",),
    "another definition": (f"{_VIEW} AND id::text < '8'",),
    "the first definition": (_VIEW,),
}


def fill(database: Database) -> None:
    empty(database)
    store_agents(database, {"a": "active", "b": "active"})
    for window in WINDOWS.values():
        values = ", ".join(f"('{agent}', '{window.start}', 'success', 1)" for agent in "aab")
        execute(
            database, f'INSERT INTO agent_execution_logs (agent_id, "timestamp", status, latency_ms) VALUES {values}'
        )
        aggregate(database, window)
    execute(database, COUNTED)
    judged(database, *DAYS)


@pytest.fixture
def viewed(database: Database) -> Database:
    """The logs are a view over two tables, which show or hide its rows."""
    execute(
        database,
        "ALTER TABLE agent_execution_logs RENAME TO stored",
        "CREATE TABLE shown (agent_id text)",
        "INSERT INTO shown VALUES ('a'), ('b')",
        _VIEW,
    )
    return database


def test_a_look_at_a_view_reads_nothing_until_a_write_to_a_table_behind_it_is_counted(viewed: Database) -> None:
    fill(viewed)
    assert evidence(judged(viewed, *DAYS, effort=USUAL_EFFORT)) == [JudgedBy.TABLES] * 4
    write(viewed, WRITERS["a correction of no total"], DAYS[3])
    looked = judged(viewed, *DAYS, effort=USUAL_EFFORT)
    assert evidence(looked) == [*[JudgedBy.COUNT] * 2, *[JudgedBy.CONTENT] * 2]
    assert said(looked) == said(truth(viewed))
    # The days that were read are noted again; the others are counted until they are.
    expected = [*[JudgedBy.COUNT] * 2, *[JudgedBy.TABLES] * 2]
    assert evidence(judged(viewed, *DAYS, effort=USUAL_EFFORT)) == expected
    write(viewed, _WRITERS["a row of the other table deleted"], DAYS[0])
    assert said(judged(viewed, *DAYS, effort=USUAL_EFFORT)) == said(truth(viewed))


@pytest.mark.long
@examples(12)
@given(
    st.lists(
        st.lists(st.tuples(st.sampled_from([*_WRITERS]), st.sampled_from(DAYS)), max_size=2), min_size=1, max_size=4
    )
)
def test_in_any_history_of_the_tables_behind_a_view_a_day_that_counters_call_unchanged_is_so(
    viewed: Database, looks: list[list[tuple[str, date]]]
) -> None:
    execute(viewed, "DELETE FROM stored", "DELETE FROM shown", "INSERT INTO shown VALUES ('a'), ('b')", _VIEW)
    fill(viewed)
    read = counts(viewed)
    for writes in looks:
        for name, day in writes:
            write(viewed, _WRITERS[name], day)
        looked = judged(viewed, *DAYS, effort=USUAL_EFFORT)
        right, now = said(truth(viewed)), counts(viewed)
        unchanged = [verdict.metric_date for verdict in looked if verdict.judged_by in CERTAIN]
        promised = {*unchanged, *([day for day in DAYS if now[day] != read[day]] or NEW)}
        assert {day: said(looked)[day] for day in promised} == {day: right[day] for day in promised}
        read = now
    judged(viewed, *DAYS)
    assert evidence(judged(viewed, *DAYS, effort=USUAL_EFFORT)) == [JudgedBy.TABLES] * 4


_RUNS = (
    *PARTITIONED,
    "ALTER TABLE agent_execution_logs RENAME TO runs",
    'ALTER TABLE runs RENAME "timestamp" TO started_at',
)
_RENAMED = f'SELECT id, agent_id, started_at AS "timestamp", {_REST} FROM runs'


def test_a_view_that_renames_the_columns_of_a_partitioned_table_is_watched_by_its_partitions(
    database: Database,
) -> None:
    execute(database, *_RUNS, f"CREATE VIEW inner_view AS {_RENAMED}")
    execute(database, "CREATE VIEW agent_execution_logs AS SELECT * FROM inner_view WHERE status <> ALL ('{x}')")
    fill(database)
    assert evidence(judged(database, *DAYS, effort=USUAL_EFFORT)) == [JudgedBy.COUNTERS] * 4
    for name in ("a late log", "a correction of no total", "a move to the day before", "a truncated partition"):
        write(database, (WRITERS | WRITERS_OF_PARTITIONS)[name], DAYS[1])
        looked = judged(database, *DAYS, effort=USUAL_EFFORT)
        assert said(looked) == said(truth(database))
        assert JudgedBy.COUNT not in evidence(looked)
        assert evidence(looked)[2:] == [JudgedBy.COUNTERS] * 2
    execute(database, f"CREATE OR REPLACE VIEW inner_view AS {_RENAMED} WHERE id % 3 > 0")
    assert said(judged(database, *DAYS, effort=USUAL_EFFORT)) == said(truth(database))


@pytest.mark.parametrize(
    ("query", "told_by"),
    variants([
        (_RENAMED, JudgedBy.COUNTERS),
        (f"{_RENAMED}, generate_series(1, 2) AS twice", JudgedBy.COUNTERS),
        (_RENAMED.replace("SELECT", "SELECT DISTINCT ON (agent_id)"), JudgedBy.TABLES),
        (f"""SELECT id, agent_id, moved AS "timestamp", {_REST}
               FROM (SELECT id, agent_id, started_at, started_at + interval '1s' AS moved, {_REST} FROM runs) AS l""",
         JudgedBy.TABLES),
        (f"{_RENAMED} ORDER BY id LIMIT 5", JudgedBy.TABLES),
        (_RENAMED.replace("latency_ms", "(lag(latency_ms) OVER (ORDER BY id)) AS latency_ms"), JudgedBy.TABLES),
        (f"{_RENAMED} LEFT JOIN agent_registry AS agent ON agent.id = agent_id".replace("id,", "runs.id,", 1)
         .replace(" status", " runs.status"), JudgedBy.TABLES),
        (_RENAMED.replace("started_at", "started_at + interval '1 s'"), JudgedBy.TABLES),
        (_RENAMED.replace("FROM runs", "FROM stored"), JudgedBy.TABLES),
        (f"{_RENAMED} WHERE started_at < now() - interval '1 min'", "it depends on now()"),
        (f"{_RENAMED} WHERE agent_id <> current_user", "it depends on the time, the user or chance"),
        (f"{_RENAMED} WHERE own(id) > 0", "it calls own(), which may read anything"),
        (_RENAMED.replace("FROM runs", "FROM elsewhere"), "public.elsewhere is a foreign table"),
        (_RENAMED.replace("FROM runs", "FROM secured"), "public.secured has row-level security"),
        (f"{_RENAMED} WHERE id > (SELECT last_value FROM numbers) - 5", "public.numbers is not a table"),
    ]),
)  # fmt: skip
def test_a_view_is_watched_only_by_what_every_change_shows_in(database: Database, query: str, told_by: str) -> None:
    """By a day's partitions if each row comes from one row there, by all tables otherwise, by neither in doubt."""
    execute(
        database,
        *_RUNS,
        "CREATE MATERIALIZED VIEW stored AS TABLE runs",
        "CREATE TABLE secured (LIKE runs)",
        "ALTER TABLE secured ENABLE ROW LEVEL SECURITY",
        "CREATE FOREIGN DATA WRAPPER nothing",
        "CREATE SERVER elsewhere FOREIGN DATA WRAPPER nothing",
        f"CREATE FOREIGN TABLE elsewhere (id bigint, agent_id text, started_at timestamptz, {_TYPES}) SERVER elsewhere",
        "CREATE SEQUENCE numbers",
        "CREATE FUNCTION own(bigint) RETURNS bigint IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN $1; END'",
        f"CREATE VIEW agent_execution_logs AS {query}",
    )
    with database.connect() as connection:
        view, [sentence] = behind_view(connection), describe_view(connection)
        marks = open_logs(database).marks(connection, [WINDOWS[day] for day in DAYS])
    assert view is not None
    if isinstance(told_by, JudgedBy):
        assert [mark.keys() for mark in marks.values()] == [{told_by}] * 4
        assert sentence.startswith("Days of the view are counted or read only after a write to its tables: public.")
    else:
        assert (marks, view.doubt) == ({}, told_by)
        assert told_by in sentence
