"""What is read back of stored days is what was stored, to the last digit."""

from datetime import date, timedelta
from decimal import Decimal

import pytest

from metrics_pipeline.metrics.catalog import AGENT_DAY, METRICS
from metrics_pipeline.metrics.windows import day_window
from metrics_pipeline.postgres.database import Database
from metrics_pipeline.store.ledger import ledger_rows
from metrics_pipeline.store.publishing import Reason
from metrics_pipeline.store.reads import Restatement, metrics_of_day, restatements
from metrics_pipeline_tests.days import DAY, WINDOW, Log, aggregate, compute, execute, store_agents, store_logs
from metrics_pipeline_tests.test_exactness_properties import AWKWARD

ANY = (date.min, date.max)


def test_a_stored_day_reads_back_as_it_was_computed(database: Database) -> None:
    store_agents(database, dict.fromkeys(AWKWARD, "active"))
    store_logs(
        database,
        [
            Log(agent, "failed", number, 3, f"{number}.123456789", error)
            for number, (agent, error) in enumerate(zip(AWKWARD, reversed(AWKWARD), strict=True))
        ]
        + [Log("a", "failed", error_type=error) for error in [None, *AWKWARD]],
    )
    computed = aggregate(database).computed.metrics.metrics
    with database.engine.connect() as connection:
        stored = metrics_of_day(connection, DAY)
        nothing = metrics_of_day(connection, DAY + timedelta(days=1))
    assert stored.schema == AGENT_DAY.schema
    assert stored.sort("agent_id").equals(computed.sort("agent_id"))
    assert (nothing.height, nothing.schema) == (0, AGENT_DAY.schema)


def test_the_ledger_is_read_by_day_within_its_bounds(database: Database) -> None:
    store_agents(database, {"a": "active"})
    store_logs(database, [Log("a"), Log("other"), Log("other")])
    for offset in range(3):
        aggregate(database, day_window(DAY + timedelta(days=offset), "UTC"), run_id=f"run {offset}")
    with database.engine.connect() as connection:
        rows = ledger_rows(connection, DAY, DAY + timedelta(days=1))
        assert ledger_rows(connection, DAY + timedelta(days=3), date.max) == {}
    assert list(rows) == [DAY, DAY + timedelta(days=1)]
    row = rows[DAY]
    assert (row.source_logs, row.aggregated_logs, row.skipped_logs, row.agents) == (3, 1, 2, 1)
    assert (row.definition_version, row.run_id, row.metric_date) == ("1", "run 0", DAY)


@pytest.fixture
def restated(database: Database) -> Database:
    """Agent a restated twice on DAY and once the day after, agent b once."""
    next_day = day_window(DAY + timedelta(days=1), "UTC")
    store_agents(database, {"a": "active", "b": "active"})
    store_logs(database, [Log("a", cost_usd="0.1"), Log("b", "failed", error_type="o'clock")])
    for window in (WINDOW, next_day):
        aggregate(database, window, run_id="first")
    store_logs(database, [Log("a", "failed", cost_usd="0.2"), Log("b", timestamp=next_day.start)])
    aggregate(database, run_id="second", reason=Reason.LATE_LOGS)
    execute(database, "UPDATE agent_execution_logs SET cost_usd = 90000000000.000000001 WHERE cost_usd = 0.2")
    aggregate(database, run_id="third", reason=Reason.BACKFILL)
    aggregate(database, next_day, run_id="fourth")
    return database


def of(database: Database, agent: str | None, first: date, last: date, limit: int = 100) -> list[Restatement]:
    with database.engine.connect() as connection:
        return list(restatements(connection, first, last, agent_id=agent, limit=limit))


def test_restatements_come_newest_first_and_can_be_narrowed(restated: Database) -> None:
    tomorrow = DAY + timedelta(days=1)

    def runs(*arguments: object) -> list[tuple[str, str]]:
        return [(found.agent_id, found.run_id) for found in of(restated, *arguments)]

    assert runs(None, *ANY) == [("b", "fourth"), ("a", "third"), ("a", "second")]
    assert runs("a", *ANY) == [("a", "third"), ("a", "second")]
    assert runs("b", *ANY) == [("b", "fourth")]
    assert runs("", *ANY) == runs("A", *ANY) == []
    assert runs(None, DAY, DAY) == [("a", "third"), ("a", "second")]
    assert runs(None, tomorrow, tomorrow) == [("b", "fourth")]
    assert runs(None, *ANY, 1) == [("b", "fourth")]
    assert [found.reason for found in of(restated, None, *ANY)] == ["manual", "backfill", "late logs"]


def test_a_restatement_holds_both_rows_whole_and_exact(restated: Database) -> None:
    latest = of(restated, "a", DAY, DAY)[0]
    assert set(latest.old_row) == set(latest.new_row) == {column.name for column in METRICS}
    costs = ("total_cost_usd", "avg_cost_per_execution")
    assert [str(latest.old_row[name]) for name in costs] == ["0.300000000", "0.150000000"]
    assert [latest.new_row[name] for name in costs] == [
        Decimal("90000000000.100000001"),
        Decimal("45000000000.050000001"),
    ]
    assert {type(latest.new_row[name]) for name in costs} == {Decimal}
    assert latest.new_row["error_distribution"] == {"unknown": 1}
    assert latest.new_row["success_rate"] == Decimal("0.5")
    current = compute(restated).metrics.metrics.filter(agent_id="a").row(0, named=True)
    assert all(latest.new_row[name] == value for name, value in current.items() if isinstance(value, int | Decimal))
