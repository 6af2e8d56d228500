"""What the nightly schedule asks for besides yesterday, and that running it makes the stored days equal the oracle."""

from collections.abc import Iterator
from datetime import date
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.storage.tags import (
    ASSET_PARTITION_RANGE_END_TAG,
    ASSET_PARTITION_RANGE_START_TAG,
    PARTITION_NAME_TAG,
)

from metrics_pipeline.errors import ContractError
from metrics_pipeline.log_files.sample_logs import store_sample
from metrics_pipeline.metrics import reconciliation
from metrics_pipeline.metrics.windows import day_window, days_between
from metrics_pipeline.orchestration import failures
from metrics_pipeline.postgres.database import Database
from metrics_pipeline.postgres.urls import DatabaseUrl
from metrics_pipeline.sample.agents import SampleSpec
from metrics_pipeline.store import publishing
from metrics_pipeline_tests.days import aggregate, execute, judged, query, written_rows

from .nights import Nights, asked, waiting_run
from .runs import assert_equal_to_oracle, ledger

WEEK = days_between(date(2025, 7, 7), date(2025, 7, 13))
KEYS = [day.isoformat() for day in WEEK]
LAST_NIGHT = "2025-07-13T02:00:00+00:00"
TONIGHT = "2025-07-14T02:00:00+00:00"
TOMORROW_NIGHT = "2025-07-15T02:00:00+00:00"


def store(database: Database) -> None:
    """The logs of WEEK, of which nothing is aggregated."""
    store_sample(database, SampleSpec(seed=5, agents=9, logs_per_day=60), WEEK, "UTC", lambda *_: None)


@pytest.fixture
def nights(stored: Database, tmp_path: Path) -> Iterator[Nights]:
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        yield Nights(stored, instance, {"start_date": WEEK[0]})


def test_a_week_of_downtime_heals_with_one_tick(nights: Nights, capsys: pytest.CaptureFixture[str]) -> None:
    nights.settings["start_date"] = date(2025, 7, 5)
    before = nights.schedule("2025-07-07T02:00:00+00:00")
    assert asked(before) == ["2025-07-05", "2025-07-06"]
    assert all(result.success for result in nights.launch(*before.run_requests))

    capsys.readouterr()
    tick = nights.schedule(TONIGHT)
    assert asked(tick) == KEYS
    assert len(tick.run_requests) == 1
    found = capsys.readouterr().err
    assert "9 days: 2 no activity, 7 missing; 2025-07-07 to 2025-07-11 are missing (never aggregated, 60 logs)" in found
    assert all(result.success for result in nights.launch(*tick.run_requests))
    assert_equal_to_oracle(nights.database, *WEEK)

    again = nights.schedule(TONIGHT)
    assert again.run_requests == []
    assert again.skip_message == "9 days: 7 aggregated, 2 no activity."


def test_days_before_the_first_log_are_asked_for_only_if_the_start_date_says_so(
    nights: Nights, capsys: pytest.CaptureFixture[str]
) -> None:
    del nights.settings["start_date"]
    night = "2025-07-09T02:00:00+00:00"
    assert asked(nights.schedule(night)) == KEYS[:2]
    assert "12 days until 2025-07-06 before the first log: nothing to aggregate. 2 days: 2 missing" in (
        capsys.readouterr().err
    )
    # Once an earlier day is stored, what follows it is a hole.
    nights.store(date(2025, 7, 5))
    assert asked(nights.schedule(night)) == ["2025-07-06", *KEYS[:2]]


def test_it_asks_for_missing_and_changed_days_only(nights: Nights) -> None:
    missing, fine, dirty, sealed, elsewhere, outdated, yesterday = WEEK
    nights.store(fine, dirty, sealed, elsewhere, outdated, yesterday)
    seal = "UPDATE metric_day_ledger SET raw_pruned_at = now(), raw_pruned_logs = 1 WHERE metric_date = :day"
    execute(nights.database, seal, day=sealed)
    move = """UPDATE metric_day_ledger SET time_zone = 'Europe/Berlin', window_start = window_start - interval '2 h',
                     window_end = window_end - interval '2 h' WHERE metric_date = :day"""
    execute(nights.database, move, day=elsewhere)
    age = "UPDATE metric_day_ledger SET definition_version = '0' WHERE metric_date = :day"
    execute(nights.database, age, day=outdated)
    change = """UPDATE agent_execution_logs SET token_count = 1 + coalesce(token_count, 0)
                 WHERE "timestamp"::date = ANY(:days)"""
    execute(nights.database, change, days=[dirty, sealed, elsewhere])
    # A correction of an older day is found by the checks of the night, which read every log.
    judged(nights.database, *WEEK)

    tick = nights.schedule(TONIGHT)
    assert asked(tick) == [missing.isoformat(), dirty.isoformat()]
    assert all(result.success for result in nights.launch(*tick.run_requests))
    assert_equal_to_oracle(nights.database, missing, dirty)
    assert query(nights.database, "SELECT DISTINCT metric_date, reason FROM metric_restatements") == [
        (dirty, "late logs")
    ]
    assert nights.schedule(TONIGHT).skip_message == (
        f"7 days: 5 aggregated, 1 sealed, 1 other zone; 1 stored under an older definition, the first {outdated}: "
        "a backfill renews them."
    )


