"""Alerts in the transactions that change days: always the same as a replay of what is stored."""

import json
import random
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, text

from metrics_pipeline.metrics.alert_rules import DEFAULT_RULES, Alerting, AlertRules, Scope
from metrics_pipeline.metrics.anomalies import days_of_interest, unusual_values
from metrics_pipeline.metrics.windows import day_window
from metrics_pipeline.pipeline.aggregation import store_day
from metrics_pipeline.postgres.database import Database
from metrics_pipeline.store.alerts import (
    Cause,
    mark_expired,
    open_alerts,
    renew_after_expiry,
    renew_alerts,
    replay_alerts,
)
from metrics_pipeline.store.audit import agent_history
from metrics_pipeline.store.closing import clear_day
from metrics_pipeline.store.publishing import Reason
from metrics_pipeline_tests.days import DAY, WINDOW, Log, aggregate, compute, execute, query, store_agents, store_logs

#: A Monday.
FIRST = date(2025, 3, 3)

_INSERT = text("""
INSERT INTO agent_performance_metrics (agent_id, metric_date, total_executions, successful_executions,
    failed_executions, success_rate, avg_latency_ms, p50_latency_ms, p95_latency_ms, p99_latency_ms, total_tokens,
    total_cost_usd, avg_cost_per_execution, error_distribution, human_interventions, unique_users)
SELECT agent_id, metric_date, n, n - failed, failed, CASE n WHEN 0 THEN 1 ELSE round((n - failed)::numeric / n, 6) END,
       p95, p95, p95, p95, 0, cost, CASE n WHEN 0 THEN 0 ELSE round(cost / n, 9) END, errors, 0, 0
  FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS row(agent_id text, metric_date date, n bigint, failed bigint,
    p95 bigint, cost numeric, errors jsonb)""")
_LEDGER = text("""
INSERT INTO metric_day_ledger (metric_date, time_zone, window_start, window_end, source_logs, aggregated_logs,
    skipped_logs, agents, source_fingerprint, definition_version, snapshot_at, aggregated_at, run_id)
SELECT day, 'UTC', day, day + 1, 1000, 1000 - skipped, skipped, 1, '{}', '1', now(), now(), 'a run'
  FROM jsonb_to_recordset(CAST(:days AS jsonb)) AS row(day date, skipped bigint)""")
_DELETE = [
    text(f"DELETE FROM {table} WHERE metric_date = ANY(:days)")
    for table in ("agent_performance_metrics", "metric_day_ledger")
]
_ALERTS = "SELECT a::text FROM metric_alerts AS a ORDER BY rule, scope, agent_id, opened_on"
_TRANSITIONS = """
SELECT transition, rule, agent_id, opened_on, severity, is_quiet FROM metric_alert_transitions ORDER BY transition_id"""


def day(number: int) -> date:
    return FIRST + timedelta(days=number)


def row(agent_id: str, number: int, n: int = 1000, failed: int = 20, **values: Any) -> dict[str, Any]:
    """A usual row of metrics: 1,000 executions, of which 20 failed."""
    errors = values.pop("errors", {"timeout": failed} if failed else {})
    usual = {"p95": 800, "cost": "2.5", "errors": errors}
    return {"agent_id": agent_id, "metric_date": str(day(number)), "n": n, "failed": failed, **usual, **values}


def put(connection: Connection, rows: list[dict[str, Any]], *, skipped: int = 0) -> None:
    days = sorted({each["metric_date"] for each in rows})
    for statement in _DELETE:
        connection.execute(statement, {"days": [date.fromisoformat(each) for each in days]})
    connection.execute(_INSERT, {"rows": json.dumps(rows)})
    connection.execute(_LEDGER, {"days": json.dumps([{"day": each, "skipped": skipped} for each in days])})


@contextmanager
def storing(database: Database, number: int, *, rules: AlertRules = DEFAULT_RULES) -> Iterator[Connection]:
    """A transaction that changes a day, with its alerts at its end."""
    with database.begin() as connection:
        yield connection
        renew_alerts(connection, rules, Cause(day(number), f"run of {number}", is_quiet=False))


def store(database: Database, number: int, *rows: dict[str, Any], rules: AlertRules = DEFAULT_RULES) -> None:
    with storing(database, number, rules=rules) as connection:
        put(connection, list(rows))


