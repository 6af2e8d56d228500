"""`alerts`: the same rows as the API, in words for people and with all digits for programs."""

import csv
import io
import json
from decimal import Decimal
from pathlib import Path

from typer.testing import CliRunner

from metrics_pipeline.cli import app
from metrics_pipeline.postgres.database import Database
from metrics_pipeline_tests.api.alerts import store_alerts
from metrics_pipeline_tests.days import execute, store_agents


def test_alerts_are_listed_with_what_was_found_beside_what_is_usual(
    database: Database, database_url: str, tmp_path: Path
) -> None:
    environment = {"METRICS_DATABASE_URL": database_url, "METRICS_PIPELINE_HOME": str(tmp_path), "COLUMNS": "60"}

    def alerts(*arguments: str) -> str:
        result = CliRunner().invoke(app, ["alerts", *arguments], env=environment, catch_exceptions=False)
        assert result.exit_code == 0
        return result.stdout

    store_agents(database, {"[a]": "active"})
    assert alerts("list") == "No alert is open.\n"
    store_alerts(database, "[a]")
    shown = [line.split(maxsplit=5) for line in alerts("list", "--state", "all").splitlines()[2:]]
    assert [line[:5] for line in shown] == [
        ["2025-03-04", "critical", "[a]", "unusual_success_rate", "open"],
        ["2025-03-03", "warning", "fleet", "budget", "open"],
        ["2025-03-01", "warning", "[a]", "unusual_success_rate", "withdrawn"],
        ["2025-02-01", "warning", "pipeline", "day_missing", "resolved"],
    ]
    assert [line[5] for line in shown] == [
        "success_rate 0.5 (usual from 0.9315 up to 1.0)",
        (
            "total_cost_usd 12,345,678,901.500000001 (usual from 0 up to 10.000000000), projected low 12, "
            "projected usd 13, projected high 14"
        ),
        "success_rate 0.5 (usual from 0.9315 up to 1.0)",
        "Nobody ran it.",
    ]
    (budget,) = json.loads(alerts("list", "--to", "2025-03-03", "--format", "json"), parse_float=Decimal)
    assert budget["value"] == Decimal("12345678901.500000001")
    table = csv.DictReader(io.StringIO(alerts("list", "--agent", "[a]", "--format", "csv")))
    assert [(row["rule"], row["value"]) for row in table] == [("unusual_success_rate", "0.5")]
    execute(database, "DELETE FROM agent_registry")
    assert "withdrawn" in alerts("list", "--agent", "[a]", "--state", "withdrawn")
    # Of the two that must follow from the metrics, of which there are none. What tells of a missing day stays.
    assert alerts("replay") == "2 alerts changed.\n"
    assert alerts("replay") == "0 alerts changed.\n"


def test_rules_are_shown_as_they_apply(tmp_path: Path) -> None:
    rules = tmp_path / "rules.yaml"
    rules.write_text(
        "agents: {sql: {silence: off, budget: {usd_per_month: 500}}}\nfleet: {silence: {expected_executions: 7}}"
    )
    environment = {"METRICS_ALERT_RULES": str(rules), "METRICS_PIPELINE_HOME": str(tmp_path)}
    result = CliRunner().invoke(app, ["alerts", "rules", "--format", "json"], env=environment, catch_exceptions=False)
    found = {(row["applies_to"], row["rule"]): row["setting"] for row in json.loads(result.stdout)}
    assert found["agent", "silence"] == "expected_executions 20"
    assert found["fleet", "silence"] == "expected_executions 7"
    assert found["agent", "budget"] == found["agents.sql", "silence"] == "off"
    assert found["agents.sql", "budget"] == "usd_per_month 500"
