"""What is read back of stored days is what was stored, to the last digit."""

from datetime import date, timedelta

from metrics_pipeline.metrics.catalog import AGENT_DAY
from metrics_pipeline.metrics.windows import day_window
from metrics_pipeline.postgres.database import Database
from metrics_pipeline.store.ledger import ledger_rows
from metrics_pipeline.store.reads import metrics_of_day
from metrics_pipeline_tests.days import DAY, Log, aggregate, store_agents, store_logs
from metrics_pipeline_tests.test_exactness_properties import AWKWARD


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
