from datetime import date

import pytest

from metrics_pipeline.errors import PermanentError
from metrics_pipeline.metrics.windows import day_window
from metrics_pipeline.postgres.database import Database
from metrics_pipeline.store.publishing import Published, Reason
from metrics_pipeline_tests.days import (
    DAY,
    Log,
    aggregate,
    assert_exact,
    execute,
    query,
    store_agents,
    store_logs,
    written_rows,
)
from metrics_pipeline_tests.examples import variants

TIMES = "SELECT agent_id, created_at, updated_at, xmin::text, ctid::text FROM agent_performance_metrics ORDER BY 1"


def test_a_new_day_is_inserted_with_its_time_of_writing_and_no_restatement(aggregated: Database) -> None:
    rows = query(
        aggregated, "SELECT created_at = aggregated_at, updated_at FROM agent_performance_metrics, metric_day_ledger"
    )
    assert rows == [(True, None)] * 3
    assert query(aggregated, "SELECT * FROM metric_restatements") == []


def test_publishing_a_day_again_touches_no_row_of_metrics(aggregated: Database) -> None:
    before = query(aggregated, TIMES)
    assert aggregate(aggregated).published == Published(inserted=0, changed=0, unchanged=3)
    assert query(aggregated, TIMES) == before
    assert query(aggregated, "SELECT * FROM metric_restatements") == []


def test_a_correction_changes_its_row_only_and_leaves_one_restatement(aggregated: Database) -> None:
    before = query(aggregated, TIMES)
    execute(aggregated, "UPDATE agent_execution_logs SET latency_ms = 30, status = 'failed' WHERE agent_id = 'b'")
    day = aggregate(aggregated, run_id="second", reason=Reason.LATE_LOGS)
    assert day.published == Published(inserted=0, changed=1, unchanged=2)
    assert_exact(aggregated)
    after = query(aggregated, TIMES)
    assert [after[0], after[2]] == [before[0], before[2]]
    (_, created_at, updated_at, *place), (_, old_created_at, _, *old_place) = after[1], before[1]
    assert created_at == old_created_at
    assert updated_at > created_at
    assert place != old_place
    old_row = {
        "total_executions": 1,
        "successful_executions": 1,
        "failed_executions": 0,
        "success_rate": 1,
        "avg_latency_ms": 10,
        "p50_latency_ms": 10,
        "p95_latency_ms": 10,
        "p99_latency_ms": 10,
        "total_tokens": 0,
        "total_cost_usd": 0.5,
        "avg_cost_per_execution": 0.5,
        "error_distribution": {},
        "human_interventions": 0,
        "unique_users": 0,
    }
    changed = {
        "successful_executions": 0,
        "failed_executions": 1,
        "success_rate": 0,
        "error_distribution": {"unknown": 1},
    } | dict.fromkeys(("avg_latency_ms", "p50_latency_ms", "p95_latency_ms", "p99_latency_ms"), 30)
    assert query(
        aggregated,
        """SELECT agent_id, metric_date, r.run_id, reason, old_row, new_row, replaced_at = aggregated_at
             FROM metric_restatements AS r JOIN metric_day_ledger USING (metric_date)""",
    ) == [("b", DAY, "second", "late logs", old_row, old_row | changed, True)]


# Each metric alone. Some cannot change alone through the logs, so the stored row is made wrong instead.
@pytest.mark.parametrize(
    "wrong",
    variants(
        [
            "total_executions = 7",
            "successful_executions = 7",
            "failed_executions = 7",
            "success_rate = 0.999999",
            "avg_latency_ms = 7",
            "p50_latency_ms = 7",
            "p95_latency_ms = 7",
            "p99_latency_ms = 7",
            "total_tokens = 7",
            "total_cost_usd = 0.500000001",
            "avg_cost_per_execution = 0.499999999",
            """error_distribution = '{"unknown": 1}'""",
            "human_interventions = 7",
            "unique_users = 7",
        ]
    ),
)
def test_a_stored_row_that_is_wrong_in_any_one_column_is_restated(aggregated: Database, wrong: str) -> None:
    execute(aggregated, f"UPDATE agent_performance_metrics SET {wrong} WHERE agent_id = 'b'")
    assert aggregate(aggregated).published == Published(inserted=0, changed=1, unchanged=2)
    assert_exact(aggregated)
    name = wrong.partition(" ")[0]
    assert query(
        aggregated,
        f"SELECT agent_id, old_row - '{name}' = new_row - '{name}', old_row = new_row FROM metric_restatements",
    ) == [("b", True, False)]


def test_other_days_of_the_same_agents_are_untouched(aggregated: Database) -> None:
    tomorrow = day_window(date(2025, 3, 5), "UTC")
    before = query(aggregated, TIMES)
    store_logs(aggregated, [Log("b", timestamp=tomorrow.start, latency_ms=7)])
    assert aggregate(aggregated, tomorrow).published == Published(inserted=3, changed=0, unchanged=0)
    assert query(aggregated, TIMES.replace("ORDER", f"WHERE metric_date = '{DAY}' ORDER")) == before
    assert_exact(aggregated)
    assert_exact(aggregated, tomorrow)


def test_a_new_agent_is_inserted_beside_untouched_rows(aggregated: Database) -> None:
    store_agents(aggregated, {"d": "active"})
    assert aggregate(aggregated).published == Published(inserted=1, changed=0, unchanged=3)
    assert query(aggregated, "SELECT * FROM metric_restatements") == []


