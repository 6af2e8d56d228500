"""What the UI shows of a day holds any agent's name, and none shapes it."""

import pytest

from metrics_pipeline.orchestration.reports import day_metadata
from metrics_pipeline.storage.database import Database
from metrics_pipeline_tests.days import Log, aggregate, store_agents, store_logs


@pytest.mark.parametrize(
    ("agent", "cell"),
    [
        ("support-triage/claude-4.1", "support-triage/claude-4.1"),
        ("a|b \\| c", r"a\|b \\\| c"),
        ("two\nlines\r\n| fake | 9 |", r"two\\nlines\\r\\n\| fake \| 9 \|"),
        ("[x](javascript:y) <img> **b** `c` &amp;", r"\[x\](javascript:y) \<img\> \*\*b\*\* \`c\` \&amp;"),
    ],
)
def test_the_table_of_failing_agents_has_one_row_per_agent_whatever_its_name(
    database: Database, agent: str, cell: str
) -> None:
    store_agents(database, {agent: "active", "fine": "active"})
    store_logs(database, [Log(agent, "failed", 10, cost_usd="0.5"), Log(agent), Log("fine")])
    _, _, row = day_metadata(aggregate(database))["agents_with_most_failures"].value.split("\n")
    assert row.startswith(f"| {cell} | 1 | ")
