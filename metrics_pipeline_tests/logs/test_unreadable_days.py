"""One log that cannot be read: its day is named, with the log, and all other days are compared as ever."""

from datetime import timedelta

import pytest

from metrics_pipeline.errors import PermanentError
from metrics_pipeline.metrics.reconciliation import DayState
from metrics_pipeline.metrics.windows import day_window
from metrics_pipeline.pipeline.opening import open_logs
from metrics_pipeline.pipeline.reconciling import findings
from metrics_pipeline.postgres.database import Database
from metrics_pipeline_tests.days import (
    DAY,
    NOON,
    Log,
    aggregate,
    assert_exact,
    execute,
    judged,
    query,
    store_agents,
    store_logs,
)

DAYS = [DAY + timedelta(days=number) for number in range(3)]


@pytest.fixture
def days(database: Database) -> Database:
    """Three days, of which the first is stored."""
    store_agents(database, {"a": "active"})
    store_logs(
        database, [Log(timestamp=NOON + timedelta(days=day, minutes=minute)) for day in range(3) for minute in range(9)]
    )
    aggregate(database)
    return database


def test_a_view_that_cannot_cast_one_log_makes_its_day_unreadable_and_names_the_log(days: Database) -> None:
    execute(
        days,
        "ALTER TABLE agent_execution_logs RENAME TO stored",
        "ALTER TABLE stored ALTER metadata TYPE text",
        """CREATE VIEW agent_execution_logs AS SELECT id, agent_id, "timestamp", status, latency_ms, token_count,
           cost_usd, error_type, metadata::jsonb FROM stored""",
        """INSERT INTO stored (agent_id, "timestamp", status, metadata)
           VALUES ('a', '2025-03-05 10:00:03.25Z', 'success', '{''user_id'': ''u''}')""",
    )
    [(log_id,)] = query(days, "SELECT id::text FROM stored WHERE metadata LIKE '{%'")
    verdicts = judged(days, *DAYS)
    assert [verdict.state for verdict in verdicts] == [DayState.AGGREGATED, DayState.UNREADABLE, DayState.MISSING]
    assert verdicts[1].reason == (
        f"log {log_id} of agent a at 10:00:03Z cannot be read: invalid input syntax for type json (SQLSTATE 22P02)"
    )
    assert f"2025-03-05 is unreadable (log {log_id}" in findings(verdicts)
    third = day_window(DAYS[2], "UTC")
    aggregate(days, third)
    execute(days, "DELETE FROM stored WHERE metadata LIKE '{%'")
    assert_exact(days, third)


def test_costs_that_overflow_together_make_their_day_unreadable_only(days: Database) -> None:
    execute(
        days,
        """INSERT INTO agent_execution_logs (agent_id, "timestamp", status, cost_usd)
           SELECT 'a', '2025-03-05 10:00Z', 'success', repeat('9', 131072)::numeric FROM generate_series(1, 2)""",
    )
    logs = open_logs(days)
    verdicts = judged(days, *DAYS)
    with days.snapshot() as snapshot:
        windows = [day_window(day, "UTC") for day in DAYS]
        quality = logs.quality(snapshot, windows, future_from=NOON, examples=1)
    assert [verdict.state for verdict in verdicts] == [DayState.AGGREGATED, DayState.UNREADABLE, DayState.MISSING]
    assert "value overflows numeric format (SQLSTATE 22003)" in verdicts[1].reason
    found = quality.suspicions["cost_of_12_digits_or_more"]
    assert (found.logs, found.examples[0].value) == (2, "9" * 40)
    with pytest.raises(PermanentError, match="22003"):
        aggregate(days, day_window(DAYS[1], "UTC"))
