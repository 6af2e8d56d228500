"""Delivery of alerts: each receiver is told of a transition once, later if it was down, twice only if it says so."""

import json
import logging
import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from metrics_pipeline.errors import PermanentError
from metrics_pipeline.pipeline import delivery_channels
from metrics_pipeline.pipeline.delivery import Outcome, deliver
from metrics_pipeline.postgres.database import Database
from metrics_pipeline.settings import Settings
from metrics_pipeline.store.deliveries import claim, owe
from metrics_pipeline.variables import Receiver
from metrics_pipeline_tests.days import execute, query
from metrics_pipeline_tests.receivers import Inbox, mail_server, receivers, web_server

SECRET = "tOken-4b8e-9f3c"
RUN = "5e1b9d1c-7c5f-4d0e-9a3b-0d5f6c2b8a11"
EVIDENCE = {"metric": "success_rate", "value": 0.81, "usual_low": 0.93, "usual_high": 0.97, "executions": 512}
NOW = datetime(2025, 7, 14, 3, 0, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


@pytest.fixture
def webhook() -> Iterator[Inbox]:
    with web_server() as inbox:
        yield inbox


def hooked(*inboxes: Inbox, **overrides: object) -> Settings:
    """The settings of a code server whose receivers the inboxes are."""
    urls = [f"json://127.0.0.1:{inbox.port}/{SECRET}" for inbox in inboxes]
    settings = Settings(
        Path("/nowhere"),
        notify=receivers(*urls) if urls else (),
        api_url="https://metrics.example",
        dagster_url="https://dagster.example",
    )
    return replace(settings, **overrides)


def note(
    database: Database,
    transition: str = "opened",
    agent: str = "a",
    rule: str = "unusual_success_rate",
    *,
    severity: str = "warning",
    scope: str = "agent",
    quiet: bool = False,
    at: datetime = NOW,
    run_id: str | None = RUN,
) -> None:
    """A transition of an alert, as the storing of a day writes it."""
    execute(
        database,
        """INSERT INTO metric_alert_transitions (rule, scope, agent_id, opened_on, transition, metric_date, severity,
               evidence, run_id, occurred_at, is_quiet)
           VALUES (:rule, :scope, :agent, '2025-07-13', :transition, '2025-07-13', :severity,
               CAST(:evidence AS jsonb), :run_id, :at, :quiet)""",
        rule=rule,
        scope=scope,
        agent=agent,
        transition=transition,
        severity=severity,
        evidence=json.dumps(EVIDENCE),
        run_id=run_id,
        at=at,
        quiet=quiet,
    )


def told(database: Database, settings: Settings, at: datetime = NOW) -> list[Outcome]:
    return deliver(database, settings, at, seconds=35)


def test_a_receiver_gets_one_message_with_value_usual_range_and_links_and_no_second_one(
    database: Database, webhook: Inbox
) -> None:
    note(database)
    settings = hooked(webhook)
    (outcome,) = told(database, settings)
    assert str(outcome) == f"JSON ({settings.notify[0].id}) was told of 1 transition."
    (message,) = webhook.messages
    assert message["title"] == "Opened: unusual success rate of a"
    assert message["type"] == "warning"
    assert message["message"].splitlines() == [
        "Opened (1):",
        "- [warning] unusual success rate of a on 2025-07-13: success_rate 0.81, expected 0.93 to 0.97, executions 512",
        "  https://metrics.example/?agent=a",
        f"  https://dagster.example/runs/{RUN}",
        "",
        "Open alerts: https://metrics.example/",
    ]
    assert told(database, settings, NOW + MINUTE) == []
    assert len(webhook.messages) == 1


def test_fifty_transitions_are_one_message_with_the_critical_ones_first(database: Database, webhook: Inbox) -> None:
    for number in range(50):
        note(database, agent=f"agent-{number}", severity="critical" if number == 40 else "warning")
    note(database, "withdrawn", agent="b", severity="critical")
    note(database, agent="quiet", quiet=True)
    told(database, hooked(webhook))
    (message,) = webhook.messages
    assert message["title"] == "Alerts: 50 opened, 1 withdrawn"
    assert message["type"] == "failure"
    lines = message["message"].splitlines()
    assert lines[:2] == ["Opened (50):", lines[1]]
    assert lines[1].startswith("- [critical] unusual success rate of agent-40 on")
    assert "quiet" not in message["message"]
    assert len(message["message"]) <= 4000
    assert lines[-3].startswith("and ")
    assert lines[-3].endswith(" more.")


def test_of_an_alert_that_was_opened_and_withdrawn_in_between_only_the_end_is_told(
    database: Database, webhook: Inbox
) -> None:
    note(database)
    note(database, "withdrawn")
    told(database, hooked(webhook))
    assert webhook.messages[0]["title"] == "Withdrawn: unusual success rate of a"
    assert webhook.messages[0]["type"] == "info"


def test_an_id_of_an_agent_cannot_add_lines_or_leave_the_link(database: Database, webhook: Inbox) -> None:
    note(database, agent="a\n- [critical] x\x1b[31m&day=1/?#é" + "z" * 500)
    told(database, hooked(webhook))
    lines = webhook.messages[0]["message"].splitlines()
    assert len(lines) == 6
    assert lines[1].isprintable()
    assert lines[2].startswith(
        "  https://metrics.example/?agent=a%0A-%20%5Bcritical%5D%20x%1B%5B31m%26day%3D1%2F%3F%23"
    )


def test_a_receiver_that_is_down_is_told_everything_in_one_message_when_it_is_back_and_the_others_do_not_wait(
    database: Database, webhook: Inbox
) -> None:
    with web_server() as other:
        settings = hooked(webhook, other)
        webhook.code = 503
        note(database)
        first, second = told(database, settings)
        assert first.error == "It refused the message with the code 503. Tried again after 03:01 UTC."
        assert second.error is None
        assert told(database, settings, NOW + MINUTE / 2) == []
        note(database, agent="b", at=NOW + MINUTE / 2)
        # The new one waits for the old one, but not at the other receiver.
        (only,) = told(database, settings, NOW + MINUTE / 2)
        assert only.error is None
        assert [message["title"][-1] for message in other.messages] == ["a", "b"]
        (again,) = told(database, settings, NOW + MINUTE)
        assert again.error == "It refused the message with the code 503. Tried again after 03:03 UTC."
        webhook.code = 200
        (back,) = told(database, settings, NOW + 3 * MINUTE)
        assert back.transitions == 2
        *refused, message = webhook.messages
        assert len(refused) == 2
        assert message["title"] == "Alerts: 2 opened"
        assert "may repeat" not in message["message"]
        assert len(other.messages) == 2
    attempts = query(database, "SELECT attempts, error FROM metric_alert_deliveries ORDER BY transition_id, attempts")
    assert attempts == [(1, None), (3, None), (1, None), (2, None)]


def test_pauses_grow_to_an_hour(database: Database, webhook: Inbox) -> None:
    settings = hooked(webhook)
    webhook.code = 500
    note(database)
    at, pauses = NOW, []
    for _ in range(8):
        told(database, settings, at)
        ((again,),) = query(database, "SELECT not_before FROM metric_alert_deliveries")
        pauses.append((again - at) // MINUTE)
        at = again
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60]


def test_a_message_whose_sender_was_killed_is_sent_again_and_says_that_it_may_be_a_repetition(
    database: Database, webhook: Inbox
) -> None:
    settings = hooked(webhook)
    note(database)
    with database.begin() as connection:
        owe(connection, [settings.notify[0].id], NOW)
        assert len(claim(connection, settings.notify[0].id, NOW)) == 1
    # Nobody else sends it as long as its sender may still live.
    assert told(database, settings, NOW + MINUTE) == []
    webhook.code = 503
    (outcome,) = told(database, settings, NOW + 2 * MINUTE)
    assert query(database, "SELECT error FROM metric_alert_deliveries") == [
        ("Its answer was lost once. It refused the message with the code 503.",)
    ]
    webhook.code = 200
    (outcome,) = told(database, settings, NOW + 5 * MINUTE)
    assert outcome.error is None
    assert webhook.messages[1]["message"].endswith(
        "This may repeat a message that you have, because your answer to it was lost."
    )


def test_two_senders_at_once_send_one_message(database: Database, webhook: Inbox) -> None:
    settings = hooked(webhook)
    note(database)
    with database.begin() as connection:
        owe(connection, [settings.notify[0].id], NOW)
    with database.begin() as connection:
        assert len(claim(connection, settings.notify[0].id, NOW)) == 1
        assert told(database, settings) == []
    assert webhook.messages == []


def test_an_answer_that_comes_too_late_counts_as_lost(
    database: Database, webhook: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery_channels, "ANSWER_SECONDS", 0.2)
    webhook.may_answer.clear()
    note(database)
    (outcome,) = told(database, hooked(webhook))
    assert outcome.error == (
        "Its answer was lost, or it refused the message without a code. Tried again after 03:01 UTC."
    )
    webhook.may_answer.set()
    told(database, hooked(webhook), NOW + MINUTE)
    assert "may repeat" in webhook.messages[1]["message"]


def test_no_redirect_is_followed_and_nothing_else_is_requested(database: Database, webhook: Inbox) -> None:
    webhook.code = 302
    note(database)
    (outcome,) = told(database, hooked(webhook))
    assert outcome.error == "It refused the message with the code 302. Tried again after 03:01 UTC."
    assert [message["path"] for message in webhook.messages] == [f"/{SECRET}"]


def test_a_failure_counts_also_if_the_url_calls_the_receiver_optional(database: Database, webhook: Inbox) -> None:
    webhook.code = 500
    note(database)
    url = f"json://127.0.0.1:{webhook.port}/{SECRET}?optional=yes&retry=3"
    (outcome,) = told(database, hooked(notify=receivers(url)))
    assert outcome.error is not None
    assert len(webhook.messages) == 1


def test_a_mail_has_the_same_text_and_a_refusal_is_told_by_its_code(database: Database) -> None:
    with mail_server() as inbox:
        url = f"mailto://127.0.0.1:{inbox.port}?from=metrics@a.example&to=ops@b.example&format=text"
        settings = hooked(notify=receivers(url))
        inbox.code = 554
        note(database)
        (outcome,) = told(database, settings)
        assert outcome.error == "It refused the message with the code 554. Tried again after 03:01 UTC."
        inbox.code = 250
        (outcome,) = told(database, settings, NOW + MINUTE)
        assert outcome.error is None
        mail = inbox.messages[-1]
    assert mail["subject"] == "Opened: unusual success rate of a"
    assert mail["to"] == "ops@b.example"
    assert "- [warning] unusual success rate of a on 2025-07-13: success_rate 0.81" in mail["text"]


def test_who_is_added_later_is_told_of_the_last_days_once_and_not_of_what_others_were_told(
    database: Database, webhook: Inbox
) -> None:
    note(database, agent="old", at=NOW - timedelta(days=8))
    note(database, agent="recent", at=NOW - timedelta(days=6))
    told(database, hooked(webhook))
    assert [message["title"][-6:] for message in webhook.messages] == ["recent"]
    with web_server() as later:
        note(database, agent="new")
        told(database, hooked(webhook, later))
        assert [message["title"] for message in later.messages] == ["Opened: unusual success rate of new"]


@pytest.mark.parametrize(
    ("url", "said"),
    [
        (f"json://127.0.0.1:1/{SECRET}", "It cannot be reached: Connection refused."),
        (f"mailto://u:{SECRET}@127.0.0.1:1?from=a@b.example", "It cannot be reached: Connection refused."),
        (f"slack://{SECRET}", "cannot read the URL of receiver .*, slack://…"),
        (f"nonsense://{SECRET}@h/{SECRET}", "cannot read the URL of receiver .*, nonsense://…"),
    ],
)
def test_no_reason_and_no_log_contains_a_secret(
    url: str, said: str, database: Database, capfd: pytest.CaptureFixture[str]
) -> None:
    # pytest's own handler also listens to loggers that pass nothing on.
    logged: list[str] = []
    listener = logging.Handler()
    listener.emit = lambda record: logged.append(record.getMessage())
    logging.getLogger().addHandler(listener)
    settings = hooked(notify=receivers(url))
    note(database)
    (outcome,) = told(database, settings)
    logging.getLogger().removeHandler(listener)
    assert outcome.error is not None
    assert re.search(said, outcome.error)
    printed = capfd.readouterr()
    stored = query(database, "SELECT * FROM metric_alert_deliveries")
    assert SECRET not in f"{outcome}{settings!r}{stored}{printed.out}{printed.err}{logged}"


def test_without_receivers_nothing_is_noted(database: Database) -> None:
    note(database)
    assert told(database, hooked()) == []
    assert query(database, "SELECT * FROM metric_alert_deliveries") == []


ALERTS = "SELECT agent_id, alert_type, severity, message, triggered_at, resolved_at FROM alert_history ORDER BY id"
THEIRS = ("a", "metrics_pipeline", "warning", "of the platform", NOW, None)


def test_alert_history_gets_rows_of_our_own_types_of_agents_only_once_and_they_are_resolved(database: Database) -> None:
    execute(
        database,
        """INSERT INTO alert_history (agent_id, alert_type, severity, message, triggered_at)
           VALUES ('a', 'metrics_pipeline', 'warning', 'of the platform', '2025-07-14 03:00Z')""",
    )
    settings = hooked(alerts_to="alert_history")
    note(database)
    note(database, scope="fleet", agent="")
    (outcome,) = told(database, settings)
    assert str(outcome) == "alert_history was told of 1 transition."
    message = "unusual success rate of a on 2025-07-13: success_rate 0.81, expected 0.93 to 0.97, executions 512"
    kind = "metrics_pipeline.unusual_success_rate"
    assert query(database, ALERTS) == [THEIRS, ("a", kind, "warning", message, NOW, None)]
    note(database, "changed", severity="critical", at=NOW + MINUTE)
    note(database, "resolved", severity="critical", at=NOW + 2 * MINUTE)
    told(database, settings, NOW + 3 * MINUTE)
    assert told(database, settings, NOW + 4 * MINUTE) == []
    assert query(database, ALERTS) == [
        THEIRS,
        ("a", kind, "warning", message, NOW, NOW + MINUTE),
        ("a", kind, "critical", message, NOW + MINUTE, NOW + 2 * MINUTE),
    ]


def test_alert_history_may_have_other_types_and_what_keeps_us_from_writing_is_raised_after_others_were_told(
    database: Database, webhook: Inbox
) -> None:
    execute(
        database,
        "ALTER TABLE alert_history ALTER agent_id TYPE uuid USING agent_id::uuid",
        "CREATE TYPE severity AS ENUM ('warning')",
        "ALTER TABLE alert_history ALTER severity TYPE severity USING severity::severity",
        "ALTER TABLE alert_history ALTER triggered_at TYPE timestamp",
    )
    settings = hooked(webhook, alerts_to="alert_history")
    note(database, agent=RUN)
    told(database, settings)
    assert query(database, "SELECT agent_id::text, severity::text, triggered_at FROM alert_history") == [
        (RUN, "warning", NOW.replace(tzinfo=None))
    ]
    note(database, agent=RUN, rule="silence", severity="critical")
    with pytest.raises(PermanentError, match="critical"):
        told(database, settings, NOW + MINUTE)
    assert len(webhook.messages) == 2
    ((attempts,),) = query(
        database,
        "SELECT attempts FROM metric_alert_deliveries WHERE receiver = 'alert_history' AND delivered_at IS NULL",
    )
    assert attempts == 0


def test_receivers_are_named_by_a_digest_of_their_url() -> None:
    assert receivers("json://h", "  json://i\n") == (
        Receiver("json://h", "e8040ee35ded"),
        Receiver("json://i", "2f535e56f2a2"),
    )
