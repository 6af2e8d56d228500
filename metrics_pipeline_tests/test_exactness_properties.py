"""Days that hypothesis makes up from the values that break metrics, equal to the oracle in every row and column."""

import json
from datetime import UTC, date, timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metrics_pipeline.metrics.windows import DayWindow, day_window
from metrics_pipeline.postgres.database import Database
from metrics_pipeline_tests.days import (
    DAY,
    Log,
    aggregate,
    assert_exact,
    assert_exact_twice,
    empty,
    execute,
    query,
    store_agents,
    store_logs,
)
from metrics_pipeline_tests.examples import examples

WINDOWS = [
    day_window(day, zone)
    for zone, days in {
        "UTC": [DAY, date(2024, 2, 29)],
        "Europe/Berlin": [date(2025, 3, 30), date(2025, 10, 26)],
        "America/New_York": [date(2025, 3, 9), date(2025, 11, 2)],
        "Africa/Cairo": [date(2025, 4, 25)],
        "America/Sao_Paulo": [date(2018, 11, 4)],
        "Asia/Beirut": [date(2025, 3, 30)],
    }.items()
    for day in days
]

#: What text can hold that something on the way might treat as its own: quotes, escapes, markers of NULL, placeholders.
AWKWARD = [
    "", " ", "a", "A", "a/b-1.0", "o'Brien", '"quoted"', "back\\slash", "\\N", "\\", "\x01", "\x7f", "\t", "\n", "null",
    "NULL", "unknown", "true", "{}", "[]", "%s", "%(x)s", ":name", "$1", "{start}",
    "--", "'; DROP TABLE agent_registry; --",
    "é", "e\u0301", "ß", "日本語", "😀", "\u200f", "\ufffe", "0", "-1", "NaN", "a" * 300,
]  # fmt: skip

texts = st.sampled_from(AWKWARD) | st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8
)
agent_ids = st.sampled_from(AWKWARD)
statuses = st.sampled_from(["success", "success", "failed", "failed", "running", "Success", "failed ", "", None])
integers = st.none() | st.integers(-3, 3) | st.integers(0, 20_000) | st.integers(-(2**31), 2**31 - 1)

costs = st.none() | st.one_of(
    st.sampled_from(
        ["NaN", "Infinity", "-Infinity", "0", "0.00", "-0.000000001", "0.0000000005", "-0.0000000005", "1e-20"]
    ),
    st.integers(-7, 7).map(lambda nano: f"{Decimal(nano).scaleb(-9):f}"),
    st.decimals(-(10**6), 10**6, places=9, allow_nan=False).map(str),
    st.decimals(-1, 1, places=30, allow_nan=False).map(lambda cost: f"{cost:f}"),
    # Logged by software that keeps money in floats: up to 1074 decimals.
    st.floats(-1e6, 1e6).map(lambda cost: f"{Decimal(cost):f}"),
    st.integers(-(10**9), 10**9).map(lambda usd: f"{usd}.{'0' * 15}"),
)

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(texts, inner, max_size=2),
    max_leaves=3,
)
user_ids = st.sampled_from(["u", "v", "", "\x01", 1, "1", 1.0, True, "true", None, {"id": 1}, [1]]) | json_values
interventions = st.sampled_from([True, "true", "True", "TRUE", 1, "1", False, "false", None, [True], {"true": True}])
metadata = st.none() | st.one_of(
    st.fixed_dictionaries({}, optional={"user_id": user_ids, "human_intervention": interventions, "model": texts}),
    json_values,
    st.just({"metadata": {"user_id": "nested", "human_intervention": True}}),
).map(json.dumps)


