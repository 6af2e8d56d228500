"""What must be true after a fault: the stored days, what is left behind, and what the operator was told."""

import re
from collections.abc import Collection, Iterable
from datetime import date

import dagster as dg

from metrics_pipeline.metrics.windows import day_window
from metrics_pipeline.orchestration.processes import is_orphaned
from metrics_pipeline.postgres.database import Database
from metrics_pipeline_tests.days import assert_exact, query
from metrics_pipeline_tests.processes import wait_until

from .stage import Ended

# Each of these statements searches for contradictions, so it must return no row.
_HALF_PUBLISHED = {
    "metrics of days that the ledger does not have": """
        SELECT metric_date, agent_id FROM agent_performance_metrics LEFT JOIN metric_day_ledger USING (metric_date)
         WHERE metric_day_ledger.metric_date IS NULL""",
    "days whose rows do not add up to the ledger's": """
        SELECT metric_date, agents, aggregated_logs, count(agent_id), sum(total_executions)
          FROM metric_day_ledger LEFT JOIN agent_performance_metrics USING (metric_date)
         GROUP BY metric_date
        HAVING (agents, aggregated_logs) <> (count(agent_id), coalesce(sum(total_executions), 0))""",
    "runs that changed a day's rows and not its ledger": """
        SELECT metric_date, run_id FROM metric_restatements
         WHERE replaced_at > (SELECT aggregated_at FROM metric_day_ledger AS ledger
                               WHERE ledger.metric_date = metric_restatements.metric_date)""",
    "rows that are not as their last restatement says": """
        SELECT agent_id, metric_date FROM agent_performance_metrics AS stored
         WHERE NOT to_jsonb(stored) @> (
            SELECT new_row FROM metric_restatements AS newest
             WHERE (newest.agent_id, newest.metric_date) = (stored.agent_id, stored.metric_date)
               AND breakdown IS NULL
             ORDER BY replaced_at DESC LIMIT 1)""",
    "restatements that change nothing": """
        SELECT * FROM metric_restatements
         WHERE old_row = new_row AND old_distribution IS NOT DISTINCT FROM new_distribution""",
    "values that do not add up to their agents' rows": """
        SELECT agent_id, metric_date, dimension
          FROM (SELECT metric_date, split_part(definition, '=', 1) AS dimension
                  FROM metric_day_ledger, string_to_table(dimensions, ',') AS definition) AS declared
          JOIN agent_performance_metrics AS agent USING (metric_date)
          FULL JOIN (SELECT agent_id, metric_date, dimension, sum(total_executions) AS executions,
                            sum(total_cost_usd) AS cost_usd
                       FROM agent_dimension_metrics GROUP BY 1, 2, 3) AS by_value
              USING (agent_id, metric_date, dimension)
         WHERE (total_executions, total_cost_usd) IS DISTINCT FROM (coalesce(executions, 0), coalesce(cost_usd, 0))""",
    "values without a distribution, and distributions without a value": """
        SELECT * FROM agent_dimension_metrics AS metrics
          FULL JOIN agent_dimension_distributions AS distributions
              USING (agent_id, metric_date, dimension, value_kind, value)
         WHERE metrics IS NULL OR distributions IS NULL""",
    "metrics and distributions of different logs": """
        SELECT metric_date, agent_id FROM agent_performance_metrics
          FULL JOIN agent_day_distributions USING (metric_date, agent_id)
         WHERE (coalesce(total_executions, 0) > 0) <> (digest IS NOT NULL)
            OR users_exact AND cardinality(user_hashes) <> unique_users""",
}

_LEFT_BEHIND = {
    "sessions": """
        SELECT pid, application_name, state, query FROM pg_stat_activity
         WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'""",
    "advisory locks": """
        SELECT pid, classid, objid FROM pg_locks JOIN pg_database ON pg_database.oid = database
         WHERE locktype = 'advisory' AND datname = current_database()""",
    "temporary tables": "SELECT relname FROM pg_class WHERE relpersistence = 't'",
    "prepared transactions": "SELECT gid FROM pg_prepared_xacts WHERE database = current_database()",
}
#: A server notices that a client has gone only when it reads from it or writes to it.
_NOTICING_SECONDS = 60

#: A command whose server was away says one of these.
SERVER_IS_AWAY = ("Check that the server runs and is reachable from here", "It may be restarting")

_ERROR = re.compile(r"(?:.*[.]\n)?Error: (?P<what>.+[.])\n", re.DOTALL)
UNFINISHED = [
    status for status in dg.DagsterRunStatus
    if status not in (dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED)
]  # fmt: skip


def assert_nothing_half_published(database: Database) -> None:
    assert {what: rows for what, statement in _HALF_PUBLISHED.items() if (rows := query(database, statement))} == {}


def assert_exact_or_not_done(database: Database, days: Iterable[date], before: Collection[date] = ()) -> None:
    """Each day equals the oracle or has no row at all; those in `before` may also be as before."""
    assert_nothing_half_published(database)
    done = {day for (day,) in query(database, "SELECT metric_date FROM metric_day_ledger")}
    for day in done.intersection(days) - set(before):
        assert_exact(database, day_window(day, "UTC"))


def assert_nothing_left_behind(database: Database) -> None:
    left: dict[str, list[tuple[object, ...]]] = {}

    def is_clean() -> bool:
        left.clear()
        left.update({what: rows for what, statement in _LEFT_BEHIND.items() if (rows := query(database, statement))})
        return not left

    try:
        wait_until(is_clean, seconds=_NOTICING_SECONDS)
    except AssertionError:
        assert left == {}
        raise


def assert_no_run_looks_alive(instance: dg.DagsterInstance) -> None:
    """No run is unfinished, except those whose process has ended: the next command, tick or daemon ends these."""
    unfinished = instance.get_runs(dg.RunsFilter(statuses=UNFINISHED))
    assert [run.run_id for run in unfinished if not is_orphaned(run)] == []


def assert_no_unfinished_run(instance: dg.DagsterInstance, job: str) -> None:
    assert instance.get_runs(dg.RunsFilter(job_name=job, statuses=UNFINISHED)) == []


def assert_operator_is_told(ended: Ended, *expected: str) -> None:
    """A failed command says why and what to do, with one of the `expected` words."""
    assert "Traceback" not in ended.stdout + ended.stderr
    if ended.exit_code == 0:
        assert "Error" not in ended.stderr
        return
    assert ended.exit_code == 1
    match = _ERROR.fullmatch(ended.stderr)
    assert match, ended.stderr
    assert any(words in match["what"] for words in expected), ended.stderr
