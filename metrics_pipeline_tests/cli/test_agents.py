"""`agents`: acknowledging, the list, and taking back."""

import json
from pathlib import Path

from typer.testing import CliRunner

from metrics_pipeline.cli import app
from metrics_pipeline.postgres.database import Database
from metrics_pipeline_tests.days import query, store_agents


def test_acknowledged_agents_are_listed_with_their_reason_until_they_are_taken_back(
    database: Database, database_url: str, tmp_path: Path
) -> None:
    environment = {"METRICS_DATABASE_URL": database_url, "METRICS_PIPELINE_HOME": str(tmp_path), "COLUMNS": "60"}

    def agents(*arguments: str) -> str:
        result = CliRunner().invoke(app, ["agents", *arguments], env=environment, catch_exceptions=True)
        assert (result.exit_code == 0) is (result.exception is None)
        return result.stdout or f"Error: {result.exception}"

    store_agents(database, {"b": "inactive", "[a]": "active"})
    assert agents("list") == "No agent is acknowledged.\n"
    assert agents("acknowledge", "b", "--reason", " ").startswith("Error: --reason is empty.")
    assert agents("acknowledge", "b", "typo", "b", "--reason", "retired") == (
        "Acknowledged: b, typo. All are shown by: metrics-pipeline agents list\n"
        "Not in agent_registry, so look for typing errors: typo.\n"
    )
    since = query(database, "SELECT acknowledged_at FROM metric_acknowledged_agents WHERE agent_id = 'b'")
    assert "Not in" not in agents("acknowledge", "[a]", "b", "--reason", "silent since May")
    assert query(database, "SELECT acknowledged_at FROM metric_acknowledged_agents WHERE agent_id = 'b'") == since
    assert [
        (row["agent"], row["registry"], row["reason"]) for row in json.loads(agents("list", "--format", "json"))
    ] == [
        ("[a]", "active", "silent since May"),
        ("b", "inactive", "silent since May"),
        ("typo", "not registered", "retired"),
    ]
    assert "Nothing is changed, because these are not acknowledged: c. " in agents("unacknowledge", "b", "c")
    assert agents("unacknowledge", "typo", "b") == "No longer acknowledged: b, typo.\n"
    assert [line.split()[0] for line in agents("list").splitlines()[2:]] == ["[a]"]