def test_days_of_runs_that_wait_or_work_are_left_alone(nights: Nights) -> None:
    statuses = [
        dg.DagsterRunStatus.QUEUED,
        dg.DagsterRunStatus.STARTING,
        dg.DagsterRunStatus.STARTED,
        dg.DagsterRunStatus.CANCELING,
        dg.DagsterRunStatus.SUCCESS,
        dg.DagsterRunStatus.FAILURE,
        dg.DagsterRunStatus.CANCELED,
    ]
    for key, status in zip(KEYS, statuses, strict=True):
        waiting_run(nights.instance, status, {PARTITION_NAME_TAG: key})
    assert asked(nights.schedule(TONIGHT)) == KEYS[4:]
    a_range = {ASSET_PARTITION_RANGE_START_TAG: KEYS[3], ASSET_PARTITION_RANGE_END_TAG: KEYS[5]}
    waiting_run(nights.instance, dg.DagsterRunStatus.QUEUED, a_range)
    assert asked(nights.schedule(TONIGHT)) == KEYS[6:]


def test_a_day_that_failed_for_good_is_asked_for_again_only_when_something_about_it_changes(
    nights: Nights, capsys: pytest.CaptureFixture[str]
) -> None:
    database, dear = nights.database, WEEK[2]
    nights.store(*WEEK)
    price = """UPDATE agent_execution_logs SET cost_usd = :cost WHERE "timestamp"::date = :day"""
    execute(database, price, day=dear, cost=10**11)
    judged(database, *WEEK)
    tick = nights.schedule(TONIGHT)
    assert asked(tick) == [dear.isoformat()]
    (result,) = nights.launch(*tick.run_requests)
    assert not result.success

    capsys.readouterr()
    for night in (TONIGHT, TOMORROW_NIGHT):
        assert dear.isoformat() not in asked(nights.schedule(night))
        refused = f"{dear} is not asked for: run {result.run_id} (http://127.0.0.1:3000/runs/{result.run_id}) refused"
        assert refused in capsys.readouterr().err

    # Another state, and one that can be aggregated.
    execute(database, price, day=dear, cost=3)
    judged(database, *WEEK)
    tick = nights.schedule(TONIGHT)
    assert asked(tick) == [dear.isoformat()]
    assert nights.launch(*tick.run_requests)[0].success
    assert_equal_to_oracle(database, dear)


def test_a_missing_day_that_failed_for_good_heals_when_its_logs_are_corrected(nights: Nights) -> None:
    nights.settings["lookback_days"] = 1
    execute(
        nights.database,
        """INSERT INTO agent_execution_logs (agent_id, "timestamp", status, cost_usd)
           SELECT id, '2025-07-13', 'success', 1e11 FROM agent_registry""",
    )
    tick = nights.schedule(TONIGHT)
    assert not nights.launch(*tick.run_requests)[0].success
    assert nights.schedule(TONIGHT).run_requests == []
    execute(nights.database, "UPDATE agent_execution_logs SET cost_usd = 1 WHERE cost_usd = 1e11")
    tick = nights.schedule(TONIGHT)
    assert nights.launch(*tick.run_requests)[0].success
    assert_equal_to_oracle(nights.database, WEEK[-1])


