"""Walks over the pages of a list: each row of one state once, or a 409 that says how to start again."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import httpx2
import pytest

from metrics_pipeline.metrics.windows import day_window
from metrics_pipeline.postgres.database import Database
from metrics_pipeline_tests.days import DAY, NOON, Log, aggregate, execute, store_agents, store_logs

from .serving import NOW, Serve

LISTS = [
    f"/api/v1/metrics?limit=2&sort=-total_cost_usd&date={DAY}",
    "/api/v1/agents?limit=2",
    "/api/v1/restatements?limit=2",
    f"/api/v1/activity?group_by=agent,day&limit=2&end_date={DAY}&sort=-total_cost_usd",
]


def walk(api: httpx2.Client, path: str, between: Callable[[], object] = lambda: None) -> list[dict[str, Any]] | None:
    """The rows of all pages, or None if one page is a 409. `between` is done after each page."""
    rows: list[dict[str, Any]] = []
    following: str | None = path
    while following is not None:
        answer = api.get(following)
        if answer.status_code == 409:
            assert answer.json()["type"] == "urn:metrics-pipeline:problem:list-changed"
            first = str(httpx2.URL(path).join(answer.links["first"]["url"]))
            assert dict(httpx2.URL(first).params).items() >= dict(httpx2.URL(path).params).items()
            assert api.get(first).status_code == 200
            return None
        assert answer.status_code == 200, answer.text
        rows += answer.json()
        link = answer.links.get("next")
        following = str(httpx2.URL(path).join(link["url"])) if link else None
        between()
    assert len(rows) == int(answer.headers["X-Total-Count"])
    return rows


def store(database: Database) -> None:
    """Five agents, whose two days were stored twice."""
    store_agents(database, dict.fromkeys("abcde", "active"))
    for _ in range(2):
        store_logs(
            database,
            [Log(agent, cost_usd="1", timestamp=NOON - timedelta(days=n)) for agent in "abcde" for n in (0, 1)],
        )
        for days in (0, 1):
            aggregate(database, day_window(DAY - timedelta(days=days), "UTC"))


@pytest.mark.parametrize("path", LISTS)
def test_a_walk_has_each_row_once_or_ends_when_a_row_is_restated(
    path: str, stored: Database, api: httpx2.Client
) -> None:
    rows = walk(api, path)
    assert rows is not None
    assert len(rows) == len({str(row) for row in rows}) >= 5
    # A day that is stored again without a change costs no walk, except that of the agents, which may have a new day.
    unchanged = walk(api, path, lambda: aggregate(stored))
    assert unchanged == (None if "agents" in path else rows)

    def restate() -> None:
        # The last agent of the list becomes the first.
        store_logs(stored, [Log("e", cost_usd="100"), Log("new")])
        execute(stored, "INSERT INTO agent_registry VALUES ('0', 'name', 'active') ON CONFLICT DO NOTHING")
        aggregate(stored)

    assert walk(api, path, restate) is None


def test_a_walk_that_expires_behind_the_client_ends_too(stored: Database, api: httpx2.Client) -> None:
    def expire() -> None:
        execute(stored, f"DELETE FROM metric_restatements WHERE metric_date < '{DAY}'")

    assert walk(api, "/api/v1/restatements?limit=2", expire) is None


def test_a_walk_over_midnight_stays_on_its_day(stored: Database, serve: Serve, api: httpx2.Client) -> None:
    first = api.get("/api/v1/metrics?limit=3")
    tomorrow = serve(now=NOW + timedelta(days=1))
    second = tomorrow.get("/api/v1/metrics" + first.links["next"]["url"])
    assert [row["agent_id"] for row in first.json() + second.json()] == list("abcde")
    assert {row["metric_date"] for row in second.json()} == {str(DAY)}