@st.composite
def logs(draw: st.DrawFn, window: DayWindow, agents: list[str | None]) -> Log:
    microsecond = timedelta(microseconds=1)
    edges = [window.start - microsecond, window.start, window.start, window.end - microsecond, window.end]
    within = st.datetimes(window.start.replace(tzinfo=None), window.end.replace(tzinfo=None))
    return Log(
        agent_id=draw(st.sampled_from(agents)),
        status=draw(statuses),
        latency_ms=draw(integers),
        token_count=draw(integers),
        cost_usd=draw(costs),
        error_type=draw(st.none() | texts),
        metadata=draw(metadata),
        timestamp=draw(st.sampled_from(edges) | within.map(lambda moment: moment.replace(tzinfo=UTC))),
    )


@st.composite
def days(draw: st.DrawFn) -> tuple[DayWindow, dict[str, str], list[Log]]:
    window = draw(st.sampled_from(WINDOWS))
    agents = draw(
        st.dictionaries(agent_ids, st.sampled_from(["active", "active", "active", "inactive", ""]), max_size=5)
    )
    return window, agents, draw(st.lists(logs(window, [*agents, "unregistered", None]), max_size=25))


@pytest.fixture
def loose_database(database: Database) -> Database:
    """A database whose upstream tables allow NULL wherever the contract does."""
    execute(
        database,
        "ALTER TABLE agent_execution_logs ALTER COLUMN agent_id DROP NOT NULL, ALTER COLUMN status DROP NOT NULL",
        "ALTER TABLE agent_registry ALTER COLUMN status DROP NOT NULL",
    )
    return database


@pytest.mark.long
@examples(60)
@given(day=days(), include_inactive=st.booleans())
def test_any_day_is_exact_and_running_it_again_changes_nothing(
    loose_database: Database, day: tuple[DayWindow, dict[str, str], list[Log]], include_inactive: bool
) -> None:
    window, agents, logs_of_day = day
    empty(loose_database)
    store_agents(loose_database, agents)
    store_logs(loose_database, logs_of_day)
    assert_exact_twice(loose_database, window, include_inactive=include_inactive)


@examples(30)
@given(data=st.data())
def test_any_correction_is_exact_and_leaves_one_restatement_of_each_changed_row(
    loose_database: Database, data: st.DataObject
) -> None:
    window, agents, before = data.draw(days())
    after = data.draw(st.lists(logs(window, [*agents, None]), min_size=1, max_size=10))
    # A day whose logs all vanished is refused, so one log of no agent stays.
    stays = Log("unregistered", timestamp=window.start)
    empty(loose_database)
    store_agents(loose_database, agents)
    store_logs(loose_database, [stays, *before])
    aggregate(loose_database, window, run_id="before")
    old = metrics_as_json(loose_database)
    kept = data.draw(st.integers(0, len(before)))
    execute(loose_database, "DELETE FROM agent_execution_logs")
    store_logs(loose_database, [stays, *before[:kept], *after])
    published = aggregate(loose_database, window, run_id="after", accept_deleted=True).published
    assert_exact(loose_database, window)
    new = metrics_as_json(loose_database)
    restated = query(loose_database, "SELECT agent_id, old_row, new_row FROM metric_restatements ORDER BY agent_id")
    assert restated == [(agent, old[agent], new[agent]) for agent in sorted(old) if old[agent] != new[agent]]
    assert (published.inserted, published.changed) == (0, len(restated))
    assert published.unchanged == len(old) - len(restated)


@examples(30)
@given(latencies=st.lists(st.integers(-50, 50) | st.integers(-(2**31), 2**31 - 1), min_size=1, max_size=120))
def test_any_latencies_have_postgresqls_percentiles(loose_database: Database, latencies: list[int]) -> None:
    empty(loose_database)
    store_agents(loose_database, {"a": "active"})
    store_logs(loose_database, [Log(latency_ms=latency) for latency in latencies])
    aggregate(loose_database)
    assert_exact(loose_database)


def metrics_as_json(database: Database) -> dict[str, object]:
    rows = query(
        database,
        """SELECT agent_id, to_jsonb(m) - 'agent_id' - 'metric_date' - 'created_at' - 'updated_at'
             FROM agent_performance_metrics AS m""",
    )
    return dict(rows)
