"""Conditional requests: the answer is 304 while nothing changed, and never after a change."""

from datetime import timedelta

import httpx2

from metrics_pipeline.postgres.database import Database
from metrics_pipeline_tests.days import DAY, Log, aggregate, execute, store_agents, store_logs

from .serving import NOW, Serve

LEDGER_PATHS = ["/api/v1/metrics/a", "/api/v1/metrics/a/summary", "/api/v1/metrics?date=2025-03-04"]
CONTENT_PATHS = ["/api/v1/agents", "/api/v1/restatements", "/api/v1/coverage"]


def store(database: Database) -> None:
    store_agents(database, {"a": "active"})
    store_logs(database, [Log("a", cost_usd="0.1")])
    aggregate(database)


def test_who_holds_the_present_answer_is_told_so_until_it_changes(stored: Database, api: httpx2.Client) -> None:
    first = {path: api.get(path) for path in LEDGER_PATHS + CONTENT_PATHS}
    for path, answer in first.items():
        tag = answer.headers["ETag"]
        again = api.get(path, headers={"If-None-Match": f'"another", {tag}'})
        assert (again.status_code, again.content, again.headers["ETag"]) == (304, b"", tag)
        assert "Content-Type" not in again.headers
        assert api.get(path, headers={"If-None-Match": '"another"'}).status_code == 200
    store_logs(stored, [Log("a", "failed", cost_usd="0.2")])
    store_agents(stored, {"b": "active"})
    aggregate(stored)
    for path, answer in first.items():
        changed = api.get(path, headers={"If-None-Match": answer.headers["ETag"]})
        assert changed.status_code == 200
        assert changed.headers["ETag"] != answer.headers["ETag"]
        assert changed.content != answer.content


def test_a_tag_belongs_to_one_resource_in_one_form_on_one_day(
    stored: Database, api: httpx2.Client, serve: Serve
) -> None:
    paths = [
        "/api/v1/metrics/a",
        "/api/v1/metrics/b",
        "/api/v1/metrics/a?start_date=2025-03-01",
        "/api/v1/metrics/a?format=csv",
        "/api/v1/metrics/a/summary",
        "/api/v1/metrics/a/summary?days=1",
        "/api/v1/metrics",
        "/api/v1/metrics?limit=1",
        "/api/v1/metrics?sort=-agent_id",
        "/api/v1/metrics?format=ndjson",
    ]
    store_agents(stored, {"b": "active"})
    tags = [api.get(path).headers["ETag"] for path in paths]
    assert len(set(tags)) == len(paths)
    for path, tag in zip(paths, tags, strict=True):
        others = ", ".join(other for other in tags if other != tag)
        assert api.get(path, headers={"If-None-Match": others}).status_code == 200
    # Tomorrow the last 30 days are other days, although nothing was stored.
    tomorrow = serve(now=NOW + timedelta(days=1))
    assert tomorrow.get("/api/v1/metrics/a", headers={"If-None-Match": tags[0]}).status_code == 200


def test_a_day_outside_the_range_leaves_the_tag_as_it_is(stored: Database, api: httpx2.Client) -> None:
    path = f"/api/v1/metrics/a?start_date={DAY}&end_date={DAY}"
    tag = api.get(path).headers["ETag"]
    execute(stored, "INSERT INTO metric_day_ledger SELECT '2025-03-05', (l).* FROM (SELECT time_zone, window_start, "
            "window_end, source_logs, aggregated_logs, skipped_logs, agents, source_fingerprint, definition_version, "
            "snapshot_at, aggregated_at, run_id FROM metric_day_ledger) AS l")  # fmt: skip
    assert api.get(path, headers={"If-None-Match": tag}).status_code == 304


def test_answers_may_be_kept_by_their_asker_only_and_must_be_asked_for_again(
    stored: Database, api: httpx2.Client
) -> None:
    for path in LEDGER_PATHS + CONTENT_PATHS:
        headers = api.get(path).headers
        assert headers["Cache-Control"] == "private, no-cache"
        assert headers["Vary"].startswith("Accept, Authorization")