@pytest.fixture
def usual(database: Database) -> Database:
    """Thirty usual days of the agent a."""
    with storing(database, 29) as connection:
        put(connection, [row("a", number) for number in range(30)])
    return database


def transitions(database: Database) -> list[tuple[Any, ...]]:
    return query(database, _TRANSITIONS)


def only(database: Database) -> list[tuple[Any, ...]]:
    """The alerts of the agents; what is unusual of one is here unusual of the fleet as well."""
    return query(
        database,
        "SELECT rule, opened_on, days, severity, resolved_on FROM metric_alerts WHERE scope = 'agent' ORDER BY 1, 2",
    )


def test_an_alert_opens_worsens_and_resolves_on_the_second_usual_day(usual: Database) -> None:
    store(usual, 30, row("a", 30, failed=100))
    assert only(usual) == [("unusual_success_rate", day(30), 1, "warning", None)]
    store(usual, 31, row("a", 31, failed=900))
    store(usual, 32, row("a", 32))
    assert only(usual) == [("unusual_success_rate", day(30), 2, "critical", None)]
    store(usual, 33, row("a", 33))
    assert only(usual) == [("unusual_success_rate", day(30), 2, "critical", day(33))]
    told = [("opened", "warning"), ("changed", "critical"), ("resolved", "critical")]
    assert transitions(usual) == [
        (change, "unusual_success_rate", agent, day(30), severity, False)
        for change, severity in told
        for agent in ("a", "")
    ]
    (evidence,) = query(usual, "SELECT evidence FROM metric_alerts WHERE scope = 'agent'")
    assert evidence[0] == {
        "metric": "success_rate",
        "value": 0.1,
        # 0.98 - 0.05, the smallest change; what chance does to 1,000 executions is 0.014.
        "usual_low": 0.93,
        "usual_high": 1.0,
        "executions": 1000,
    }


def test_late_logs_withdraw_an_alert_and_one_that_was_open_may_stay_so(usual: Database) -> None:
    store(usual, 30, row("a", 30, failed=500))
    store(usual, 31, row("a", 31))
    store(usual, 30, row("a", 30))
    assert only(usual) == []
    assert [each[0] for each in transitions(usual)] == ["opened", "opened", "withdrawn", "withdrawn"]
    with storing(usual, 31) as connection:
        for statement in _DELETE:
            connection.execute(statement, {"days": [day(31)]})
    assert only(usual) == []


def test_an_older_day_changes_the_alerts_of_later_days(database: Database) -> None:
    # Of 21 days before it, a day has three same weekdays; without one of them it is not judged.
    with storing(database, 21) as connection:
        put(connection, [row("a", number, failed=500 if number == 21 else 20) for number in range(22) if number != 7])
    assert only(database) == []
    store(database, 7, row("a", 7))
    assert only(database) == [("unusual_success_rate", day(21), 1, "critical", None)]


def test_an_agent_without_rows_for_fourteen_days_resolves_its_alert(usual: Database) -> None:
    store(usual, 30, row("a", 30, failed=500))
    store(usual, 43, row("b", 43))
    assert only(usual)[0][-1] is None
    store(usual, 44, row("b", 44))
    assert only(usual)[0][-1] == day(44)
    # Without the day, the time has not passed.
    with storing(usual, 44) as connection:
        for statement in _DELETE:
            connection.execute(statement, {"days": [day(44)]})
    assert only(usual)[0][-1] is None


def test_other_rules_compute_all_alerts_again_and_tell_only_what_is_new(usual: Database) -> None:
    store(usual, 30, row("a", 30, failed=500))
    execute(usual, "DELETE FROM metric_alert_transitions")
    rules = AlertRules({Scope.AGENT: {"unusual_success_rate": None}, Scope.FLEET: {"unusual_success_rate": None}})
    store(usual, 31, row("a", 31, p95=9000), rules=rules)
    assert only(usual) == [("unusual_p95_latency_ms", day(31), 1, "warning", None)]
    assert transitions(usual) == [
        ("withdrawn", "unusual_success_rate", "a", day(30), "critical", True),
        ("withdrawn", "unusual_success_rate", "", day(30), "critical", True),
        ("opened", "unusual_p95_latency_ms", "a", day(31), "warning", False),
    ]


