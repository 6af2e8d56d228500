"""The feed of changes: a copy that follows it equals the stored metrics, whatever is written meanwhile."""

import json
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import date, timedelta
from decimal import Decimal
from typing import Any

import httpx2
import pytest
from sqlalchemy import Connection, text

from metrics_pipeline.errors import DayRefusedError, TransientError
from metrics_pipeline.metrics.retention import RetentionPolicy
from metrics_pipeline.metrics.windows import day_window
from metrics_pipeline.postgres.database import Database
from metrics_pipeline.store.answers.changes import transaction_id
from metrics_pipeline.store.answers.metrics import COLUMNS
from metrics_pipeline.store.closing import clear_day
from metrics_pipeline_tests.days import DAY, NOON, Log, aggregate, execute, query, store_agents, store_logs
from metrics_pipeline_tests.processes import wait_until
from metrics_pipeline_tests.retention.runs import prune

FIRST = DAY - timedelta(days=3)
PATH = "/api/v1/changes"


class Mirror:
    """A copy of the metrics, kept as the documentation of the route says."""

    def __init__(self, api: httpx2.Client, limit: int = 3) -> None:
        self.api, self.limit = api, limit
        self.cursor: str | None = None
        self.days: dict[str, list[dict[str, Any]]] = {}

    def ask(self) -> tuple[list[str], bool]:
        """One request: the days that were told, and whether there are more."""
        since = {} if self.cursor is None else {"updated_since": self.cursor}
        answer = self.api.get(PATH, params={"limit": self.limit, **since})
        assert answer.status_code == 200, answer.text
        found = json.loads(answer.text, parse_float=Decimal)
        self.days |= {day["metric_date"]: day["rows"] for day in found["days"]}
        self.days = {day: rows for day, rows in self.days.items() if day in found["stored_days"]}
        self.cursor = found["cursor"]
        return [day["metric_date"] for day in found["days"]], found["has_more"]

    def follow(self) -> list[str]:
        """Asks until nothing more has changed; the days that were told."""
        told, has_more = [], True
        while has_more:
            days, has_more = self.ask()
            told += days
        return told

    def equals(self, database: Database) -> bool:
        """Whether it has every row that is stored, with every digit, and no other."""
        select = f"SELECT {', '.join(COLUMNS)} FROM agent_performance_metrics ORDER BY metric_date, agent_id"
        stored = [
            json.loads(row, parse_float=Decimal)
            for (row,) in query(database, f"SELECT row_to_json(r)::text FROM ({select}) AS r")
        ]
        return [row for _, rows in sorted(self.days.items()) for row in rows] == stored


def let_others_end(database: Database) -> None:
    """The feed repeats a day while any transaction of the server, also of another database, is older than the day."""
    ((own,),) = query(database, "SELECT pg_current_xact_id()::text")
    wait_until(lambda: query(database, f"SELECT pg_snapshot_xmin(pg_current_snapshot()) > '{own}'::xid8") == [(True,)])


def store(database: Database) -> None:
    """Four days of three agents."""
    store_agents(database, dict.fromkeys("abc", "active"))
    for number in range(4):
        store_logs(database, [Log(agent, cost_usd="0.1", timestamp=NOON - timedelta(days=number)) for agent in "ab"])
        aggregate(database, day_window(DAY - timedelta(days=number), "UTC"))
    let_others_end(database)


def test_a_copy_is_told_each_change_once_and_each_day_in_whole(stored: Database, api: httpx2.Client) -> None:
    mirror = Mirror(api)
    assert mirror.follow() == [str(FIRST + timedelta(days=n)) for n in range(4)]
    assert mirror.equals(stored)
    assert mirror.follow() == []
    # Restated, cleared, expired, and one that another program stored.
    store_logs(stored, [Log("a", cost_usd="12345678901.123456789")])
    aggregate(stored)
    clear_day(stored, day_window(DAY - timedelta(days=1), "UTC"))
    prune(stored, f"{DAY}T12:00+00:00", policy=RetentionPolicy(raw_log_days=2, metric_days=2))
    execute(
        stored,
        f"INSERT INTO agent_performance_metrics ({', '.join(COLUMNS)}) SELECT agent_id, '2024-01-01', "
        f"{', '.join(COLUMNS[2:])} FROM agent_performance_metrics WHERE metric_date = '2025-03-02'",
    )
    let_others_end(stored)
    assert mirror.follow() == ["2024-01-01", str(FIRST), str(DAY)]
    assert mirror.equals(stored)
    assert mirror.follow() == []
    expired = api.get(f"{PATH}?limit=2").json()["days"][1]
    assert (expired["metric_date"], expired["rows"]) == (str(FIRST), [])
    assert expired["expired_at"] is not None


