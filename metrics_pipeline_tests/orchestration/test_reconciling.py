"""From runs and settings to what reconciliation needs, and from its verdicts to words and requests."""

import itertools
import subprocess
import sys
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.storage.tags import (
    ASSET_PARTITION_RANGE_END_TAG,
    ASSET_PARTITION_RANGE_START_TAG,
    PARTITION_NAME_TAG,
)

from metrics_pipeline.definitions import build_defs
from metrics_pipeline.metrics.reconciliation import DayState, DayVerdict
from metrics_pipeline.names import DAY_STATE_TAG, FAILED_PERMANENTLY_TAG, PROCESS_TAG, REASON_TAG
from metrics_pipeline.orchestration.asset_keys import METRICS_ASSET_KEY
from metrics_pipeline.orchestration.processes import own_process
from metrics_pipeline.orchestration.reconciling import attempts, judge, requests_for, running_days
from metrics_pipeline.pipeline.opening import open_logs
from metrics_pipeline.pipeline.reconciling import findings, lookback
from metrics_pipeline.postgres.database import Database
from metrics_pipeline.settings import Settings

from .nights import waiting_run

DAY = date(2025, 7, 12)
STARTED = dg.DagsterRunStatus.STARTED


def verdict(day: date = DAY, state: DayState = DayState.DIRTY, reason: str = "logs +1", **more: object) -> DayVerdict:
    return DayVerdict(day, state, reason, **({"needs_run": True, "is_outdated": False, "fingerprint": "f" * 16} | more))


@pytest.mark.parametrize(
    ("zone", "now", "days", "first", "last"),
    [
        ("UTC", datetime(2025, 7, 14, 0, tzinfo=UTC), 3, date(2025, 7, 11), date(2025, 7, 13)),
        ("UTC", datetime(2025, 7, 13, 23, 59, tzinfo=UTC), 3, date(2025, 7, 10), date(2025, 7, 12)),
        ("Asia/Tokyo", datetime(2025, 7, 13, 15, tzinfo=UTC), 1, date(2025, 7, 13), date(2025, 7, 13)),
        ("America/New_York", datetime(2025, 7, 14, 3, tzinfo=UTC), 1, date(2025, 7, 12), date(2025, 7, 12)),
        ("UTC", datetime(2025, 7, 14, 0, tzinfo=UTC), 366, date(2025, 7, 1), date(2025, 7, 13)),
    ],
)
def test_the_window_ends_with_yesterday_and_begins_with_the_start_date_at_the_earliest(
    zone: str, now: datetime, days: int, first: date, last: date
) -> None:
    settings = Settings(Path("/nowhere"), time_zone=zone, start_date=date(2025, 7, 1))
    found = lookback(settings, now, days)
    assert (found[0], found[-1], len(found)) == (first, last, (last - first).days + 1)


def test_before_the_start_date_has_ended_there_are_no_days(instance: dg.DagsterInstance, database: Database) -> None:
    settings = Settings(Path("/nowhere"), start_date=DAY)
    days = lookback(settings, datetime(2025, 7, 12, 23, tzinfo=UTC))
    assert days == judge(instance, database, open_logs(database), "UTC", days) == []
    assert findings([]) == "No day has ended yet."


def test_the_days_of_unfinished_runs_are_running_whatever_the_run_is_over(instance: dg.DagsterInstance) -> None:
    waiting_run(instance, STARTED, {PARTITION_NAME_TAG: "2025-07-01"})
    waiting_run(
        instance,
        dg.DagsterRunStatus.QUEUED,
        {ASSET_PARTITION_RANGE_START_TAG: "2025-07-30", ASSET_PARTITION_RANGE_END_TAG: "2025-08-01"},
    )
    waiting_run(instance, STARTED, {})
    waiting_run(instance, dg.DagsterRunStatus.SUCCESS, {PARTITION_NAME_TAG: "2025-07-02"})
    expected = {date(2025, 7, 1), date(2025, 7, 30), date(2025, 7, 31), date(2025, 8, 1)}
    assert running_days(instance) == expected

    # A user's own jobs in the same instance: one materialises our asset among others, one does not.
    job = build_defs().resolve_job_def("daily_metrics_job")
    for day, keys in (
        ("2025-07-03", {METRICS_ASSET_KEY, dg.AssetKey("other")}),
        ("2025-07-04", {dg.AssetKey("other")}),
    ):
        run = dg.DagsterRun(job.name, asset_selection=frozenset(keys), tags={PARTITION_NAME_TAG: day}, status=STARTED)
        instance.add_run(run)
    assert running_days(instance) == expected | {date(2025, 7, 3)}


def test_a_run_whose_process_was_killed_is_ended_and_its_day_not_running(instance: dg.DagsterInstance) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    run = waiting_run(instance, STARTED, {PARTITION_NAME_TAG: "2025-07-01"})
    run_id, host, _, identity = own_process(run.run_id).split("/")
    instance.add_run_tags(run.run_id, {PROCESS_TAG: f"{run_id}/{host}/{ended.pid}/{identity}"})
    alive = waiting_run(instance, STARTED, {PARTITION_NAME_TAG: "2025-07-02"})
    instance.add_run_tags(alive.run_id, {PROCESS_TAG: own_process(alive.run_id)})
    assert running_days(instance) == {date(2025, 7, 2)}
    assert instance.get_run_by_id(run.run_id).status is dg.DagsterRunStatus.FAILURE
    assert instance.get_run_by_id(alive.run_id).status is STARTED