def test_an_agent_that_is_known_of_is_noted_and_not_told(usual: Database) -> None:
    execute(usual, "INSERT INTO metric_acknowledged_agents (agent_id, reason) VALUES ('a', 'retired')")
    store(usual, 30, row("a", 30, n=0, failed=0))
    assert only(usual) == [("silence", day(30), 1, "critical", None)]
    assert [(rule, agent) for _, rule, agent, *_, is_quiet in transitions(usual) if not is_quiet] == [("silence", "")]
    with usual.connect() as connection:
        assert len(open_alerts(connection)) == 2


@pytest.mark.parametrize(("lookback_days", "is_quiet"), [(14, True), (36_500, False)])
def test_a_run_stores_a_day_with_its_alerts_and_clearing_the_day_withdraws_them(
    database: Database, lookback_days: int, is_quiet: bool
) -> None:
    start = (DAY - FIRST).days
    with storing(database, start - 1) as connection:
        put(connection, [row("a", number, 200, 4) for number in range(start - 30, start)])
    store_agents(database, {"a": "active"})
    store_logs(database, [Log(status="failed", error_type="refused")] * 200)
    alerting = Alerting(lookback_days=lookback_days)
    store_day(database, compute(database), run_id="a run", reason=Reason.MANUAL, alerting=alerting)
    opened = [
        ("opened", rule, agent, DAY, severity, is_quiet)
        for rule, agent, severity in (
            ("new_error_type", "a", "warning"),
            ("unusual_success_rate", "a", "critical"),
            ("unusual_success_rate", "", "critical"),
        )
    ]
    assert transitions(database) == opened
    assert query(database, "SELECT DISTINCT run_id FROM metric_alert_transitions") == [("a run",)]
    before = query(database, "SELECT xmin::text, * FROM metric_alerts")
    aggregate(database)
    assert query(database, "SELECT xmin::text, * FROM metric_alerts") == before
    assert clear_day(database, WINDOW) == 1
    assert query(database, "SELECT * FROM metric_alerts") == []
    assert transitions(database)[len(opened) :] == [("withdrawn", *each[1:-1], False) for each in opened]


_COLUMNS = ("latency_ms", "cost_usd", "error_type")
_BOUNDS = {"below": 1.0, "above": None, "min_executions": 0.0, "severity": "critical"}
_COST_BELOW = Alerting(AlertRules({Scope.AGENT: {"threshold_total_cost_usd": _BOUNDS}}), lookback_days=36_500)


def aggregate_twice(database: Database, number: int, columns: str = "", values: str = "") -> None:
    """A day of 1,000 logs, of which 20 failed, as the pipeline stores it."""
    execute(
        database,
        f"""INSERT INTO agent_execution_logs (agent_id, timestamp, status {columns})
        SELECT 'a', '{day(number)} 12:00+00', CASE WHEN n <= 20 THEN 'failed' ELSE 'success' END {values}
        FROM generate_series(1, 1000) AS n""",
    )
    for _ in range(2):
        aggregate_costs(database, number)


def aggregate_costs(database: Database, number: int) -> None:
    computed = compute(database, day_window(day(number), "UTC"))
    store_day(database, computed, run_id="a run", reason=Reason.MANUAL, alerting=_COST_BELOW)


def test_days_whose_logs_lost_a_column_neither_open_nor_resolve_an_alert_of_it(usual: Database) -> None:
    store_agents(usual, {"a": "active"})
    store(usual, 30, row("a", 30, cost="90", p95=9000), rules=_COST_BELOW.rules)
    opened = [("unusual_avg_cost_per_execution", day(30)), ("unusual_p95_latency_ms", day(30))]
    execute(usual, f"ALTER TABLE agent_execution_logs {', '.join(f'DROP {name}' for name in _COLUMNS)}")
    for number in (31, 32):
        aggregate_twice(usual, number)
    assert only(usual) == [(rule, opened_on, 1, "warning", None) for rule, opened_on in opened]
    assert query(usual, "SELECT unlogged FROM metric_day_ledger ORDER BY metric_date DESC LIMIT 3") == [
        ([*_COLUMNS],),
        ([*_COLUMNS],),
        ([],),
    ]
    with usual.begin() as connection:
        assert replay_alerts(connection, _COST_BELOW.rules) == 0
    # Now the day's 0 is a cost, although no row of metrics is written.
    execute(usual, "ALTER TABLE agent_execution_logs ADD cost_usd numeric")
    aggregate_costs(usual, 32)
    assert ("threshold_total_cost_usd", day(32), 1, "critical", None) in only(usual)


