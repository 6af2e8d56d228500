"""Stored distributions: what a window says equals PostgreSQL's answer over the raw logs, also after these are gone."""

import random
import re
from collections.abc import Sequence
from dataclasses import replace
from datetime import date, timedelta
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from metrics_pipeline.errors import PermanentError
from metrics_pipeline.metrics import merging as merging_module
from metrics_pipeline.metrics.distributions import UserKey
from metrics_pipeline.metrics.fingerprint import SourceFingerprint
from metrics_pipeline.metrics.windows import day_window
from metrics_pipeline.postgres.database import Database
from metrics_pipeline.store import stored_rows as stored_rows_module
from metrics_pipeline.store.closing import clear_day, seal_day
from metrics_pipeline.store.distribution_audit import DistributionAudit, audit_day
from metrics_pipeline.store.distributions import DIGEST, hashed_otherwise, user_key
from metrics_pipeline.store.forgetting import Forgotten, forget_user
from metrics_pipeline.store.windows import Grouping, read_window
from metrics_pipeline_tests.days import DAY, Log, aggregate, execute, query, store_agents, store_logs
from metrics_pipeline_tests.documents.pages import DOCS
from metrics_pipeline_tests.oracle import expected_windows

#: Ten days in two months and three weeks.
TEN_DAYS = [date(2025, 3, 27) + timedelta(days=number) for number in range(10)]
GROUPINGS: list[tuple[str, ...]] = [
    (),
    ("agent",),
    ("day",),
    ("week",),
    ("month",),
    ("agent", "month"),
    ("agent", "day"),
]


def stored_rows(database: Database) -> list[tuple[Any, ...]]:
    return query(database, "SELECT xmin::text, * FROM agent_day_distributions ORDER BY agent_id, metric_date")


def read(database: Database, first: date, last: date, *by: str, agent_id: str | None = None) -> list[dict[str, Any]]:
    with database.snapshot() as snapshot:
        return read_window(snapshot, first, last, by=[Grouping(each) for each in by], agent_id=agent_id).to_dicts()


def random_logs(days: Sequence[date], seed: int) -> list[Log]:
    draw = random.Random(seed)
    return [
        Log(
            agent,
            status=draw.choice(["success", "success", "failed", "running"]),
            latency_ms=draw.choice([None, draw.randint(-5, 5), int(draw.lognormvariate(6, 2))]),
            token_count=draw.choice([None, draw.randint(0, 999)]),
            cost_usd=draw.choice([None, "NaN", f"0.{draw.randint(0, 10**9):09}"]),
            error_type=draw.choice([None, "x", "y"]),
            metadata=draw.choice(
                [None, "{}", '{"human_intervention": true}', *(f'{{"user_id": "{u}"}}' for u in range(9))]
            ),
            timestamp=day_window(day, "UTC").start,
        )
        for day in days
        for agent in "abcd"
        for _ in range(draw.choice([0, 1, 3, 12]))
    ]


