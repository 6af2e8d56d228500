"""no_suspicious_values: each kind is found where it is, and only there."""

import html
from datetime import timedelta

import dagster as dg
import pytest

from metrics_pipeline.postgres.database import Database
from metrics_pipeline_tests.days import DAY, NOON, Log, execute, query, store_logs
from metrics_pipeline_tests.examples import variants
from metrics_pipeline_tests.orchestration.test_markdown import HOSTILE, HOSTILE_IN_A_CELL

from .evaluations import TOMORROW, Evaluate, values

NAME = "no_suspicious_values"
KINDS = [
    "negative_latency",
    "negative_tokens",
    "negative_cost",
    "cost_not_a_number",
    "cost_of_12_digits_or_more",
    "unknown_status",
    "in_the_future",
]


@pytest.mark.parametrize("naive", [False, True], ids=["timestamptz", "timestamp"])
def test_usual_values_pass(database: Database, evaluate: Evaluate, naive: bool) -> None:
    if naive:
        execute(database, 'ALTER TABLE agent_execution_logs ALTER "timestamp" TYPE timestamp')
    store_logs(
        database,
        [
            *(Log("a", status, 0, 0, "0") for status in ("success", "failed", "running", "cancelled", "timeout")),
            Log("a", "success"),
            Log("a", timestamp=TOMORROW + timedelta(minutes=5)),
        ],
    )
    verdict = evaluate(NAME)
    assert verdict.passed
    assert verdict.description == "None of the logs holds a suspicious value (6)."
    assert values(verdict) == {
        "days": "2025-02-19 to 2025-03-04",
        "days_unreadable": 0,
        "logs": 6,
        **{f"logs_{kind}": 0 for kind in KINDS},
        "newest_examples": "None.",
    }


@pytest.mark.parametrize(
    ("kind", "log", "shown"),
    variants(
        [
            ("negative_latency", Log(latency_ms=-1), "-1"),
            ("negative_tokens", Log(token_count=-7), "-7"),
            ("negative_cost", Log(cost_usd="-0.000000001"), "-0.000000001"),
            ("cost_not_a_number", Log(cost_usd="NaN"), "NaN"),
            ("cost_not_a_number", Log(cost_usd="-Infinity"), "-Infinity"),
            ("unknown_status", Log(status="Success"), "Success"),
            (
                "in_the_future",
                Log(timestamp=TOMORROW + timedelta(minutes=5, microseconds=1)),
                "2025-03-05 12:05:00.000001+00",
            ),
        ]
    ),
)
def test_a_suspicious_value_is_shown_with_its_log(
    database: Database, evaluate: Evaluate, kind: str, log: Log, shown: str
) -> None:
    store_logs(database, [Log(), log])
    verdict = evaluate(NAME)
    assert not verdict.passed
    assert verdict.severity is dg.AssetCheckSeverity.WARN
    assert verdict.description == f"Logs with suspicious values: 1 {kind.replace('_', ' ')}."
    assert {name: count for name, count in values(verdict).items() if name.startswith("logs_") and count} == {
        f"logs_{kind}": 1
    }
    (row,) = values(verdict)["newest_examples"].splitlines()[2:]
    ids = [str(id_) for (id_,) in query(database, "SELECT id FROM agent_execution_logs")]
    what, id_, agent, _, value = row.strip("| ").split(" | ")
    assert (what, agent, html.unescape(value)) == (kind.replace("_", " "), "a", shown)
    assert id_ in ids


def test_examples_are_few_and_the_newest_and_hostile_names_are_text(database: Database, evaluate: Evaluate) -> None:
    start = Log().timestamp
    store_logs(database, [Log(HOSTILE, latency_ms=-n, timestamp=start + timedelta(seconds=n)) for n in range(1, 6)])
    verdict = evaluate(NAME)
    assert values(verdict)["logs_negative_latency"] == 5
    rows = values(verdict)["newest_examples"].splitlines()[2:]
    assert [row.rsplit(" | ", 1)[1] for row in rows] == ["-5 |", "-4 |", "-3 |"]
    assert all(f" | {HOSTILE_IN_A_CELL} | " in row for row in rows)


def test_days_beyond_the_look_back_window_are_not_looked_at(database: Database, evaluate: Evaluate) -> None:
    store_logs(database, [Log(latency_ms=-1)])
    later = TOMORROW + timedelta(days=1)
    assert not evaluate(NAME, now=later, lookback_days=2).passed
    assert evaluate(NAME, now=later, lookback_days=1).passed
    assert evaluate(NAME, start_date=DAY + timedelta(days=1)).passed


def test_a_log_that_cannot_be_read_is_named_with_its_day_and_the_other_days_are_examined(
    database: Database, evaluate: Evaluate
) -> None:
    store_logs(database, [Log(latency_ms=-1, timestamp=NOON - timedelta(days=number)) for number in range(3)])
    store_logs(database, [Log(latency_ms=-5, timestamp=NOON - timedelta(days=1, minutes=1))])
    execute(
        database,
        "ALTER TABLE agent_execution_logs RENAME TO stored",
        "ALTER TABLE stored ALTER latency_ms TYPE text",
        """CREATE VIEW agent_execution_logs AS SELECT id, agent_id, "timestamp", status, latency_ms::int, token_count,
           cost_usd, error_type, metadata FROM stored""",
        "UPDATE stored SET latency_ms = 'fast' WHERE latency_ms = '-5'",
    )
    [(log_id,)] = query(database, "SELECT id::text FROM stored WHERE latency_ms = 'fast'")
    verdict = evaluate(NAME)
    assert not verdict.passed
    assert verdict.description == (
        f"2025-03-03: log {log_id} of agent a at 11:59:00Z cannot be read: invalid input syntax for type integer: "
        '"fast" (SQLSTATE 22P02). Logs with suspicious values: 2 negative latency.'
    )
    found = values(verdict)
    assert (found["days_unreadable"], found["logs"], found["logs_negative_latency"]) == (1, 2, 2)
    assert found["newest_examples"].index("2025-03-04 12") < found["newest_examples"].index("2025-03-02 12")