def test_days_whose_logs_have_a_new_column_are_not_compared_with_those_without_it(usual: Database) -> None:
    store_agents(usual, {"a": "active"})
    with storing(usual, 29, rules=_COST_BELOW.rules) as connection:
        put(connection, [row("a", number, p95=0, cost="0", errors={"unknown": 20}) for number in range(30)])
        connection.execute(text("UPDATE metric_day_ledger SET unlogged = :columns"), {"columns": [*_COLUMNS]})
    for number in (30, 31):
        aggregate_twice(usual, number, f", {', '.join(_COLUMNS)}", ", 800, 0.01, 'timeout'")
    assert only(usual) == []
    # The nightly check says the same.
    with usual.connect() as connection:
        unusual = unusual_values(agent_history(connection, days_of_interest(day(31))), day(31))
    assert (unusual.values.height, unusual.agents_with_history) == (0, 1)


def _random_row(draw: random.Random, agent: str, number: int) -> dict[str, Any]:
    n = draw.choice([0, 0, 20, 1000, 1000, 1000, 1000, 5000])
    failed = min(n, draw.choice([0, 20, 20, 20, 20, n // 2, n]))
    errors = {draw.choice(["timeout", "timeout", "timeout", 'new "type"']): failed} if failed else {}
    return row(
        agent, number, n, failed, errors=errors, p95=draw.choice([800, 810, 9000]), cost=draw.choice(["2.5", "90"])
    )


_RULES = AlertRules(
    {
        Scope.AGENT: {
            "threshold_total_executions": {"below": 10.0, "above": None, "min_executions": 0.0, "severity": "critical"},
            "threshold_total_tokens": {"below": None, "above": 5.0, "min_executions": 0.0, "severity": "warning"},
        },
        Scope.FLEET: {"budget": {"usd_per_month": 900.0}},
    },
    {"b": {"budget": {"usd_per_month": 400.0}, "silence": None}},
)


@pytest.mark.parametrize("seed", range(2))
def test_whatever_was_stored_again_or_cleared_the_alerts_are_those_of_a_replay(database: Database, seed: int) -> None:
    """Stores, restatements, clears and expiries in any order, and other rules once."""
    draw = random.Random(seed)
    agents, rules = ["a", "b"], DEFAULT_RULES
    with storing(database, 59) as connection:
        put(connection, [_random_row(draw, agent, number) for number in range(60) for agent in agents])
    seen = set()
    for step in range(12):
        rules = _RULES if step > 3 else rules
        number = draw.choice([draw.randrange(75), 60 + step, 60 + step])
        if draw.random() < 0.25:
            with storing(database, number, rules=rules) as connection:
                for statement in _DELETE:
                    connection.execute(statement, {"days": [day(number)]})
        elif draw.random() < 0.15:
            with database.begin() as connection:
                for statement in _DELETE:
                    connection.execute(statement, {"days": [day(n) for n in range(step)]})
                mark_expired(connection)
            with database.begin() as connection:
                renew_after_expiry(connection, rules)
        else:
            some = [_random_row(draw, agent, number) for agent in agents if draw.random() < 0.9]
            with storing(database, number, rules=rules) as connection:
                put(connection, some or [row("a", number)], skipped=draw.choice([0, 0, 500]))
        kept = query(database, _ALERTS)
        seen.update(each[0].split(",")[0] for each in kept)
        with database.begin() as connection:
            connection.execute(text("DELETE FROM metric_alerts"))
            replay_alerts(connection, rules)
        assert query(database, _ALERTS) == kept
    # The histories are not so usual that there is nothing to compare.
    assert len(seen) >= 6


def test_the_journal_gives_the_alerts_that_are_open(usual: Database) -> None:
    draw = random.Random(5)
    for _ in range(15):
        number = 30 + draw.randrange(8)
        store(usual, number, row("a", number, failed=draw.choice([20, 500])))
    is_open: dict[tuple[Any, ...], bool] = {}
    for change, rule, agent, opened_on, *_ in transitions(usual):
        is_open[rule, agent, opened_on] = change in ("opened", "changed")
    with usual.connect() as connection:
        found = {(each.rule, each.agent_id, each.opened_on) for each in open_alerts(connection)}
    assert {key for key, value in is_open.items() if value} == found
