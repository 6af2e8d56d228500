"""late_logs_sensor: what it finds, what it asks for and how often, and that its runs repair the days."""

import re
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.storage.tags import (
    ASSET_PARTITION_RANGE_END_TAG,
    ASSET_PARTITION_RANGE_START_TAG,
    PARTITION_NAME_TAG,
)

from metrics_pipeline.definitions import build_defs
from metrics_pipeline.errors import TransientError
from metrics_pipeline.metrics.windows import day_window
from metrics_pipeline.orchestration import reconciling
from metrics_pipeline.postgres.database import Database
from metrics_pipeline.postgres.urls import DatabaseUrl
from metrics_pipeline_tests.days import Log, aggregate, execute, query, store_agents, store_logs, written_rows

from .nights import Nights, asked, days_of, waiting_run
from .runs import assert_equal_to_oracle, partitions

SATURDAY, SUNDAY = DAYS = [date(2025, 7, 12), date(2025, 7, 13)]
NOON = "2025-07-14T12:00:00+00:00"
SEAL = "UPDATE metric_day_ledger SET raw_pruned_at = now(), raw_pruned_logs = 3 WHERE metric_date = '2025-07-12'"


def log_of(day: date, agent: str, status: str, cost: str) -> Log:
    return Log(agent, status, 100, 10, cost, timestamp=day_window(day, "UTC").start + timedelta(hours=5))


def store(database: Database) -> None:
    """Two stored days of two agents; agent a's second log of each is still running, and without a cost."""
    store_agents(database, {"a": "active", "b": "active"})
    for day in DAYS:
        store_logs(database, [log_of(day, "a", "success", "1"), log_of(day, "a", "running", "NaN")])
        store_logs(database, [log_of(day, "b", "failed", "0.5")])
        aggregate(database, day_window(day, "UTC"), run_id="nightly")


@pytest.fixture
def nights(stored: Database, tmp_path: Path) -> Iterator[Nights]:
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        nights = Nights(stored, instance, {"start_date": SATURDAY})
        nights.show(*DAYS)
        yield nights


def correct(nights: Nights, cost: str, day: date = SATURDAY) -> None:
    statement = """UPDATE agent_execution_logs SET cost_usd = CAST(:cost AS numeric)
                    WHERE "timestamp"::date = :day AND agent_id = 'b'"""
    execute(nights.database, statement, cost=cost, day=day)


def run_key(nights: Nights) -> str | None:
    (request,) = nights.sensor(NOON).run_requests
    return request.run_key


def test_it_runs_every_quarter_of_an_hour_by_default() -> None:
    sensor = build_defs().resolve_sensor_def("late_logs_sensor")
    assert sensor.default_status is dg.DefaultSensorStatus.RUNNING
    assert sensor.minimum_interval_seconds == 900