@contextmanager
def open_writer(database: Database, day: date, *, is_nested: bool) -> Iterator[Connection]:
    """A transaction that stores a day as a run does, and is still open."""
    with database.engine.begin() as connection:
        if is_nested:
            # What a savepoint writes has an id of its own.
            connection.begin_nested()
        for statement in (
            "UPDATE agent_performance_metrics SET total_tokens = 99, updated_at = now() WHERE metric_date = :day",
            "UPDATE metric_day_ledger SET aggregated_at = now() WHERE metric_date = :day",
        ):
            connection.execute(text(statement), {"day": day})
        yield connection


@pytest.mark.parametrize("is_nested", [False, True], ids=["plain", "savepoint"])
def test_a_transaction_that_commits_long_after_its_time_is_told(
    is_nested: bool, stored: Database, api: httpx2.Client
) -> None:
    mirror = Mirror(api, limit=100)
    mirror.follow()
    with open_writer(stored, FIRST, is_nested=is_nested):
        for _ in range(2):
            store_logs(stored, [Log("a")])
            aggregate(stored)
            assert str(DAY) in mirror.follow()
            assert mirror.equals(stored)
    let_others_end(stored)
    assert str(FIRST) in mirror.follow()
    assert mirror.equals(stored)
    assert mirror.follow() == []


def test_days_that_change_behind_a_walk_are_told_after_it(stored: Database, api: httpx2.Client) -> None:
    mirror = Mirror(api, limit=2)
    assert mirror.ask() == ([str(FIRST + timedelta(days=n)) for n in range(2)], True)
    store_logs(stored, [Log("c", timestamp=NOON - timedelta(days=3))])
    aggregate(stored, day_window(FIRST, "UTC"))
    let_others_end(stored)
    assert mirror.follow() == [str(FIRST + timedelta(days=n)) for n in range(2, 4)]
    assert mirror.follow() == [str(FIRST)]
    assert mirror.equals(stored)


def test_a_copy_under_random_writers_ends_equal(stored: Database, api: httpx2.Client) -> None:
    def write(seed: int) -> None:
        choices = random.Random(seed)
        for _ in range(8):
            ago = choices.randrange(4)
            window = day_window(DAY - timedelta(days=ago), "UTC")
            match choices.randrange(4):
                case 0:
                    # Another writer may have cleared the day before.
                    with suppress(DayRefusedError):
                        clear_day(stored, window)
                case 1:
                    with open_writer(stored, window.metric_date, is_nested=choices.random() < 0.5) as connection:
                        connection.execute(text("SELECT pg_sleep(:seconds)"), {"seconds": choices.random() / 20})
                case _:
                    agent, cost = choices.choice("abc"), str(choices.randrange(10**9))
                    store_logs(stored, [Log(agent, cost_usd=cost, timestamp=NOON - timedelta(days=ago))])
                    # Another writer may store the day meanwhile; a run would try again.
                    with suppress(TransientError):
                        aggregate(stored, window)

    mirror = Mirror(api)
    with ThreadPoolExecutor(3) as pool:
        writers = [pool.submit(write, seed) for seed in range(3)]
        while not all(writer.done() for writer in writers):
            mirror.follow()
        for writer in writers:
            writer.result()
    prune(stored, f"{DAY}T12:00+00:00", policy=RetentionPolicy(raw_log_days=1, metric_days=1))
    let_others_end(stored)
    mirror.follow()
    assert mirror.equals(stored)
    assert mirror.follow() == []


def test_a_copy_of_a_database_that_was_replaced_is_told_to_begin_again(stored: Database, api: httpx2.Client) -> None:
    cursor = api.get(f"{PATH}?limit=100").json()["cursor"]
    source, _, position = cursor.rpartition("-")
    for other in (f"{int(source, 16) ^ 1:016x}-{position}", f"{source}-{int(position) + 10**6}"):
        answer = api.get(PATH, params={"updated_since": other})
        assert (answer.status_code, answer.json()["type"]) == (410, "urn:metrics-pipeline:problem:feed-restarted")
    for wrong in ("", "yesterday", "2025-03-04", f"{cursor}-1-2025-99-99"):
        answer = api.get(PATH, params={"updated_since": wrong})
        assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "updated_since")


def test_a_transaction_is_never_taken_for_an_older_one_also_when_the_32_bits_of_its_id_begin_again(
    database: Database,
) -> None:
    expression = text(f"SELECT {transaction_id('CAST(:xmin AS text)')}")
    cycle = 2**32
    with database.connect() as connection:
        for xmin, next_id, given in [
            (50, 100, 50),
            (50, cycle + 100, cycle + 50),
            (200, cycle + 100, 200),
            (cycle - 1, 3 * cycle, 3 * cycle - 1),
        ]:
            assert connection.scalar(expression, {"xmin": str(xmin), "next_id": next_id}) == given
