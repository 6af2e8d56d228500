"""What every source of logs must do. Each test runs with PostgreSQL, with files of Parquet, and with rows in memory."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path

import polars as pl
import pytest

from metrics_pipeline.logs.lake_logs import LakeLogs
from metrics_pipeline.logs.source import LogSource, Suspicion
from metrics_pipeline.metrics.calculator import agents_with_irregular_costs, merge_partials
from metrics_pipeline.metrics.catalog import EXACT_COSTS_SCHEMA, PARTIALS_SCHEMA
from metrics_pipeline.metrics.conservation import AgentLogs
from metrics_pipeline.metrics.reconciliation import DayState
from metrics_pipeline.metrics.windows import day_window
from metrics_pipeline.pipeline.aggregation import AggregatedDay, AggregationOptions, aggregate_days
from metrics_pipeline.pipeline.opening import open_logs
from metrics_pipeline.pipeline.watching import USUAL_EFFORT
from metrics_pipeline.postgres.database import Database
from metrics_pipeline.store.publishing import Reason
from metrics_pipeline_tests.days import (
    DAY,
    NOON,
    WINDOW,
    Log,
    assert_exact,
    empty,
    execute,
    judged,
    store_agents,
    store_logs,
)
from metrics_pipeline_tests.examples import variants
from metrics_pipeline_tests.logs.lakes import write_parquet
from metrics_pipeline_tests.logs.memory_logs import MemoryLogs

NEXT_DAY = day_window(DAY + timedelta(days=1), "UTC")
AGENTS = {"a": "active", "b": "active", "retired": "inactive"}
LOGS = [
    Log("a", "success", 100, 10, "0.5", None, '{"user_id": "u", "human_intervention": true}', WINDOW.start),
    Log("a", "failed", 200, None, "0.25", "timeout", '{"user_id": "v"}'),
    Log("a", "failed", 200, 5, "0.0000000005", None, '{"user_id": "u"}', WINDOW.end - timedelta(microseconds=1)),
    Log("a", "running", -7, 3, None, "not of a failure", None),
    Log("b", "success", None, -1, "-0.125", None, '{"user_id": "u"}'),
    Log("b", "done", 5, 1, "NaN", None, '{"user_id": 7}'),
    Log("retired", "success", 1, 1, "1", None, None),
    Log("a", "success", 9, 9, "9", None, None, WINDOW.end),
    Log("b", "success", 8, 8, "8", None, None, WINDOW.start - timedelta(microseconds=1)),
]

Fill = Callable[[Mapping[str, str], Sequence[Log]], LogSource]


@pytest.fixture(params=["postgres", "parquet", "memory"])
def fill(request: pytest.FixtureRequest, database: Database, tmp_path: Path) -> Fill:
    """Gives a source these agents and logs. They are stored in PostgreSQL in any case, for the oracle."""

    def filled(agents: Mapping[str, str], logs: Sequence[Log]) -> LogSource:
        empty_of_logs(database)
        store_agents(database, agents)
        store_logs(database, logs)
        if request.param == "parquet":
            return LakeLogs(write_parquet(tmp_path, logs), {})
        return MemoryLogs(agents, logs) if request.param == "memory" else open_logs(database)

    return filled


def empty_of_logs(database: Database) -> None:
    execute(database, "DELETE FROM agent_registry", "DELETE FROM agent_execution_logs")


def test_a_day_is_delivered_in_parts_that_hold_each_of_its_logs_once(database: Database, fill: Fill) -> None:
    source = fill(AGENTS, LOGS)
    with database.snapshot() as snapshot:
        day = source.read_day(snapshot, WINDOW, include_inactive_agents=False)
        everybody = source.read_day(snapshot, WINDOW, include_inactive_agents=True)
    # User ids may be categories, which are texts that are kept once.
    assert day.partials.cast({"user_ids": pl.List(pl.String)}).schema == PARTIALS_SCHEMA
    assert day.partials.schema["user_ids"] in (pl.List(pl.String), pl.List(pl.Categorical))
    assert day.exact_costs.schema == EXACT_COSTS_SCHEMA
    assert day.kind == source.fingerprint_kinds[0]
    assert day.taken_at.tzinfo is not None
    assert (sorted(day.agents), sorted(everybody.agents)) == (["a", "b"], ["a", "b", "retired"])
    assert day.logs == 7
    executions = day.partials.group_by("agent_id").agg(pl.col("total_executions").sum()).sort("agent_id")
    assert executions.rows() == [("a", 4), ("b", 2), ("retired", 1)]
    assert agents_with_irregular_costs(day.partials) == ["a", "b"]
    costs = day.exact_costs.filter(pl.col("agent_id").is_not_null()).sort("agent_id").rows()
    # 750,000,000.5 nano-dollars over 4 logs is 187,500,000.125; -125,000,000 over 2.
    assert costs == [("a", 750_000_001, 187_500_000, 750_000_000, 0), ("b", -125_000_000, -62_500_000, -125_000_000, 1)]


def test_the_fingerprints_of_days_are_those_that_follow_from_reading_them(database: Database, fill: Fill) -> None:
    source = fill(AGENTS, LOGS)
    windows = [day_window(DAY + timedelta(days=offset), "UTC") for offset in (-1, 0, 1, 3)]
    kind = source.fingerprint_kinds[0]
    with database.snapshot() as snapshot:
        found = source.fingerprints(snapshot, windows, kind)
        days = {window: source.read_day(snapshot, window, include_inactive_agents=False) for window in windows}
        assert source.fingerprints(snapshot, [], kind) == {}
        assert source.fingerprints(snapshot, windows[1:2], kind) == {DAY: found[DAY]}
    assert found == {
        window.metric_date: merge_partials(day.partials).fingerprint(day.exact_costs, kind)
        for window, day in days.items()
    }
    assert [fingerprint.logs for fingerprint in found.values()] == [1, 7, 1, 0]
    assert {fingerprint.kind for fingerprint in found.values()} == {kind}


@pytest.mark.parametrize(
    "change",
    variants(
        [
            {"agent_id": "b"},
            {"status": "queued"},
            {"latency_ms": 101},
            {"token_count": 11},
            {"cost_usd": "0.6"},
            {"metadata": '{"user_id": "w", "human_intervention": true}'},
            {"metadata": '{"user_id": "u"}'},
        ]
    ),
)
def test_a_value_that_was_corrected_changes_the_fingerprint(
    database: Database, fill: Fill, change: dict[str, object]
) -> None:
    def fingerprint(logs: Sequence[Log]) -> object:
        source = fill(AGENTS, logs)
        with database.snapshot() as snapshot:
            return source.fingerprints(snapshot, [WINDOW], source.fingerprint_kinds[0])[DAY]

    assert fingerprint(LOGS) == fingerprint(LOGS[::-1])
    assert fingerprint(LOGS) != fingerprint([replace(LOGS[0], **change), *LOGS[1:]])


def test_logs_and_costs_of_each_agent_are_told_by_day(database: Database, fill: Fill) -> None:
    source = fill(AGENTS, [*LOGS, Log("nobody", cost_usd="2")])
    with database.snapshot() as snapshot:
        found = source.logs_by_agent(snapshot, [WINDOW, NEXT_DAY])
        assert source.logs_by_agent(snapshot, []) == []
    assert sorted(found, key=lambda each: (each.metric_date, each.agent_id)) == [
        AgentLogs(DAY, "a", 4, 750_000_000, 750_000_001),
        AgentLogs(DAY, "b", 2, -125_000_000, -125_000_000),
        AgentLogs(DAY, "nobody", 1, 2_000_000_000, 2_000_000_000),
        AgentLogs(DAY, "retired", 1, 1_000_000_000, 1_000_000_000),
        AgentLogs(NEXT_DAY.metric_date, "a", 1, 9_000_000_000, 9_000_000_000),
    ]


def test_suspicious_values_are_counted_and_the_newest_shown(database: Database, fill: Fill) -> None:
    later = Log("late", latency_ms=-1, cost_usd="1e11", timestamp=NOON + timedelta(minutes=1))
    source = fill(AGENTS, [*LOGS, later])
    with database.snapshot() as snapshot:
        quality = source.quality(snapshot, [WINDOW], future_from=NOON, examples=1)
        nothing = source.quality(snapshot, [], future_from=NEXT_DAY.end, examples=1)
    assert quality.logs == 8
    assert {kind: found.logs for kind, found in quality.suspicions.items()} == {
        "negative_latency": 2,
        "negative_tokens": 1,
        "negative_cost": 1,
        "cost_not_a_number": 1,
        "cost_of_12_digits_or_more": 1,
        "unknown_status": 1,
        "in_the_future": 3,
    }
    [example] = quality.suspicions["negative_latency"].examples
    assert (example.agent_id, example.value) == ("late", "-1")
    assert quality.suspicions["cost_not_a_number"].examples[0].value == "NaN"
    assert nothing.logs == 0
    assert all(found == Suspicion(0, []) for found in nothing.suspicions.values())


def test_the_first_log_is_the_oldest_one(database: Database, fill: Fill) -> None:
    with database.snapshot() as snapshot:
        assert fill(AGENTS, LOGS).first_log_at(snapshot) == WINDOW.start - timedelta(microseconds=1)
    with database.snapshot() as snapshot:
        assert fill(AGENTS, []).first_log_at(snapshot) is None


def test_days_of_any_source_are_stored_as_the_oracle_has_them_and_a_correction_makes_one_dirty(
    database: Database, fill: Fill
) -> None:
    windows = {str(window.metric_date): window for window in (WINDOW, NEXT_DAY)}

    def run(source: LogSource) -> list[tuple[int, int, int]]:
        days = aggregate_days(database, source, windows, AggregationOptions(), run_id="a run", reason=Reason.MANUAL)
        published = [day.published for _, day in days if isinstance(day, AggregatedDay)]
        for window in windows.values():
            assert_exact(database, window)
        return [(each.inserted, each.changed, each.unchanged) for each in published]

    def states(source: LogSource) -> list[DayState]:
        return [verdict.state for verdict in judged(database, *days, logs=source)]

    days: list[date] = [DAY - timedelta(days=1), *(window.metric_date for window in windows.values())]
    source = fill(AGENTS, LOGS)
    assert states(source) == [DayState.MISSING] * 3
    assert run(source) == [(2, 0, 0), (2, 0, 0)]
    assert run(source) == [(0, 0, 2), (0, 0, 2)]
    assert states(source) == [DayState.MISSING, DayState.AGGREGATED, DayState.AGGREGATED]
    corrected = fill(AGENTS, [replace(LOGS[0], cost_usd="0.75"), *LOGS[1:]])
    assert states(corrected) == [DayState.MISSING, DayState.DIRTY, DayState.AGGREGATED]
    assert run(corrected) == [(0, 1, 1), (0, 0, 2)]


def test_a_day_stored_from_one_source_is_not_called_dirty_by_another(database: Database) -> None:
    empty(database)
    store_agents(database, AGENTS)
    store_logs(database, LOGS)
    memory, postgres = MemoryLogs(AGENTS, LOGS), open_logs(database)
    list(aggregate_days(database, memory, {"day": WINDOW}, AggregationOptions(), run_id="a run", reason=Reason.MANUAL))
    [verdict] = judged(database, DAY, logs=postgres, effort=USUAL_EFFORT)
    assert (verdict.state, verdict.is_outdated) == (DayState.AGGREGATED, True)
    assert verdict.reason == "not compared: its fingerprint is version 1 of memory"