def test_only_a_run_that_itself_refused_this_state_of_this_day_makes_it_hopeless(instance: dg.DagsterInstance) -> None:
    (request,) = requests_for({"key": verdict()})
    assert request.tags == {f"{DAY_STATE_TAG}2025-07-12": "f" * 16, REASON_TAG: "late logs"}
    tags = {PARTITION_NAME_TAG: "2025-07-12", **request.tags}
    refused = waiting_run(instance, dg.DagsterRunStatus.STARTED, tags)
    # A run that repeats it inherits its tags, and is cancelled or fails for another reason.
    inherited = tags | {FAILED_PERMANENTLY_TAG: refused.run_id}
    for status in (dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED):
        waiting_run(instance, status, inherited, refused)
    instance.add_run_tags(refused.run_id, inherited)
    assert attempts(instance, verdict()).refused_by is None
    instance.report_run_failed(refused)
    assert attempts(instance, verdict()).refused_by == refused.run_id
    assert attempts(instance, verdict(fingerprint="e" * 16)).runs == []
    assert attempts(instance, verdict(day=date(2025, 7, 13))).runs == []


def test_a_state_that_runs_leave_as_it_was_is_asked_for_five_times_with_growing_waits(
    instance: dg.DagsterInstance,
) -> None:
    tags = {PARTITION_NAME_TAG: "2025-07-12", **requests_for({"key": verdict()})[0].tags}
    ended = itertools.cycle(
        [dg.DagsterRunStatus.CANCELED, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.SUCCESS]  # its publish was lost
    )
    waits = []
    for _ in range(4):
        last = waiting_run(instance, next(ended), tags)
        now = datetime.now(UTC)
        found = attempts(instance, verdict())
        times = (0, 29, 31, 59, 61, 119, 121, 100_000)
        waits.append([each for each in times if found.why_not_now(now + timedelta(minutes=each), "http://ui") is None])
        assert found.why_refused("http://ui") is None
    assert waits == [
        [0, 29, 31, 59, 61, 119, 121, 100_000],
        [31, 59, 61, 119, 121, 100_000],
        [61, 119, 121, 100_000],
        [121, 100_000],
    ]
    last = waiting_run(instance, next(ended), tags)
    assert attempts(instance, verdict()).why_not_now(now + timedelta(days=9), "http://ui") == (
        "2025-07-12 is not asked for before the next night: 5 runs have ended and left it as it was, the last of them "
        f"run {last.run_id} (http://ui/runs/{last.run_id}). Read its error"
    )


def test_findings_count_every_state_and_explain_the_days_that_need_a_person_or_a_run() -> None:
    verdicts = [
        verdict(date(2025, 7, 1), DayState.AGGREGATED, "equal", is_outdated=True),
        verdict(date(2025, 7, 2), DayState.MISSING, "never aggregated, 3 logs"),
        verdict(date(2025, 7, 3), DayState.DIRTY, "logs +1", is_outdated=True),
        verdict(date(2025, 7, 4), DayState.RUNNING, "a run is writing it"),
        verdict(date(2025, 7, 5), DayState.OTHER_ZONE, "stored as a day of UTC"),
        verdict(date(2025, 7, 6), DayState.NO_ACTIVITY, "equal"),
        verdict(date(2025, 7, 7), DayState.SHRUNK, "3 logs are gone", needs_run=False),
        *(verdict(date(2025, 7, day), DayState.MISSING, "never aggregated, 0 logs") for day in (8, 9, 10, 12)),
    ]
    assert findings(verdicts) == (
        "11 days: 1 aggregated, 1 no activity, 5 missing, 1 dirty, 1 shrunk, 1 running, 1 other zone; "
        "2025-07-02 is missing (never aggregated, 3 logs); 2025-07-03 is dirty (logs +1); "
        "2025-07-07 is shrunk (3 logs are gone); "
        "2025-07-08 to 2025-07-10 are missing (never aggregated, 0 logs); "
        "2025-07-12 is missing (never aggregated, 0 logs); "
        "2 stored under an older definition, the first 2025-07-01: a backfill renews them."
    )


@pytest.mark.parametrize(
    "tags",
    [
        {PARTITION_NAME_TAG: "europe"},
        {PARTITION_NAME_TAG: "2025-07-01-05:00"},
        {ASSET_PARTITION_RANGE_START_TAG: "2025-07-01"},
        {ASSET_PARTITION_RANGE_START_TAG: "a", ASSET_PARTITION_RANGE_END_TAG: "b"},
        {PARTITION_NAME_TAG: "2025-07-05", PROCESS_TAG: "typed/into/the/launch/pad"},
        {PARTITION_NAME_TAG: "2025-07-05", PROCESS_TAG: "RUN/HOST/many/1"},
    ],
)
def test_tags_that_somebody_else_wrote_break_nothing(instance: dg.DagsterInstance, tags: dict[str, str]) -> None:
    """Runs of other code locations have partitions of their own, and the launchpad takes any tag."""
    # Of our own job Dagster checks the partition when it makes the run.
    run = waiting_run(instance, STARTED, {})
    host = own_process(run.run_id).split("/")[1]
    instance.add_run_tags(
        run.run_id,
        {key: value.replace("RUN", run.run_id).replace("HOST", host) for key, value in tags.items()},
    )
    assert running_days(instance) == ({date(2025, 7, 5)} if PROCESS_TAG in tags else set())