def test_each_correction_of_a_day_leaves_its_own_restatement(aggregated: Database) -> None:
    for number in range(3):
        store_logs(aggregated, [Log("a")])
        aggregate(aggregated, run_id=f"run {number}", reason=Reason.BACKFILL)
    assert query(
        aggregated,
        """SELECT run_id, reason, (old_row ->> 'total_executions')::int, (new_row ->> 'total_executions')::int
             FROM metric_restatements ORDER BY replaced_at""",
    ) == [(f"run {number}", "backfill", number + 1, number + 2) for number in range(3)]


def test_a_day_stored_under_another_definition_is_restated_for_that_reason(aggregated: Database) -> None:
    execute(aggregated, "UPDATE metric_day_ledger SET definition_version = '0'")
    execute(aggregated, "UPDATE agent_performance_metrics SET unique_users = 1 WHERE agent_id = 'a'")
    aggregate(aggregated, reason=Reason.BACKFILL)
    assert query(aggregated, "SELECT reason FROM metric_restatements") == [("definition change",)]
    assert query(aggregated, "SELECT definition_version FROM metric_day_ledger") == [("1",)]


_FAIL = "CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'the disk is full'; END $$"

FAULTS = {
    "one row of metrics": "ALTER TABLE agent_performance_metrics ADD CHECK (agent_id <> 'b' OR total_executions < 2)",
    "the last restatement": "ALTER TABLE metric_restatements ADD CHECK (agent_id <> 'c')",
    "the end of the restatements": """CREATE TRIGGER fail AFTER INSERT ON metric_restatements
        FOR EACH STATEMENT EXECUTE FUNCTION fail()""",
    "the ledger": "CREATE TRIGGER fail BEFORE UPDATE ON metric_day_ledger FOR EACH ROW EXECUTE FUNCTION fail()",
    "the commit": """CREATE CONSTRAINT TRIGGER fail AFTER UPDATE ON metric_day_ledger DEFERRABLE INITIALLY DEFERRED
        FOR EACH ROW EXECUTE FUNCTION fail()""",
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_publishing_leaves_nothing_when_it_fails_at(aggregated: Database, fault: str) -> None:
    execute(aggregated, _FAIL, fault)
    before = written_rows(aggregated)
    store_logs(aggregated, [Log(agent) for agent in "abc"])
    with pytest.raises(PermanentError):
        aggregate(aggregated, run_id="failing")
    # A row that a rolled-back statement has locked keeps its place and its xmin.
    assert written_rows(aggregated) == before
    execute(
        aggregated,
        "DROP FUNCTION fail CASCADE",
        "ALTER TABLE agent_performance_metrics DROP CONSTRAINT IF EXISTS agent_performance_metrics_check",
        "ALTER TABLE metric_restatements DROP CONSTRAINT IF EXISTS metric_restatements_agent_id_check",
    )
    assert aggregate(aggregated).published == Published(inserted=0, changed=3, unchanged=0)
    assert_exact(aggregated)


@pytest.mark.parametrize(
    "text",
    variants(
        [
            "",
            " ",
            "o'Brien",
            '"',
            "\\",
            "\\u0000",
            "\x01",
            "\n",
            "\x7f\u2028",
            "日本語 😀",
            "e\u0301",
            "{}",
            "NULL",
            "a,b",
            ":run_id",
            "%s",
            "a" * 2000,
        ]
    ),
)
def test_any_text_survives_as_agent_error_type_and_run(database: Database, text: str) -> None:
    error_type = text[:256]  # a longer one is kept by its beginning and a digest
    store_agents(database, {text: "active"})
    store_logs(database, [Log(text, status="failed", error_type=error_type)])
    aggregate(database, run_id=text)
    store_logs(database, [Log(text, status="failed", error_type=error_type)])
    aggregate(database, run_id=text)
    assert_exact(database)
    assert query(
        database,
        """SELECT agent_id, run_id, old_row -> 'error_distribution', new_row -> 'error_distribution'
             FROM metric_restatements""",
    ) == [(text, text, {error_type: 1}, {error_type: 2})]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("RETURN NULL;", "Of 2 rows, 2 are missing and 0 have other values"),
        ("NEW.total_cost_usd := round(NEW.total_cost_usd, 1); RETURN NEW;", "0 are missing and 1 have other values"),
    ],
)
def test_a_trigger_that_drops_or_alters_rows_fails_the_day_and_nothing_is_written(
    database: Database, body: str, said: str
) -> None:
    store_agents(database, {"a": "active", "b": "active"})
    store_logs(database, [Log(cost_usd="0.25"), Log("b")])
    execute(
        database,
        f"CREATE FUNCTION meddle() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN {body} END'",
        "CREATE TRIGGER meddle BEFORE INSERT OR UPDATE ON agent_performance_metrics "
        "FOR EACH ROW EXECUTE FUNCTION meddle()",
    )
    with pytest.raises(PermanentError, match=f"2025-03-04: agent_performance_metrics does not store .*{said}"):
        aggregate(database)
    assert query(database, "SELECT 1 FROM agent_performance_metrics UNION ALL SELECT 1 FROM metric_day_ledger") == []
    execute(database, "DROP TRIGGER meddle ON agent_performance_metrics")
    aggregate(database)
    assert_exact(database)
