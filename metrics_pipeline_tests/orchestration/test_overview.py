"""agent_overview: each agent's yesterday, 7 and 28 days, and how the last 7 differ from the 7 before."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg

from metrics_pipeline.metrics.windows import day_window, days_between
from metrics_pipeline.orchestration.overview import build_overview_asset
from metrics_pipeline.postgres.database import Database
from metrics_pipeline.settings import Settings
from metrics_pipeline_tests.days import DAY, Log, aggregate, execute, store_agents, store_logs


def store(database: Database) -> None:
    """14 days: a runs twice a day, since a week ago once more, a failure; b ran once, 10 days ago; c never."""
    store_agents(database, dict.fromkeys("abc", "active"))
    for age, day in enumerate(reversed(days_between(DAY - timedelta(days=13), DAY))):
        at = day_window(day, "UTC").start
        logs = [Log("a", cost_usd="1000", timestamp=at)] * 2
        logs += [Log("a", "failed", cost_usd="0.5", timestamp=at)] * (age < 7) + [Log("b", timestamp=at)] * (age == 10)
        store_logs(database, logs)
        aggregate(database, day_window(day, "UTC"))


def overview(database: Database) -> dict[str, Any]:
    asset = build_overview_asset(
        Settings(Path("/nowhere")), now=lambda: datetime(DAY.year, DAY.month, DAY.day + 1, 12, tzinfo=UTC)
    )
    result = dg.materialize([asset], resources={"database": database})
    (materialization,) = result.asset_materializations_for_node("agent_overview")
    return {name: value.value for name, value in materialization.metadata.items()}


def rows(table: dg.TableMetadataValue) -> list[list[str]]:
    return [list(record.data.values()) for record in table.records]


def test_it_shows_each_agents_periods_and_their_change_busiest_first(stored: Database) -> None:
    shown = overview(stored)
    assert (shown["day"], shown["stored"], shown["agents"]) == (str(DAY), "7 of 7, 14 of 28", 3)
    assert rows(shown["runs"]) == [
        ["a", "3", "21", "35", "+50%"],
        ["b", "0", "0", "1", "-100%"],
        ["c", "0", "0", "0", ""],
    ]
    assert rows(shown["failed"]) == [
        ["a", "33.3%", "33.3%", "20.0%", "+33.3"],
        ["b", "", "", "0.0%", ""],
        ["c", "", "", "", ""],
    ]
    assert rows(shown["cost_usd"])[0] == ["a", "2.0k", "14.0k", "28.0k", "+0%"]
    assert rows(shown["cost_usd"])[1] == ["b", "0.00", "0.00", "0.00", ""]


def test_a_cost_is_unknown_where_the_logs_of_no_day_had_one(stored: Database) -> None:
    execute(stored, f"UPDATE metric_day_ledger SET unlogged = '{{cost_usd}}' WHERE metric_date > '{DAY}'::date - 7")
    assert rows(overview(stored)["cost_usd"])[:2] == [
        ["a", "unknown", "unknown", "28.0k", ""],
        ["b", "unknown", "unknown", "0.00", ""],
    ]
    # Nothing says that rows without a day in the ledger had no cost.
    execute(stored, f"DELETE FROM metric_day_ledger WHERE metric_date = '{DAY}'::date - 1")
    assert rows(overview(stored)["cost_usd"])[:2] == [
        ["a", "unknown", "14.0k", "28.0k", ""],
        ["b", "unknown", "0.00", "0.00", ""],
    ]


def test_a_day_that_is_not_stored_leaves_no_change_to_tell(stored: Database) -> None:
    execute(stored, f"DELETE FROM metric_day_ledger WHERE metric_date = '{DAY - timedelta(days=12)}'")
    shown = overview(stored)
    assert shown["stored"] == "7 of 7, 13 of 28"
    assert [row[-1] for row in rows(shown["runs"])] == ["", "", ""]


def test_without_a_stored_day_it_is_empty(database: Database) -> None:
    shown = overview(database)
    assert (shown["day"], shown["stored"], shown["agents"]) == (str(DAY), "0 of 7, 0 of 28", 0)
    assert rows(shown["runs"]) == []
