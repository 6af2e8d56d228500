"""Summaries of a day and of a week: who is told, and what."""

from dataclasses import replace
from datetime import UTC, datetime

from metrics_pipeline.metrics.windows import day_window
from metrics_pipeline.postgres.database import Database
from metrics_pipeline_tests.days import Log, aggregate, execute, store_agents, store_logs
from metrics_pipeline_tests.pipeline.test_delivery import MINUTE, NOW, hooked, told, webhook
from metrics_pipeline_tests.receivers import Inbox, receivers, web_server

__all__ = ["webhook"]


def test_summaries_of_a_day_and_a_week_are_told_once_to_those_who_want_them(database: Database, webhook: Inbox) -> None:
    store_agents(database, {"a": "active", "b": "active"})
    # The week from Monday 2025-07-07 to Sunday 2025-07-13; nothing of its Wednesday.
    for day in (6, 7, 8, 10, 11, 12, 13):
        start = datetime(2025, 7, day, 5, tzinfo=UTC)
        failures = [Log("b", "failed", timestamp=start)] * (day == 13)
        store_logs(database, [Log("a", cost_usd="1.5", timestamp=start)] * day + failures)
        if day < 13:
            aggregate(database, day_window(start.date(), "UTC"))
    with web_server() as other:
        (to_other,) = receivers(f"json://127.0.0.1:{other.port}")
        settings = replace(hooked(webhook), notify_daily=(to_other,), notify_weekly=(to_other,))
        assert told(database, settings) == []
        aggregate(database, day_window(datetime(2025, 7, 13, tzinfo=UTC).date(), "UTC"))
        execute(
            database,
            """INSERT INTO metric_alerts (rule, scope, agent_id, opened_on, severity, last_seen_on, days, evidence)
               VALUES ('silence', 'agent', 'b', '2025-07-12', 'critical', '2025-07-12', 1, '{}')""",
        )
        (outcome,) = told(database, settings)
        assert outcome.error is None
        assert told(database, settings, NOW + MINUTE) == []
        (message,) = other.messages
    assert webhook.messages == []
    assert message["type"] == "info"
    alerts = ["Open alerts: 1", "- [critical] silence of b since 2025-07-12"]
    # 6 + 7 + 8 + 10 + 11 + 12 = 54 executions in the 6 stored days of the 7 before Sunday; 61 + 1 in the week.
    assert message["message"].splitlines() == [
        "Summary of 2025-07-13:",
        "14 executions of 2 agents, 7.14% failed, 19.50 USD.",
        "A day of the week before: 9 executions of 1 agent, 0.00% failed, 13.50 USD.",
        *alerts,
        "https://metrics.example/?day=2025-07-13",
        "Summary of 2025-07-07 to 2025-07-13:",
        "62 executions of 2 agents, 1.61% failed, 91.50 USD.",
        "The week before: 6 executions of 1 agent, 0.00% failed, 9.00 USD.",
        "Not stored: 1 of its 7 days.",
        *alerts,
        "https://metrics.example/",
    ]


def test_a_summary_tells_a_cost_that_is_not_logged_from_one_that_was_measured(
    database: Database, webhook: Inbox
) -> None:
    store_agents(database, {"a": "active"})
    days = [datetime(2025, 7, day, 5, tzinfo=UTC) for day in (12, 13)]
    store_logs(database, [Log(cost_usd="1.5", timestamp=days[0])])
    aggregate(database, day_window(days[0].date(), "UTC"))
    execute(
        database,
        "ALTER TABLE agent_execution_logs DROP cost_usd",
        f"INSERT INTO agent_execution_logs (agent_id, status, timestamp) VALUES ('a', 'success', '{days[1]}')",
    )
    aggregate(database, day_window(days[1].date(), "UTC"))
    told(database, hooked(notify_daily=hooked(webhook).notify, notify_weekly=hooked(webhook).notify))
    (message,) = webhook.messages
    lines = message["message"].splitlines()
    assert lines[1:3] == [
        "1 execution of 1 agent, 0.00% failed, cost unknown.",
        "A day of the week before: 1 execution of 1 agent, 0.00% failed, 1.50 USD.",
    ]
    assert "2 executions of 1 agent, 0.00% failed, 1.50 USD on 1 of 2 days." in lines
