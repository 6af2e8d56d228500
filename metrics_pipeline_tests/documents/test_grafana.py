"""The Grafana dashboard: each of its statements, run as the readers' role with Grafana's macros replaced."""

import json
import re
from datetime import date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import psycopg

from metrics_pipeline.metrics.dimensions import parse_dimensions
from metrics_pipeline.metrics.upstream import UNKNOWN_WITHOUT
from metrics_pipeline.metrics.windows import day_window
from metrics_pipeline.pipeline.aggregation import AggregationOptions, compute_day, store_day
from metrics_pipeline.pipeline.opening import open_logs
from metrics_pipeline.pipeline.watching import look_at_days, record
from metrics_pipeline.postgres.database import Database
from metrics_pipeline.store.publishing import Reason
from metrics_pipeline_tests.api.alerts import store_alerts
from metrics_pipeline_tests.days import DAY, READ_ALL, Log, aggregate, store_agents, store_logs
from metrics_pipeline_tests.roles import apply, new_role, printed

FOLDER = Path(__file__).parents[2] / "docs" / "examples" / "grafana"
FIRST = DAY - timedelta(days=2)
#: A zone whose days begin on the day before in UTC.
ZONE = "Europe/Berlin"
WINDOWS = {day: day_window(day, ZONE) for day in (FIRST, DAY)}
#: As Grafana writes the bounds of its time range.
BOUNDS = f"'{FIRST}T00:00:00+01:00'", f"'{DAY}T23:59:59.999+01:00'"


def replaced(statement: str) -> str:
    first, last = BOUNDS
    statement = re.sub(r"\$__timeFilter\(([^()]+)\)", rf"\1 BETWEEN {first} AND {last}", statement)
    statement = statement.replace("$__timeFrom()", first).replace("$__timeTo()", last).replace("$agent", "'a','b'")
    statement = statement.replace("$zone", ZONE)
    assert "$" not in statement
    return statement


def seen(moment: datetime, zone: str) -> date:
    return moment.astimezone(ZoneInfo(zone)).date()


def answered(reader: psycopg.Connection, dashboard: dict[str, Any]) -> dict[str, list[tuple[Any, ...]]]:
    """The rows of each panel, by its title."""
    return {
        panel["title"]: reader.execute(replaced(panel["targets"][0]["rawSql"])).fetchall()
        for panel in dashboard["panels"]
    }


def test_every_panel_answers_the_readers_role_and_shows_no_zero_for_what_was_not_logged(
    database: Database, database_url: str
) -> None:
    store_agents(database, {"a": "active", "b": "active"})
    logs = open_logs(database, parse_dimensions("model"))
    for window in WINDOWS.values():
        store_logs(
            database,
            [
                Log("a", "success", 100, 5, "0.25", timestamp=window.start),
                Log("a", "failed", 900, 5, "0.5", "timeout", timestamp=window.start),
            ],
        )
        computed = compute_day(database, logs, window, AggregationOptions())
        store_day(database, computed, run_id="a run", reason=Reason.MANUAL)
    late = Log("a", "success", 100, timestamp=WINDOWS[DAY].start)
    store_logs(database, [late])
    aggregate(database, WINDOWS[DAY])
    store_logs(database, [late])
    record(database, look_at_days(database, logs, [FIRST, DAY], ZONE, READ_ALL))
    store_alerts(database, "a")
    dashboard = json.loads((FOLDER / "dashboard.json").read_text())
    with psycopg.connect(database_url, autocommit=True) as owner, new_role(owner, database_url, "reader") as role:
        apply(printed(database_url, f"--reader={role.name}"), database_url)
        with psycopg.connect(role.url, autocommit=True) as reader:
            answers = answered(reader, dashboard)
            zone, agents = dashboard["templating"]["list"]
            assert reader.execute(zone["query"]).fetchall() == [(ZONE,)]
            assert reader.execute(agents["query"]).fetchall() == [("a",), ("b",)]
            columns = [*UNKNOWN_WITHOUT]
            owner.execute("UPDATE metric_day_ledger SET unlogged = %s WHERE metric_date = %s", (columns, FIRST))
            without = answered(reader, dashboard)
    missing = FIRST + timedelta(days=1)
    assert answers["Days that are not as they should be"] == [
        (str(DAY), "differs from its logs"), (str(missing), "missing")
    ]  # fmt: skip
    # The critical alert first.
    assert [row[:4] for row in answers["Open alerts"]] == [
        (str(DAY), "critical", "a", "unusual_success_rate"), ("2025-03-03", "warning", "fleet", "budget")
    ]  # fmt: skip
    assert answers["Executions"] == [(5,)]
    assert answers["Cost"] == [(Decimal("1.5"),)]
    assert [rate and round(rate, 4) for _, rate in answers["Success rate by day"]] == [
        Decimal("0.5"), None, Decimal("0.6667")
    ]  # fmt: skip
    for title in (
        "Success rate by day",
        "Cost by agent",
        "Latency of an agent's day",
        "Failed executions by error type",
        "Executions by outcome",
        "Tokens by agent",
        "Users of an agent's day",
    ):
        found = {row[0] for row in answers[title]}
        # Viewers far to the west and to the east see the date that the day has in its own zone.
        for viewer in (ZONE, "UTC", "America/Los_Angeles", "Asia/Tokyo"):
            days = {seen(moment, viewer) for moment in found}
            assert days == ({FIRST, missing, DAY} if title == "Success rate by day" else {FIRST, DAY}), (title, viewer)
    assert [row[1:] for row in answers["Failed executions by error type"]] == [("timeout", 1), ("timeout", 1)]
    # Of the day that was aggregated twice.
    assert [row[1:] for row in answers["Executions by outcome"]][3:] == [
        ("any other status", 0), ("failed", 1), ("successful", 2)
    ]  # fmt: skip
    assert [row[1:] for row in answers["Tokens by agent"]] == [("a", 10), ("b", 0), ("a", 10), ("b", 0)]
    assert [row[1:] for row in answers["Users of an agent's day"]] == [("a", 0), ("a", 0)]
    assert answers["p95 of the whole period by agent"] == [("a", 900)]
    # The second aggregation of DAY declared no dimension.
    assert answers["By value of each dimension"] == [("model", "(none)", 2, Decimal("0.5"), 1, Decimal("0.75"), 0)]
    assert answers["Replaced values"][0][-2:] == ("2", "3")
    assert all(answers.values())
    # Without the columns on FIRST.
    known = Decimal("0.75")
    assert (without["Cost"], without["Human interventions"]) == ([(known,)], [(0,)])
    assert [row[1:] for row in without["Cost by agent"]] == [("a", None), ("b", None), ("a", known), ("b", 0)]
    assert [row[1:] for row in without["Tokens by agent"]] == [("a", None), ("b", None), ("a", 10), ("b", 0)]
    assert [row[1:] for row in without["Users of an agent's day"]] == [("a", None), ("a", 0)]
    assert [value for *_, value in without["Latency of an agent's day"]] == [None, None, None, 100, 820, 884]
    # Of DAY: 0.75 USD for two successes.
    assert without["Agents"] == [("a", 5, Decimal("0.6"), known, known / 2, 0), ("b", 0, None, 0, None, 0)]
    assert without["By value of each dimension"] == [("model", "(none)", 2, Decimal("0.5"), 1, None, None)]
