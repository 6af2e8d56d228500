"""The Grafana dashboard: each of its statements, run as the readers' role with Grafana's macros replaced."""

import json
import re
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg

from metrics_pipeline.metrics.windows import day_window
from metrics_pipeline.postgres.database import Database
from metrics_pipeline_tests.days import DAY, Log, aggregate, judged, store_agents, store_logs
from metrics_pipeline_tests.roles import apply, new_role, printed

FOLDER = Path(__file__).parents[2] / "docs" / "examples" / "grafana"
FIRST = DAY - timedelta(days=2)
#: As Grafana writes the bounds of its time range.
BOUNDS = f"'{FIRST}T00:00:00Z'", f"'{DAY}T23:59:59.999Z'"


def replaced(statement: str) -> str:
    first, last = BOUNDS
    statement = re.sub(r"\$__timeFilter\(([^()]+)\)", rf"\1 BETWEEN {first} AND {last}", statement)
    statement = statement.replace("$__timeFrom()", first).replace("$__timeTo()", last).replace("$agent", "'a','b'")
    assert "$" not in statement
    return statement


def test_every_panel_answers_the_readers_role(database: Database, database_url: str) -> None:
    store_agents(database, {"a": "active", "b": "active"})
    for day in (FIRST, DAY):
        start = day_window(day, "UTC").start
        store_logs(
            database,
            [
                Log("a", "success", 100, 5, "0.25", timestamp=start),
                Log("a", "failed", 900, 5, "0.5", "timeout", timestamp=start),
            ],
        )
        aggregate(database, day_window(day, "UTC"))
    store_logs(database, [Log("a", "success", 100, timestamp=day_window(DAY, "UTC").start)])
    aggregate(database)
    store_logs(database, [Log("a", "success", 100, timestamp=day_window(DAY, "UTC").start)])
    judged(database, FIRST, DAY)
    dashboard = json.loads((FOLDER / "dashboard.json").read_text())
    answers: dict[str, list[tuple[Any, ...]]] = {}
    with psycopg.connect(database_url, autocommit=True) as owner, new_role(owner, database_url, "reader") as role:
        apply(printed(database_url, f"--reader={role.name}"), database_url)
        with psycopg.connect(role.url, autocommit=True) as reader:
            for panel in dashboard["panels"]:
                (target,) = panel["targets"]
                answers[panel["title"]] = reader.execute(replaced(target["rawSql"])).fetchall()
            (agents,) = dashboard["templating"]["list"]
            assert reader.execute(agents["query"]).fetchall() == [("a",), ("b",)]
    missing = FIRST + timedelta(days=1)
    assert answers["Days that are not as they should be"] == [(DAY, "differs from its logs"), (missing, "missing")]
    assert answers["Executions"] == [(5,)]
    assert answers["Cost"] == [(Decimal("1.5"),)]
    assert [rate and round(rate, 4) for _, rate in answers["Success rate by day"]] == [
        Decimal("0.5"), None, Decimal("0.6667")
    ]  # fmt: skip
    assert [row[1:] for row in answers["Failed executions by error type"]] == [("timeout", 1), ("timeout", 1)]
    assert answers["p95 of the whole period by agent"] == [("a", 900)]
    assert answers["Replaced values"][0][-2:] == ("2", "3")
    assert all(answers.values())