@pytest.mark.parametrize(
    ("change", "difference", "restated"),
    [
        (
            """INSERT INTO agent_execution_logs (agent_id, "timestamp", status, latency_ms, cost_usd)
               VALUES ('b', '2025-07-12 23:59:59.999999Z', 'success', 7, 0.000000001)""",
            "logs +1, successful +1, latency +7 ms, cost +0.000000001 USD",
            {"b"},
        ),
        (
            """UPDATE agent_execution_logs SET status = 'success', cost_usd = 2
                WHERE status = 'running' AND "timestamp" < '2025-07-13'""",
            "successful +1, cost +2.00 USD",
            {"a"},
        ),
        (
            """UPDATE agent_execution_logs SET metadata = '{"user_id": "u"}'
                WHERE status = 'failed' AND "timestamp" < '2025-07-13'""",
            "values corrected without a change of any total",
            {"b"},
        ),
        (
            """INSERT INTO agent_execution_logs (agent_id, "timestamp", status)
               VALUES ('nobody', '2025-07-12', 'running')""",
            "logs +1",
            set(),
        ),
    ],
    ids=["late", "corrected in place", "corrected without a change of totals", "late, of no agent"],
)
def test_a_change_is_found_told_and_healed(
    nights: Nights, change: str, difference: str, restated: set[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert nights.sensor(NOON).skip_message == "2 days: 2 aggregated."
    execute(nights.database, change)
    capsys.readouterr()
    tick = nights.sensor(NOON)
    assert asked(tick) == ["2025-07-12"]
    assert f"2 days: 1 aggregated, 1 dirty; 2025-07-12 is dirty ({difference})." in capsys.readouterr().err

    (result,) = nights.launch(*tick.run_requests)
    assert result.success
    assert_equal_to_oracle(nights.database, *DAYS)
    restatements = query(nights.database, "SELECT agent_id, metric_date, reason, run_id FROM metric_restatements")
    assert restatements == [(agent, SATURDAY, "late logs", result.run_id) for agent in restated]
    assert nights.sensor(NOON).skip_message == "2 days: 2 aggregated."


@pytest.mark.parametrize(
    "damage",
    [
        "DELETE FROM agent_performance_metrics",
        # No sum of the ledger shows it.
        "UPDATE agent_performance_metrics SET avg_latency_ms = avg_latency_ms + 1, unique_users = 7",
    ],
)
def test_a_day_whose_stored_rows_were_deleted_or_altered_is_asked_for_and_healed(nights: Nights, damage: str) -> None:
    execute(nights.database, f"{damage} WHERE metric_date = '2025-07-12' AND agent_id = 'b'")
    tick = nights.sensor(NOON)
    assert asked(tick) == ["2025-07-12"]
    (result,) = nights.launch(*tick.run_requests)
    assert result.success
    assert_equal_to_oracle(nights.database, *DAYS)
    assert nights.sensor(NOON).skip_message == "2 days: 2 aggregated."


def test_a_day_that_lost_logs_is_named_and_not_asked_for(nights: Nights) -> None:
    deleted = """DELETE FROM agent_execution_logs WHERE status = 'failed' AND "timestamp" < '2025-07-13'"""
    execute(nights.database, deleted)
    tick = nights.sensor(NOON)
    assert asked(tick) == []
    assert "1 shrunk; 2025-07-12 is shrunk (1 of 3 aggregated logs are gone: 'b' has 0 of 1 left)" in str(
        tick.skip_message
    )


def test_each_state_of_a_day_is_asked_for_once(nights: Nights) -> None:
    correct(nights, "1")
    first = run_key(nights)
    assert first is not None
    assert re.fullmatch(r"2025-07-12@[0-9a-f]{16}", first)
    assert run_key(nights) == first
    correct(nights, "2")
    second = run_key(nights)
    correct(nights, "1")
    assert run_key(nights) == first != second

    # The day is stored with the corrected logs. Then they go back, and forth again: states that are asked for again.
    nights.launch(*nights.sensor(NOON).run_requests)
    seen = {first, second}
    for cost in ("0.5", "1", "0.5"):
        correct(nights, cost)
        (request,) = nights.sensor(NOON).run_requests
        assert request.run_key not in seen
        seen.add(request.run_key)
        nights.launch(request)
        assert_equal_to_oracle(nights.database, *DAYS)


def test_adjacent_days_are_one_run_that_heals_each_of_them(nights: Nights) -> None:
    for day in DAYS:
        correct(nights, "9", day)
    tick = nights.sensor(NOON)
    (request,) = tick.run_requests
    assert days_of(request) == DAYS
    assert nights.sensor(NOON).run_requests[0].run_key == request.run_key
    (result,) = nights.launch(request)
    assert result.success
    assert_equal_to_oracle(nights.database, *DAYS)
    assert partitions(nights.instance) == ({"2025-07-12", "2025-07-13"}, set())
    assert nights.sensor(NOON).skip_message == "2 days: 2 aggregated."


def test_of_adjacent_days_only_those_that_the_run_refused_are_not_asked_for_again(nights: Nights) -> None:
    for day, cost in zip(DAYS, ("1e11", "9"), strict=True):
        correct(nights, cost, day)
    (refused,) = nights.launch(*nights.sensor(NOON).run_requests)
    assert not refused.success
    assert_equal_to_oracle(nights.database, SUNDAY)
    tick = nights.sensor(NOON)
    assert asked(tick) == []
    assert f"2025-07-12 is not asked for: run {refused.run_id} (http" in tick.skip_message

    # Both are refused by one run.
    correct(nights, "1e11", SUNDAY)
    correct(nights, "2e11", SATURDAY)
    (refused,) = nights.launch(*nights.sensor(NOON).run_requests)
    said = nights.sensor(NOON).skip_message
    assert all(f"{day} is not asked for: run {refused.run_id} (http" in said for day in DAYS)


def test_a_day_that_is_being_written_is_left_alone_until_its_run_has_ended(nights: Nights) -> None:
    for day in DAYS:
        correct(nights, "3", day)
    a_range = {ASSET_PARTITION_RANGE_START_TAG: "2025-07-10", ASSET_PARTITION_RANGE_END_TAG: "2025-07-12"}
    run = waiting_run(nights.instance, dg.DagsterRunStatus.STARTED, a_range)
    assert asked(nights.sensor(NOON)) == ["2025-07-13"]
    nights.instance.report_run_canceled(run)
    assert asked(nights.sensor(NOON)) == ["2025-07-12", "2025-07-13"]


def test_a_missing_day_is_asked_for_once_it_is_due(nights: Nights) -> None:
    execute(nights.database, "DELETE FROM metric_day_ledger WHERE metric_date = '2025-07-13'")
    early, late = (nights.sensor(f"2025-07-14T{time}:00+00:00") for time in ("02:59", "03:00"))
    found = "2 days: 1 aggregated, 1 missing; 2025-07-13 is missing (never aggregated, 3 logs)."
    assert (asked(early), early.skip_message) == ([], found)
    assert (asked(late), late.cursor) == (["2025-07-13"], found)
    assert nights.launch(*late.run_requests)[0].success
    assert_equal_to_oracle(nights.database, SUNDAY)


def test_a_day_whose_run_was_cancelled_is_asked_for_again_and_one_that_a_run_refused_is_not(nights: Nights) -> None:
    correct(nights, "1e11")
    (first,) = nights.sensor(NOON).run_requests
    waiting_run(nights.instance, dg.DagsterRunStatus.CANCELED, first.tags)
    (second,) = nights.sensor(NOON).run_requests
    assert (first.run_key, second.run_key) == (second.run_key.removesuffix("#1"), f"{first.run_key}#1")

    # The cost is more than the column holds.
    (refused,) = nights.launch(second)
    assert not refused.success
    tick = nights.sensor(NOON)
    assert asked(tick) == []
    assert f"2025-07-12 is not asked for: run {refused.run_id} (http" in tick.skip_message
    assert "`metrics-pipeline seal --date 2025-07-12`" in tick.skip_message


def test_a_partition_that_is_not_green_although_its_day_is_stored_is_reported_again(nights: Nights) -> None:
    correct(nights, "3")
    execute(nights.database, SEAL)
    for day in DAYS:
        failed = waiting_run(nights.instance, dg.DagsterRunStatus.STARTED, {PARTITION_NAME_TAG: day.isoformat()})
        nights.instance.report_run_failed(failed)
    before = written_rows(nights.database, "agent_performance_metrics")
    for tick in (nights.schedule(NOON), nights.sensor(NOON)):
        assert asked(tick) == ["2025-07-12", "2025-07-13"]
    assert all(result.success for result in nights.launch(*tick.run_requests))
    assert partitions(nights.instance) == ({"2025-07-12", "2025-07-13"}, set())
    assert written_rows(nights.database, "agent_performance_metrics") == before
    assert nights.sensor(NOON).skip_message == "2 days: 1 aggregated, 1 sealed."


def test_days_beyond_the_look_back_window_are_not_looked_at(nights: Nights) -> None:
    correct(nights, "3")
    nights.settings["lookback_days"] = 1
    assert nights.sensor(NOON).skip_message == "1 day: 1 aggregated."
    nights.settings["lookback_days"] = 2
    assert asked(nights.sensor(NOON)) == ["2025-07-12"]
    assert asked(nights.sensor("2025-07-13T12:00:00+00:00")) == ["2025-07-12"]
    assert nights.sensor("2025-07-12T12:00:00+00:00").skip_message == (
        "No day has ended since METRICS_START_DATE, 2025-07-12."
    )


def test_when_the_database_is_away_the_tick_fails_with_our_sentence(nights: Nights, tmp_path: Path) -> None:
    away = Nights(Database(DatabaseUrl.parse(f"postgresql://u:s3cret@/d?host={tmp_path}")), nights.instance)
    with pytest.raises(TransientError, match=r"to database d on .* failed: .* Check that the server runs") as caught:
        away.sensor(NOON)
    assert "s3cret" not in str(caught.value)


def test_a_lock_on_our_tables_ends_the_tick_in_time_and_is_named(
    nights: Nights, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(reconciling, "_LOCK_SECONDS", 0.1)
    with nights.database.begin() as holder:
        holder.exec_driver_sql("LOCK TABLE metric_day_ledger")
        with pytest.raises(
            TransientError, match=r"Held now: process \d+ \(postgres, .*\) holds metric_day_ledger: LOCK"
        ):
            nights.sensor(NOON)
        assert asked(nights.schedule(NOON)) == ["2025-07-13"]
        assert "holds metric_day_ledger" in capsys.readouterr().err


def test_a_lock_on_the_logs_costs_no_missing_day_and_no_known_one(
    nights: Nights, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconciling, "_LOCK_SECONDS", 0.1)
    correct(nights, "3")
    assert asked(nights.sensor(NOON)) == ["2025-07-12"]
    execute(nights.database, "DELETE FROM metric_day_ledger WHERE metric_date = '2025-07-13'")
    # Until something is written, a day that was read once need not be counted.
    of_today = (
        """INSERT INTO agent_execution_logs (agent_id, "timestamp", status) VALUES ('a', '2025-07-14Z', 'success')"""
    )
    execute(nights.database, of_today)
    with nights.database.begin() as holder:
        holder.exec_driver_sql("LOCK TABLE agent_execution_logs")
        tick = nights.sensor(NOON)
        assert asked(tick) == ["2025-07-12", "2025-07-13"]
    said = "could not be read, so what was known before counts: 2025-07-12, 2025-07-13."
    assert said in tick.cursor
    assert "holds agent_execution_logs: LOCK TABLE" in tick.cursor
    assert "2025-07-13 is missing (never aggregated)" in tick.cursor


def test_a_tick_without_time_for_all_days_names_the_others_and_the_next_goes_on_with_them(
    nights: Nights, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    execute(nights.database, "DELETE FROM metric_day_verifications")
    monkeypatch.setattr(reconciling, "_BEGIN_SECONDS", 0)
    tick = nights.sensor(NOON)
    assert "could not be read, so what was known before counts: 2025-07-12." in tick.skip_message
    assert (
        "Compared with the logs: 1 by content, 1 not since they were stored; the oldest reading"
        in capsys.readouterr().err
    )
    monkeypatch.undo()
    assert nights.sensor(NOON).skip_message == "2 days: 2 aggregated."
    assert "Compared with the logs: 1 by content, 1 by tables; the oldest reading" in capsys.readouterr().err


def test_a_day_too_large_for_a_tick_costs_no_other_day_and_is_named(
    nights: Nights, monkeypatch: pytest.MonkeyPatch
) -> None:
    store_logs(nights.database, [log_of(SUNDAY, "a", "success", "1")])
    nights.store(SUNDAY)
    # Nothing is known of the days, so both are to be read, and reading Sunday takes a minute.
    execute(
        nights.database,
        "DELETE FROM metric_day_verifications",
        "ALTER TABLE agent_execution_logs RENAME TO raw",
        """CREATE VIEW agent_execution_logs AS
           SELECT id, agent_id, "timestamp", status,
                  CASE WHEN "timestamp" < '2025-07-13Z' THEN latency_ms
                       ELSE (SELECT latency_ms FROM pg_sleep(15)) END AS latency_ms,
                  token_count, cost_usd, error_type, metadata
             FROM raw""",
    )
    correct(nights, "3")
    monkeypatch.setattr(reconciling, "_READ_SECONDS", 1.5)
    tick = nights.sensor(NOON)
    assert asked(tick) == ["2025-07-12"]
    assert "could not be read, so what was known before counts: 2025-07-13." in tick.cursor
    assert "statement timeout" in tick.cursor
    assert "The checks at night read them without a limit." in tick.cursor


def test_a_day_that_cannot_be_read_does_not_stop_the_tick(nights: Nights) -> None:
    execute(
        nights.database,
        """INSERT INTO agent_execution_logs (agent_id, "timestamp", status, cost_usd)
           SELECT 'a', '2025-07-12 10:00Z', 'success', repeat('9', 131072)::numeric FROM generate_series(1, 2)""",
    )
    tick = nights.sensor(NOON)
    assert "2 days: 1 aggregated, 1 unreadable; 2025-07-12 is unreadable (" in tick.skip_message