def test_every_window_equals_the_logs_before_they_were_pruned(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    store_agents(database, dict.fromkeys("abcde", "active"))
    store_logs(database, random_logs(TEN_DAYS, 1))
    windows = [(TEN_DAYS[0], TEN_DAYS[-1]), (TEN_DAYS[2], TEN_DAYS[5])]
    with database.engine.connect() as connection:
        expected = {(window, by): expected_windows(connection, *window, by) for window in windows for by in GROUPINGS}
    for day in TEN_DAYS:
        aggregate(database, day_window(day, "UTC"))
    execute(database, "DELETE FROM agent_execution_logs")
    # Chunks and held users of any number; then without the packed form of some rows, as before revision 0014, and all.
    for chunk, held, unpacked in ((1_000_000, 10**9, "false"), (7, 3, "agent_id = 'b'"), (7, 10**9, "true")):
        monkeypatch.setattr(stored_rows_module, "_CHUNK", chunk)
        monkeypatch.setattr(merging_module, "_HELD", held)
        execute(database, f"UPDATE agent_day_distributions SET packed = NULL WHERE {unpacked}")
        for ((first, last), by), rows in expected.items():
            found = read(database, first, last, *by)
            assert [{name: row[name] for name in rows[0]} for row in found] == rows
            assert all(row["is_exact"] and not row["days_without_distribution"] for row in found)
    of_b, *_ = read(database, *windows[0], "agent", agent_id="b")
    assert of_b == read(database, *windows[0], "agent")[1]
    assert read(database, DAY, DAY) == []


def test_a_day_is_stored_once_and_only_rows_that_change_are_written(aggregated: Database) -> None:
    before = stored_rows(aggregated)
    assert [row[1] for row in before] == ["a", "b", "c"]
    assert query(aggregated, f"SELECT bool_and(digest = {DIGEST}) FROM agent_day_distributions") == [(True,)]
    aggregate(aggregated)
    assert stored_rows(aggregated) == before
    store_logs(aggregated, [Log("b", latency_ms=10, metadata='{"user_id": "u"}')])
    aggregate(aggregated)
    assert [(row == old) for row, old in zip(stored_rows(aggregated), before, strict=True)] == [True, False, True]


def test_a_distribution_that_changes_alone_is_restated_with_its_digest(aggregated: Database) -> None:
    store_logs(aggregated, [Log("a", latency_ms=latency) for latency in (1, 10, 10, 10, 19)])
    aggregate(aggregated, run_id="second")
    execute(aggregated, "DELETE FROM metric_restatements")
    digests = "SELECT encode(digest, 'hex') FROM agent_day_distributions WHERE agent_id = 'a'"
    ((old,),) = query(aggregated, digests)
    # Mean 10 and median 10 as before, p95 and p99 too: only two latencies in the middle moved.
    execute(aggregated, "UPDATE agent_execution_logs SET latency_ms = 11 WHERE ctid = "
            "(SELECT min(ctid) FROM agent_execution_logs WHERE agent_id = 'a' AND latency_ms = 10)")  # fmt: skip
    execute(aggregated, "UPDATE agent_execution_logs SET latency_ms = 9 WHERE ctid = "
            "(SELECT max(ctid) FROM agent_execution_logs WHERE agent_id = 'a' AND latency_ms = 10)")  # fmt: skip
    published = aggregate(aggregated, run_id="third").published
    ((new,),) = query(aggregated, digests)
    restated = "SELECT agent_id, run_id, old_row = new_row, old_distribution, new_distribution FROM metric_restatements"
    assert (published.changed, published.unchanged) == (0, 3)
    assert query(aggregated, restated) == [("a", "third", True, old, new)]
    aggregate(aggregated, run_id="fourth")
    assert len(query(aggregated, restated)) == 1


def test_a_day_stored_before_gets_its_distributions_without_a_restatement(aggregated: Database) -> None:
    execute(aggregated, "DELETE FROM agent_day_distributions")
    assert read(aggregated, DAY, DAY)[0]["days_without_distribution"] == [DAY]
    assert aggregate(aggregated).published.unchanged == 3
    assert len(stored_rows(aggregated)) == 3
    assert query(aggregated, "SELECT 1 FROM metric_restatements") == []
    assert read(aggregated, DAY, DAY)[0]["days_without_distribution"] == []


@pytest.mark.parametrize("damage", ["latencies_ms = '{1, 2}'", "latencies_ms = '{NULL}'", "user_hashes = '{NULL}'"])
def test_no_program_can_store_arrays_that_cannot_be_read(aggregated: Database, damage: str) -> None:
    with pytest.raises(IntegrityError):
        execute(aggregated, f"UPDATE agent_day_distributions SET {damage}")


def test_an_agent_without_logs_has_no_distribution_and_loses_the_one_it_had(aggregated: Database) -> None:
    execute(aggregated, "DELETE FROM agent_execution_logs WHERE agent_id = 'c'")
    aggregate(aggregated, accept_deleted=True)
    assert [row[1] for row in stored_rows(aggregated)] == ["a", "b"]
    (c,) = [row for row in read(aggregated, DAY, DAY, "agent") if row["agent_id"] == "c"]
    assert (c["unique_users"], c["p95_latency_ms"], c["is_exact"]) == (0, None, True)


def test_a_table_that_does_not_keep_a_row_fails_the_day(aggregated: Database) -> None:
    execute(
        aggregated,
        "CREATE FUNCTION lose() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
        "CREATE TRIGGER lose BEFORE INSERT ON agent_day_distributions FOR EACH ROW EXECUTE FUNCTION lose()",
    )
    store_logs(aggregated, [Log("b", latency_ms=77)])
    before = stored_rows(aggregated)
    with pytest.raises(PermanentError, match="agent_day_distributions does not store what it is given"):
        aggregate(aggregated)
    assert stored_rows(aggregated) == before


def test_a_cleared_day_leaves_the_digests_and_a_sealed_one_keeps_its_distributions(aggregated: Database) -> None:
    seal_day(aggregated, day_window(DAY, "UTC"), SourceFingerprint.of_no_logs())
    assert len(stored_rows(aggregated)) == 3
    execute(aggregated, "UPDATE metric_day_ledger SET raw_pruned_at = NULL, raw_pruned_logs = NULL")
    clear_day(aggregated, day_window(DAY, "UTC"))
    assert stored_rows(aggregated) == []
    assert query(aggregated, "SELECT count(old_distribution), count(new_distribution) FROM metric_restatements") == [
        (3, 0)
    ]


def users_of(database: Database, agent: str, day: date = DAY) -> list[int]:
    ((hashes,),) = query(
        database,
        f"SELECT user_hashes FROM agent_day_distributions WHERE (agent_id, metric_date) = ('{agent}', '{day}')",
    )
    return list(hashes)


def test_a_forgotten_person_is_in_no_array_and_every_window_counts_as_before(database: Database) -> None:
    tomorrow = DAY + timedelta(days=1)
    store_agents(database, dict.fromkeys("ab", "active"))
    store_logs(
        database,
        [
            Log(agent, latency_ms=1, metadata=f'{{"user_id": "{user}"}}', timestamp=day_window(day, "UTC").start)
            for agent, user, day in (("a", "u", DAY), ("a", "v", DAY), ("b", "u", DAY), ("a", "u", tomorrow))
        ],
    )
    for day in (DAY, tomorrow):
        aggregate(database, day_window(day, "UTC"))
    with database.connect() as connection:
        key = user_key(connection, None)
    before = [read(database, DAY, tomorrow, *by) for by in GROUPINGS]
    assert key.hash_of("u") in users_of(database, "a")
    assert forget_user(database, "u", None) == Forgotten((DAY, tomorrow), ())
    assert [read(database, DAY, tomorrow, *by) for by in GROUPINGS] == before
    arrays = [users_of(database, "a"), users_of(database, "b"), users_of(database, "a", tomorrow)]
    assert arrays[1] == arrays[2]
    assert set(arrays[1]) < set(arrays[0]) == {*arrays[1], key.hash_of("v")}
    assert key.hash_of("u") not in arrays[0]
    assert query(database, "SELECT 1 FROM agent_day_distributions WHERE packed IS NOT NULL") == []
    assert arrays[0] == sorted(arrays[0])
    assert query(database, f"SELECT bool_and(digest = {DIGEST}) FROM agent_day_distributions") == [(True,)]
    assert forget_user(database, "u", None) == Forgotten((), ())
    # Under another key the hashes are others, and the own key is searched all the same.
    other = UserKey(b"another key of at least 32 characters")
    assert forget_user(database, "v", other).days == (DAY,)
    execute(database, f"UPDATE agent_day_distributions SET user_key_id = 'lost' WHERE metric_date = '{tomorrow}'")
    whole, of_tomorrow = read(database, DAY, tomorrow)[0], read(database, tomorrow, tomorrow)[0]
    assert (whole["unique_users"], whole["is_exact"], whole["has_several_user_keys"]) == (None, False, True)
    assert (of_tomorrow["unique_users"], of_tomorrow["has_several_user_keys"]) == (1, False)
    with database.connect() as connection:
        sentence = hashed_otherwise(connection, key)
        assert sentence
        assert f"1 stored days from {tomorrow} to {tomorrow} " in sentence
        assert hashed_otherwise(connection, UserKey(b"another key of at least 32 characters")) is not None
    execute(database, "UPDATE agent_day_distributions SET user_key_id = 'lost'")
    assert forget_user(database, "v", None) == Forgotten((), ("lost",))


def test_the_audit_of_a_day_finds_what_contradicts_the_metrics(aggregated: Database) -> None:
    store_logs(aggregated, [Log("a", latency_ms=20, metadata='{"user_id": "u"}')])
    aggregate(aggregated)

    def audit(*statements: str) -> DistributionAudit:
        with aggregated.engine.connect() as connection:
            for statement in statements:
                connection.execute(text(statement))
            return audit_day(connection, DAY)

    fine = DistributionAudit(distributions=3, not_exact=0, without=0, contradictory_agents=())
    assert audit() == fine
    change = "UPDATE agent_day_distributions SET {}, digest = digest WHERE agent_id = 'a'"
    right_digest = f"UPDATE agent_day_distributions SET digest = {DIGEST}"
    for wrong in (
        "latencies_ms = '{10, 21}'",
        "latency_executions = '{1, 2}'",
        "user_hashes = '{}'",
        "total_latency_ms = 31",
    ):
        assert audit(change.format(wrong), right_digest).contradictory_agents == ("a",), wrong
    assert audit("UPDATE agent_day_distributions SET digest = 'x' WHERE agent_id = 'b'").contradictory_agents == ("b",)
    # Windows read the packed form, as long as it is of these arrays.
    nothing = r"packed = digest || '\x00000000'"
    assert audit(change.format(nothing)).contradictory_agents == ("a",)
    assert audit("DELETE FROM agent_day_distributions WHERE agent_id = 'c'") == replace(
        fine, distributions=2, without=1
    )
    inexact = (
        "UPDATE agent_day_distributions SET latencies_exact = false, latencies_ms = '{10, 21}' WHERE agent_id = 'a'"
    )
    assert audit(inexact, right_digest) == replace(fine, not_exact=1)


def test_the_documented_sql_gives_the_same_digits(database: Database) -> None:
    store_agents(database, dict.fromkeys("abcd", "active"))
    week = [DAY + timedelta(days=number) for number in range(7)]
    store_logs(database, random_logs(week, 2))
    for day in week:
        aggregate(database, day_window(day, "UTC"))
    (window,) = read(database, week[0], week[-1])
    page = (DOCS / "explanation" / "windows.md").read_text(encoding="utf-8")
    p95, users = re.findall(r"```sql\n(.*?)```", page, re.DOTALL)
    assert query(database, p95) == [(window["p95_latency_ms"],)]
    assert query(database, users) == [(window["unique_users"],)]
