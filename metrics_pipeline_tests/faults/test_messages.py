"""kill -9 of whoever tells receivers of alerts, also while a receiver has the message, and a receiver that is down."""

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random

import pytest

from metrics_pipeline.pipeline.delivery import deliver
from metrics_pipeline.pipeline.opening import open_database
from metrics_pipeline.postgres.database import Database
from metrics_pipeline.postgres.urls import DatabaseUrl
from metrics_pipeline.settings import Settings
from metrics_pipeline_tests.days import execute, query
from metrics_pipeline_tests.processes import kill
from metrics_pipeline_tests.receivers import Inbox, receivers, web_server

from .proxy import Proxy
from .stage import Start


def tell() -> None:
    """Delivers what is to be told, as the sensor does."""
    settings = Settings.from_environment()
    deliver(open_database(settings), settings, datetime.now(UTC), seconds=35)


def note(database: Database, *numbers: int) -> None:
    """An alert of each of the agents is opened."""
    execute(
        database,
        """INSERT INTO metric_alert_transitions (rule, scope, agent_id, opened_on, transition, metric_date, severity,
               evidence, is_quiet)
           SELECT 'silence', 'agent', 'agent-' || number, '2025-03-04', 'opened', '2025-03-04', 'warning', '{}', false
             FROM unnest(CAST(:numbers AS int[])) AS number""",
        numbers=list(numbers),
    )


def told(inbox: Inbox) -> list[tuple[set[int], bool]]:
    """The agents of each message that the receiver took, and whether it says that it may be a repetition."""
    return [
        (
            {int(number) for number in re.findall(r"of agent-(\d+) on", message["message"])},
            "repeat" in message["message"],
        )
        for message in inbox.messages
        if message["code"] == 200
    ]


@pytest.mark.few_seeds
def test_every_alert_is_told_and_what_is_told_twice_says_so(
    seed: int, database: Database, database_url: str, start: Start
) -> None:
    random = Random(seed)
    with web_server() as inbox:
        url = f"json://127.0.0.1:{inbox.port}"
        settings = Settings(Path("/nowhere"), notify=receivers(url))
        note(database, 1, 2)
        with Proxy(database_url) as proxy:
            proxy.serve()
            deliver(Database(DatabaseUrl.parse(proxy.url)), settings, datetime.now(UTC), seconds=35)
            messages = len(proxy.passed)
        assert told(inbox) == [({1, 2}, False)]
        note(database, 3, 4, 5)
        is_in_flight = random.random() < 0.4
        with Proxy(database_url) as proxy:
            inbox.arrived.clear()
            if is_in_flight:
                inbox.may_answer.clear()
            sender = start(function=tell, METRICS_DATABASE_URL=proxy.url, METRICS_NOTIFY=url)
            proxy.serve({} if is_in_flight else {random.randrange(messages): lambda: kill(sender.pid)})
            if is_in_flight:
                assert inbox.arrived.wait(60)
                kill(sender.pid)
                inbox.may_answer.set()
            _, errors = sender.communicate(timeout=60)
            assert sender.returncode == -9, errors
        note(database, 6)
        at = datetime.now(UTC) + timedelta(minutes=3)
        if random.random() < 0.5:
            inbox.code = 503
            deliver(database, settings, at, seconds=35)
            inbox.code = 200
        deliver(database, settings, at + timedelta(hours=2), seconds=35)
        messages_told = told(inbox)
    known: set[int] = set()
    for agents, may_repeat in messages_told:
        assert may_repeat or not agents & known, messages_told
        known |= agents
    assert known == {1, 2, 3, 4, 5, 6}
    assert len(messages_told) <= 3
    if is_in_flight:
        assert messages_told[-1] == ({3, 4, 5, 6}, True)
    assert query(database, "SELECT 1 FROM metric_alert_deliveries WHERE delivered_at IS NULL") == []
