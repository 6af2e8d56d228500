"""Days by the values of dimensions: equal to the oracle, adding up to the agents' rows, replaced as a whole."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from itertools import chain
from typing import Any

import pytest

from metrics_pipeline.errors import ContractError, InvariantError
from metrics_pipeline.log_files.sample_logs import store_sample
from metrics_pipeline.logs import slices
from metrics_pipeline.metrics import dimensions
from metrics_pipeline.metrics.dimensions import parse_dimensions
from metrics_pipeline.metrics.reconciliation import DayState
from metrics_pipeline.metrics.validation import validate_breakdown
from metrics_pipeline.metrics.windows import day_window
from metrics_pipeline.pipeline.aggregation import AggregatedDay, AggregationOptions, compute_day, store_day
from metrics_pipeline.pipeline.opening import open_logs
from metrics_pipeline.postgres.database import Database
from metrics_pipeline.sample.agents import SampleSpec
from metrics_pipeline.store.closing import clear_day
from metrics_pipeline.store.forgetting import forget_user
from metrics_pipeline.store.publishing import Reason
from metrics_pipeline.store.windows import Grouping, read_values, stored_dimensions
from metrics_pipeline_tests.days import (
    DAY,
    WINDOW,
    Log,
    assert_exact,
    execute,
    judged,
    query,
    store_agents,
    store_logs,
    written_rows,
)
from metrics_pipeline_tests.oracle import expected_values, stored_values

NEXT = day_window(DAY + timedelta(days=1), "UTC")
MODEL = ("metadata->>'model'", "jsonb_typeof(metadata::jsonb->'model') IN ('array', 'object')")
VERSION = ("metadata->'release'->>'v'", "jsonb_typeof(metadata::jsonb->'release'->'v') IN ('array', 'object')")
ITEM = ("metadata #>> '{release,0}'", "false")
LATENCY = ("latency_ms::text", "false")
LOGS = [
    Log("a", "success", 100, 10, "0.5", None, '{"user_id": "u", "model": "m", "human_intervention": true}'),
    Log("a", "failed", 200, None, "0.25", "timeout", '{"user_id": "v", "model": "(other)", "release": {"v": 1.0}}'),
    Log("a", "failed", 200, 5, None, None, '{"user_id": "u", "model": ["m"], "release": {"v": {"x": 1}}}'),
    Log("a", "running", -7, 3, None, "not of a failure", None),
    Log("a", "success", 7, 3, "-1", None, '{"user_id": "", "model": "", "release": [1]}'),
    Log("a", "success", None, 1, "1", None, '{"model": "[m]", "release": {"v": null}}'),
    Log("b", "success", None, -1, "-0.125", None, '{"user_id": "u", "model": "' + "ß" * 128 + '"}'),
    Log("b", "success", 2147483647, 2147483647, "1", None, '{"user_id": "u", "model": "' + "ß" * 129 + '"}'),
    Log("b", "done", -2147483648, -2147483648, None, None, '{"user_id": 7, "model": "' + "ß" * 129 + 'x"}'),
    # The characters with which the statement marks values that are none, a list, or a text that looks like these.
    *(Log("b", metadata=rf'{{"model": "\u000{mark}"}}') for mark in (1, 2, 3)),
    Log("b", metadata=r'{"model": "\u0003m"}'),
    Log("retired", "success", 1, 1, "1", None, '{"model": "m"}'),
]


def aggregate(database: Database, declared: str, run_id: str = "a run") -> AggregatedDay:
    logs = open_logs(database, parse_dimensions(declared) if declared else ())
    computed = compute_day(database, logs, WINDOW, AggregationOptions())
    return store_day(database, computed, run_id=run_id, reason=Reason.MANUAL)


def aggregate_next_day(database: Database) -> None:
    """Without a dimension."""
    computed = compute_day(database, open_logs(database), NEXT, AggregationOptions())
    store_day(database, computed, run_id="a run", reason=Reason.MANUAL)


def assert_values_exact(database: Database, **dimensions: tuple[str, str]) -> None:
    assert_exact(database)
    for name, (value, is_list) in dimensions.items():
        with database.engine.connect() as connection:
            expected = expected_values(connection, WINDOW.start, WINDOW.end, value, is_list)
            assert stored_values(connection, DAY, name) == expected


def states(database: Database, declared: str) -> list[DayState]:
    source = open_logs(database, parse_dimensions(declared) if declared else ())
    return [verdict.state for verdict in judged(database, DAY, logs=source)]


@pytest.fixture
def with_logs(database: Database) -> Database:
    store_agents(database, {"a": "active", "b": "active", "idle": "active", "retired": "inactive"})
    store_logs(database, LOGS)
    return database


@pytest.mark.parametrize("type_", ["jsonb", "json"])
def test_every_value_has_the_metrics_that_the_oracle_computes(with_logs: Database, type_: str) -> None:
    execute(with_logs, f"ALTER TABLE agent_execution_logs ALTER metadata TYPE {type_}")
    aggregate(with_logs, "model,version=metadata.release.v,item=metadata.release.0,latency=latency_ms")
    assert_values_exact(with_logs, model=MODEL, version=VERSION, item=ITEM, latency=LATENCY)
    kinds = query(
        with_logs, "SELECT value_kind, count(*) FROM agent_dimension_metrics WHERE dimension = 'model' GROUP BY 1"
    )
    assert sorted(kinds) == [("list", 1), ("none", 1), ("value", 11)]
    assert query(with_logs, "SELECT dimensions FROM metric_day_ledger") == [
        ("model=metadata.model,version=metadata.release.v,item=metadata.release.0,latency=latency_ms",)
    ]


def test_a_json_value_that_text_cannot_hold_is_counted_with_a_replacement(with_logs: Database) -> None:
    execute(with_logs, "ALTER TABLE agent_execution_logs ALTER metadata TYPE json")
    store_logs(with_logs, [Log("b", metadata=r'{"model": "x\u0000", "n": {"k": ["\u0000"]}}')])
    # What #>> gives of a key that repeats, which days that are stored already have in their fingerprint.
    store_logs(with_logs, [Log("b", metadata='{"n": {"k": "first"}, "n": {}}')])
    aggregate(with_logs, "model,k=metadata.n.k")
    found = query(with_logs, "SELECT dimension, value FROM agent_dimension_metrics WHERE agent_id = 'b'")
    assert {("model", "x�"), ("k", "(list)"), ("k", "first")} <= set(found)


def test_generated_logs_of_several_slices_are_exact_and_a_second_run_changes_nothing(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slices, "_DIVIDED_FROM_LOGS", 1_000)
    monkeypatch.setattr(dimensions, "_LOGS_AT_ONCE", 2_000)
    store_sample(database, SampleSpec(agents=8, logs_per_day=6_000), [DAY], "UTC", lambda *_: None)
    execute(database, "ANALYZE agent_execution_logs")
    declared = "model,task,user=metadata.user_id"
    aggregate(database, declared)
    assert_values_exact(database, model=MODEL, user=("metadata->>'user_id'", "false"))
    # 50 users and the row of all others.
    assert query(database, "SELECT max(n) FROM (SELECT count(*) AS n FROM agent_dimension_metrics GROUP BY agent_id,"
                           " dimension) AS counts") == [(51,)]  # fmt: skip
    tables = ("agent_dimension_metrics", "agent_dimension_distributions", "metric_restatements")
    before = written_rows(database, *tables)
    aggregate(database, declared)
    assert written_rows(database, *tables) == before


def test_of_equally_frequent_values_those_that_sort_first_are_kept(database: Database) -> None:
    store_agents(database, {"a": "active"})
    store_logs(database, [Log(metadata=f'{{"model": "m{number:02}"}}', cost_usd="1") for number in range(53)])
    store_logs(database, [Log(metadata='{"model": "m52"}', cost_usd="1")])
    aggregate(database, "model")
    rows = query(
        database,
        "SELECT value_kind, value, total_executions, total_cost_usd, merged_values FROM agent_dimension_metrics"
        " WHERE value_kind = 'other' OR value >= 'm48' ORDER BY 2",
    )
    assert rows == [("other", "(other)", 3, 3, 3), ("value", "m48", 1, 1, 1), ("value", "m52", 2, 2, 1)]


def test_costs_finer_than_a_nano_dollar_still_add_up_to_the_agents_cost(database: Database) -> None:
    store_agents(database, {"a": "active", "b": "active", "c": "active"})
    half = "0.0000000005"
    store_logs(database, [Log("a", cost_usd=half, metadata=f'{{"model": "{number}"}}') for number in range(60)])
    store_logs(database, [Log("a", cost_usd="NaN"), Log("b", cost_usd="-" + half), Log("b", cost_usd="0.3")])
    # A value of whole nano-dollars only, with a cost below 0, behind a value that is rounded up.
    store_logs(database, [Log("c", cost_usd=half, metadata='{"model": "1"}')])
    store_logs(database, [Log("c", cost_usd="-0.000000001", metadata='{"model": "2"}')])
    aggregate(database, "model")
    assert_exact(database)
    by_value = "SELECT agent_id, sum(total_cost_usd), count(*) FROM agent_dimension_metrics GROUP BY 1 ORDER BY 1"
    assert query(database, by_value) == [
        ("a", Decimal("3E-8"), 51),
        ("b", Decimal("0.3"), 1),
        ("c", Decimal("-1E-9"), 2),
    ]
    with database.engine.connect() as connection:
        expected = expected_values(connection, WINDOW.start, WINDOW.end, *MODEL)
        stored = stored_values(connection, DAY, "model")
    for keys, row in expected.items():
        assert abs(row.pop("total_cost_usd") - stored[keys].pop("total_cost_usd")) <= Decimal("1e-9")
    assert stored == expected


def test_costs_that_64_bits_of_nano_dollars_do_not_hold_are_exact(database: Database) -> None:
    store_agents(database, {"a": "active", "b": "active", "c": "active"})
    for cost, model in (("9000000000", "m"), ("9223372036.854775808", "m"), ("-20000000000.000000001", "n")):
        store_logs(database, [Log("a", cost_usd=cost, metadata=f'{{"model": "{model}"}}')])
    # Of the 64 bits, five hold something else.
    store_logs(database, [Log("b", cost_usd="-280000000"), Log("c", cost_usd="289000000")])
    aggregate(database, "model")
    assert_values_exact(database, model=MODEL)


def test_a_corrected_value_makes_the_day_dirty_and_replaces_the_rows_of_its_values(with_logs: Database) -> None:
    aggregate(with_logs, "model", "first")
    assert states(with_logs, "model") == [DayState.AGGREGATED]
    execute(
        with_logs, """UPDATE agent_execution_logs SET metadata = metadata || '{"model": "n"}' WHERE latency_ms = 100"""
    )
    assert states(with_logs, "model") == [DayState.DIRTY]
    assert states(with_logs, "") == [DayState.AGGREGATED]
    aggregate(with_logs, "model", "second")
    assert_values_exact(with_logs, model=MODEL)
    restated = query(with_logs, "SELECT run_id, agent_id, breakdown->>'value', new_row FROM metric_restatements")
    assert restated == [("second", "a", "m", None)]


@pytest.mark.parametrize(
    "tampering",
    [
        "DELETE FROM agent_dimension_metrics WHERE value = 'm'",
        "DELETE FROM agent_dimension_metrics",
        "UPDATE agent_dimension_metrics SET p99_latency_ms = p99_latency_ms + 1 WHERE value = 'm'",
    ],
)
def test_a_day_whose_rows_by_value_somebody_changed_is_damaged_and_healed_by_a_run(
    with_logs: Database, tampering: str
) -> None:
    aggregate(with_logs, "model")
    execute(with_logs, tampering)
    (verdict,) = judged(with_logs, DAY, logs=open_logs(with_logs, parse_dimensions("model")))
    assert (verdict.state, verdict.needs_run) == (DayState.DAMAGED, True)
    assert verdict.reason == "its rows by value were altered after they were stored"
    aggregate(with_logs, "model")
    assert states(with_logs, "model") == [DayState.AGGREGATED]
    assert_values_exact(with_logs, model=MODEL)
    # As a version before revision 0013 stored it.
    execute(with_logs, tampering, "UPDATE metric_day_ledger SET breakdown_digest = NULL")
    assert states(with_logs, "model") == [DayState.AGGREGATED]


def test_declaring_and_withdrawing_a_dimension_makes_no_day_dirty(with_logs: Database) -> None:
    aggregate(with_logs, "")
    assert states(with_logs, "model,task") == [DayState.AGGREGATED]
    aggregate(with_logs, "model,task")
    assert states(with_logs, "task,version=metadata.release.v") == [DayState.AGGREGATED]
    assert states(with_logs, "model=metadata.task") == [DayState.AGGREGATED]
    aggregate(with_logs, "")
    assert query(with_logs, "SELECT dimensions FROM metric_day_ledger") == [(None,)]
    assert query(with_logs, "SELECT FROM agent_dimension_metrics") == []
    assert query(with_logs, "SELECT FROM agent_dimension_distributions") == []


def test_a_cleared_day_keeps_no_value(with_logs: Database) -> None:
    aggregate(with_logs, "model")
    clear_day(with_logs, WINDOW)
    assert query(with_logs, "SELECT FROM agent_dimension_metrics") == []
    assert query(with_logs, "SELECT FROM agent_dimension_distributions") == []


def test_a_forgotten_user_is_in_no_distribution_of_a_value(with_logs: Database) -> None:
    aggregate(with_logs, "model")
    tables = ("agent_day_distributions", "agent_dimension_distributions")
    users = " UNION ALL ".join(f"SELECT user_hashes FROM {table}" for table in tables)
    before = [hashes for (hashes,) in query(with_logs, users)]
    assert forget_user(with_logs, "u", None).days == (DAY,)
    after = [hashes for (hashes,) in query(with_logs, users)]
    assert sorted(map(len, after)) == sorted(map(len, before))
    assert len({*chain(*before)} - {*chain(*after)}) == 1
    assert forget_user(with_logs, "u", None).days == ()


def test_a_breakdown_that_does_not_add_up_is_refused(with_logs: Database) -> None:
    computed = compute_day(with_logs, open_logs(with_logs, parse_dimensions("model")), WINDOW, AggregationOptions())
    rows, agents = computed.breakdown.metrics, computed.metrics.metrics
    validate_breakdown(agents, rows, ["model"], WINDOW)
    wrong: Sequence[tuple[Any, str]] = [
        (rows.clear(), "total_executions of 'a' by model"),
        (rows.filter(rows["agent_id"] == "a"), "total_executions of 'b' by model"),
        (rows.with_columns(total_cost_usd=rows["total_cost_usd"] + Decimal("1e-9")), "total_cost_usd of 'a' by model"),
        (rows.with_columns(total_tokens=rows["total_tokens"] + 1), "total_tokens of 'a' by model"),
    ]
    for broken, words in wrong:
        with pytest.raises(InvariantError, match=words):
            validate_breakdown(agents, broken, ["model"], WINDOW)


@pytest.mark.parametrize(
    ("declared", "words"),
    [
        ("model=no_such", "model=no_such: there is no column no_such"),
        ("model=tags", r"model=tags: the column has type text\[\], not a single value"),
    ],
)
def test_a_column_that_cannot_be_a_dimension_is_named(with_logs: Database, declared: str, words: str) -> None:
    execute(with_logs, "ALTER TABLE agent_execution_logs ADD tags text[]")
    with pytest.raises(ContractError, match=words):
        open_logs(with_logs, parse_dimensions(declared))


def test_logs_outside_of_the_day_or_without_an_active_agent_are_in_no_value(with_logs: Database) -> None:
    late = WINDOW.end - timedelta(microseconds=1)
    execute(with_logs, "ALTER TABLE agent_execution_logs ALTER agent_id DROP NOT NULL")
    store_logs(with_logs, [replace(LOGS[0], timestamp=WINDOW.end), replace(LOGS[0], timestamp=late), Log(None)])
    aggregate(with_logs, "model")
    assert_values_exact(with_logs, model=MODEL)


def test_a_window_by_value_has_the_metrics_of_all_logs_of_each_value_and_names_days_without_it(
    with_logs: Database,
) -> None:
    aggregate(with_logs, "model")
    aggregate_next_day(with_logs)
    with with_logs.snapshot() as snapshot:
        assert stored_dimensions(snapshot) == ["model"]
        found = read_values(snapshot, DAY, NEXT.metric_date, "model")
        per_agent = read_values(snapshot, DAY, DAY, "model", by=[Grouping.AGENT, Grouping.MONTH], agent_id="a")
        none = read_values(snapshot, DAY, DAY, "model", value="(none)")
        spelled = read_values(snapshot, DAY, DAY, "model", value="m")
    assert found.height == 13
    rows = {row["value"]: row for row in found.to_dicts()}
    assert [rows["m"][name] for name in ("total_executions", "p95_latency_ms", "unique_users")] == [1, 100, 1]
    assert rows["m"]["total_cost_usd"] == Decimal("0.5")
    assert (rows["m"]["days_without_dimension"], rows["m"]["is_complete"]) == ([NEXT.metric_date], True)
    assert per_agent["total_executions"].sum() == 6
    assert none.select("value_kind", "total_executions").rows() == [("none", 1)]
    assert spelled.select("value_kind", "total_executions").rows() == [("value", 1)]