def test_a_day_that_failed_for_the_moment_is_asked_for_again_the_next_night(
    nights: Nights, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(failures, "FIRST_PAUSE_SECONDS", 0.0001)
    nights.settings["start_date"] = WEEK[-1]
    execute(
        nights.database,
        """CREATE FUNCTION fault() RETURNS trigger LANGUAGE plpgsql AS $$
           BEGIN RAISE EXCEPTION 'no space left' USING ERRCODE = '53100'; END $$""",
        "CREATE TRIGGER fault BEFORE INSERT ON metric_day_ledger FOR EACH ROW EXECUTE FUNCTION fault()",
    )
    first = nights.schedule(TONIGHT)
    assert not nights.launch(*first.run_requests)[0].success
    execute(nights.database, "DROP TRIGGER fault ON metric_day_ledger")
    second = nights.schedule(TOMORROW_NIGHT)
    assert asked(second) == ["2025-07-13", "2025-07-14"]
    assert all(result.success for result in nights.launch(*second.run_requests))
    assert_equal_to_oracle(nights.database, WEEK[-1])


def test_run_keys_are_the_same_within_a_night_and_new_every_night(nights: Nights) -> None:
    def keys(at: str) -> list[str | None]:
        return [request.run_key for request in nights.schedule(at).run_requests]

    tonight = keys(TONIGHT)
    assert tonight == keys(TONIGHT)
    assert len(tonight) == 1
    assert not set(tonight) & set(keys(TOMORROW_NIGHT))


def test_it_looks_back_as_far_as_it_is_told_and_never_before_the_start_date(nights: Nights) -> None:
    nights.settings["lookback_days"] = 3
    assert asked(nights.schedule(TONIGHT)) == KEYS[-3:]
    assert asked(nights.schedule(LAST_NIGHT)) == KEYS[-4:-1]
    nights.settings["start_date"] = WEEK[-2]
    assert asked(nights.schedule(TONIGHT)) == KEYS[-2:]


def test_when_the_database_is_away_it_asks_for_yesterday_alone_and_says_so(
    nights: Nights, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nights.store(WEEK[-1])
    late = """INSERT INTO agent_execution_logs (agent_id, "timestamp", status)
              SELECT id, :at, 'failed' FROM agent_registry"""
    execute(nights.database, late, at=WEEK[-1])
    away = Nights(Database(DatabaseUrl.parse(f"postgresql://u:s3cret@/d?host={tmp_path}")), nights.instance)
    tick = away.schedule(TONIGHT)
    assert asked(tick) == [KEYS[-1]]
    warned = capsys.readouterr().err
    assert "Only yesterday is asked for, because the other days cannot be looked at. The connection to" in warned
    assert "s3cret" not in warned
    # By the time its run starts the database is back.
    assert nights.launch(*tick.run_requests)[0].success
    assert_equal_to_oracle(nights.database, WEEK[-1])
    assert set(query(nights.database, "SELECT reason FROM metric_restatements")) == {("late logs",)}
    keys = [away.schedule(night).run_requests[0].run_key for night in (TONIGHT, TOMORROW_NIGHT)]
    assert len(set(keys)) == 2


def test_a_database_that_is_not_as_agreed_fails_the_tick(nights: Nights) -> None:
    execute(nights.database, "ALTER TABLE agent_execution_logs DROP COLUMN status")
    with pytest.raises(dg.DagsterError) as caught:
        nights.schedule(TONIGHT)
    assert isinstance(caught.value.__cause__, ContractError)
    assert "column agent_execution_logs.status is missing" in str(caught.value.__cause__)


def test_days_of_an_older_definition_are_reported_and_renewed_only_on_request(
    nights: Nights, monkeypatch: pytest.MonkeyPatch
) -> None:
    nights.store(*WEEK)
    execute(nights.database, "UPDATE agent_performance_metrics SET total_tokens = total_tokens + 1")
    for module in (reconciliation, publishing):
        monkeypatch.setattr(module, "DEFINITION_VERSION", "2")
    assert nights.schedule(TONIGHT).skip_message == (
        "7 days: 7 aggregated; 7 stored under an older definition, the first 2025-07-07: a backfill renews them."
    )
    assert nights.sensor(TONIGHT).skip_message == nights.schedule(TONIGHT).skip_message

    metrics = written_rows(nights.database, "agent_performance_metrics")
    aggregate(nights.database, day_window(WEEK[0], "UTC"))
    assert written_rows(nights.database, "agent_performance_metrics") != metrics
    restated = query(nights.database, "SELECT DISTINCT metric_date, reason FROM metric_restatements")
    assert restated == [(WEEK[0], "definition change")]
    assert_equal_to_oracle(nights.database, WEEK[0])
    assert "6 stored under an older definition, the first 2025-07-08" in str(nights.schedule(TONIGHT).skip_message)
    assert list(ledger(nights.database)) == WEEK
