"""The state of days including what Dagster knows: the runs that write them, those that ended, and the partitions."""

import hashlib
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

import dagster as dg
import psycopg

from metrics_pipeline.errors import TransientError
from metrics_pipeline.logs.source import LogSource
from metrics_pipeline.metrics.reconciliation import DayState, DayVerdict
from metrics_pipeline.metrics.windows import day_window, days_between
from metrics_pipeline.metrics.wording import counted
from metrics_pipeline.names import (
    DAY_STATE_TAG,
    FAILED_PERMANENTLY_TAG,
    PARTITION_RANGE_END_TAG,
    PARTITION_RANGE_START_TAG,
    PARTITION_TAG,
    REASON_TAG,
)
from metrics_pipeline.orchestration.asset_keys import METRICS_ASSET_KEY
from metrics_pipeline.orchestration.dagster_internals import unmaterialized_partitions
from metrics_pipeline.orchestration.processes import end_if_orphaned
from metrics_pipeline.pipeline.opening import open_source
from metrics_pipeline.pipeline.reconciling import before_first_day, findings, judge_days
from metrics_pipeline.pipeline.watching import USUAL_EFFORT, Effort, Found, look_at_days, record
from metrics_pipeline.postgres.database import Database, exclusive_locks
from metrics_pipeline.settings import Settings
from metrics_pipeline.store.publishing import Reason

_ENDED = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED]
#: How often the sensor asks for one state of a day: the first repetition comes at once, as most causes have passed by
#: then, and the waits before the others double. The last comes 3.5 hours after the first. The schedule goes on asking.
_MAX_ATTEMPTS = 5
_FIRST_WAIT = timedelta(minutes=30)

#: Below Dagster's limit of 60 seconds for a tick, with time to connect and to ask for runs. Reading logs ends earlier,
#: so that what was found is judged all the same.
_TICK_SECONDS = 45
_READ_SECONDS = 35
#: No further day is begun then: a day of 20 million logs is read in 15 seconds.
_BEGIN_SECONDS = 20
_LOCK_SECONDS = 5

_FAILURES_LOOKED_AT = 100

#: States in which the stored metrics are right, so that Dagster should show the partition as materialised.
_STORED = (DayState.AGGREGATED, DayState.NO_ACTIVITY, DayState.SEALED)

_UNFINISHED = [status for status in dg.DagsterRunStatus if status not in _ENDED]


def judge(
    instance: dg.DagsterInstance,
    database: Database,
    logs: LogSource,
    time_zone: str,
    days: list[date],
    effort: Effort = USUAL_EFFORT,
    *,
    apart_from: str | None = None,
    is_recorded: bool = True,
) -> list[DayVerdict]:
    """The verdict on each of `days`, which are consecutive, after a look at their logs.

    What the look finds is recorded, which a role that only reads must not ask for.
    `apart_from` is the id of the calling run, whose days do not count as running.
    Database faults become TransientError or PermanentError.
    """
    # Before the database is read: the days of a run that ends in between then count as running, not as missing.
    running = running_days(instance, apart_from=apart_from)
    if is_recorded and days:
        logs.watch(database, day_window(days[-1], time_zone).end)
    found = look_at_days(database, logs, days, time_zone, effort, running=running)
    if is_recorded:
        record(database, found)
    with database.snapshot() as snapshot:
        return judge_days(snapshot, days, time_zone, running=running, found=found.by_day)


def judge_in_time(
    instance: dg.DagsterInstance, database: Database, settings: Settings, days: list[date]
) -> tuple[list[DayVerdict], str]:
    """As judge, for a tick, which Dagster ends after 60 seconds; and what the tick says of the days.

    A day whose logs cannot be read in time, because there are too many or a lock keeps readers out, is judged by what
    was recorded of it, and named; the checks at night read it without a limit. Days before the first log are left out.
    Raises TransientError if our own tables cannot be read, naming the lock if one is the cause, and PermanentError.
    """
    hurried = database.within(_TICK_SECONDS, lock_seconds=_LOCK_SECONDS)
    with naming_locks(database):
        running = running_days(instance)
        logs = open_source(hurried, settings)
        if days:
            logs.watch(hurried, day_window(days[-1], settings.time_zone).end)
        found = look_at_days(
            database.within(_READ_SECONDS, lock_seconds=_LOCK_SECONDS),
            logs,
            days,
            settings.time_zone,
            Effort(seconds=_BEGIN_SECONDS),
            running=running,
        )
        record(hurried, found)
        with hurried.snapshot() as snapshot:
            verdicts = judge_days(snapshot, days, settings.time_zone, running=running, found=found.by_day)
            early = before_first_day(snapshot, logs, verdicts, settings)
    verdicts = [verdict for verdict in verdicts if verdict.metric_date not in early]
    said = findings(verdicts) if verdicts else ""
    return verdicts, " ".join(filter(None, [_left_out(early), said, _left(found, database)]))


def _left_out(early: Set[date]) -> str:
    if not early:
        return ""
    until = f" until {max(early)}" if len(early) > 1 else ""
    return f"{counted(len(early), 'day')}{until} before the first log: nothing to aggregate."


def _left(found: Found, database: Database) -> str:
    if not found.left:
        return ""
    named = ", ".join(str(day) for day in found.left)
    why = f"{found.why} {_held_locks(database)}" if found.why else "The next tick goes on with them."
    return (
        f"In the time of a tick the logs of these days could not be read, so what was known before counts: {named}. "
        f"{why} The checks at night read them without a limit."
    )


@contextmanager
def naming_locks(database: Database) -> Iterator[None]:
    """Adds to a TransientError of a lock that was waited for in vain which sessions hold locks of whole tables."""
    try:
        yield
    except TransientError as error:
        if not isinstance(error.__cause__, psycopg.errors.LockNotAvailable):
            raise
        raise TransientError(f"{error} {_held_locks(database)}") from error


def _held_locks(database: Database) -> str:
    with database.connect() as connection:
        return f"Held now: {'; '.join(exclusive_locks(connection)) or 'no lock of a whole table'}."


def running_days(instance: dg.DagsterInstance, *, apart_from: str | None = None) -> set[date]:
    """The days of all unfinished runs of our asset, including queued ones, without those of the run `apart_from`.

    Ends the runs whose process was killed.
    """
    days: set[date] = set()
    for run in instance.get_runs(dg.RunsFilter(statuses=_UNFINISHED)):
        if may_write_metrics(run) and run.run_id != apart_from and not end_if_orphaned(instance, run):
            days.update(_days_of(run))
    return days


def may_write_metrics(run: dg.DagsterRun) -> bool:
    """Whether the run's selection contains our asset; without a selection a run executes its whole job."""
    return run.asset_selection is None or METRICS_ASSET_KEY in run.asset_selection


def days_to_report_again(
    instance: dg.DagsterInstance, partitions: dg.TimeWindowPartitionsDefinition, verdicts: Iterable[DayVerdict]
) -> set[date]:
    """The days whose stored metrics are right, and whose partition Dagster shows as failed or missing.

    A run of such a day changes no value, and turns the partition green. It would change the values of an outdated day,
    so such a day is left out.
    """
    stored = {
        verdict.metric_date.isoformat(): verdict.metric_date
        for verdict in verdicts
        if verdict.state in _STORED and not verdict.is_outdated
    }
    return {stored[key] for key in unmaterialized_partitions(instance, METRICS_ASSET_KEY, list(stored), partitions)}


def requests_for(wanted: Mapping[str, DayVerdict]) -> list[dg.RunRequest]:
    """One request for each block of adjacent days, tagged with the state of each day that caused it.

    wanted: the verdicts in the order of their days, each under the run key that its day alone would have.
    """
    requests = []
    # In a block of adjacent days, the day's ordinal minus its place in the list is the same.
    places = enumerate(wanted.items())
    for _, block in itertools.groupby(places, key=lambda place: place[1][1].metric_date.toordinal() - place[0]):
        verdicts = dict(item for _, item in block)
        days = [verdict.metric_date.isoformat() for verdict in verdicts.values()]
        tags = {f"{DAY_STATE_TAG}{verdict.metric_date}": verdict.fingerprint for verdict in verdicts.values()}
        tags[REASON_TAG] = Reason.LATE_LOGS.value
        if len(days) == 1:
            requests.append(dg.RunRequest(run_key=next(iter(verdicts)), partition_key=days[0], tags=tags))
        else:
            # A request has no field for a range.
            span = {PARTITION_RANGE_START_TAG: days[0], PARTITION_RANGE_END_TAG: days[-1]}
            digest = hashlib.sha256(" ".join(verdicts).encode()).hexdigest()[:16]
            requests.append(dg.RunRequest(run_key=f"{days[0]}..{days[-1]}@{digest}", tags=tags | span))
    return requests


@dataclass(frozen=True)
class Attempts:
    """The runs that were requested for exactly this state of a day and have ended, newest first.

    None of them has changed the state: each failed, was cancelled or killed, or what it stored was lost.
    """

    day: date
    runs: Sequence[dg.RunRecord]

    @property
    def refused_by(self) -> str | None:
        """The id of a run that refused the day; nothing about the day has changed since."""
        # A repeated run inherits the tags of its parent, so the tag of a run that refused the day has that run's id.
        return next(
            (run.run_id for run in (record.dagster_run for record in self.runs) if _has_refused(run)),
            None,
        )

    def why_refused(self, webserver_url: str) -> str | None:
        """Why no schedule or sensor asks for the day, and what to do; None if they ask for it."""
        if self.refused_by is None:
            return None
        return (
            f"{self.day} is not asked for: {_run_in_words(self.refused_by, webserver_url)} refused it, and nothing "
            "about it has changed since. Read that run's error, mend the cause, and materialise the day by hand. If "
            f"its logs were deleted: `metrics-pipeline seal --date {self.day}` keeps the stored metrics (the "
            f"executions did happen), `metrics-pipeline clear --date {self.day}` removes them (they never happened)"
        )

    def why_not_now(self, now: datetime, webserver_url: str) -> str | None:
        """Why the sensor does not ask for the day at the instant `now`, and what to do; None if it asks for it."""
        number = len(self.runs)
        if self.refused_by is not None or number < 2:
            return self.why_refused(webserver_url)
        last = self.runs[0]
        said = (
            f"{self.day} is not asked for {{}}: {number} runs have ended and left it as it was, the last of them "
            f"{_run_in_words(last.dagster_run.run_id, webserver_url)}"
        )
        if number >= _MAX_ATTEMPTS:
            return said.format("before the next night") + ". Read its error"
        ended = datetime.fromtimestamp(last.end_time or last.update_timestamp.timestamp(), UTC)
        again = ended + _FIRST_WAIT * 2 ** (number - 2)
        return said.format(f"before {again:%H:%M} UTC") if now < again else None


def attempts(instance: dg.DagsterInstance, verdict: DayVerdict) -> Attempts:
    """The ended runs that were requested for this state of the day."""
    tags = {f"{DAY_STATE_TAG}{verdict.metric_date}": verdict.fingerprint}
    return Attempts(verdict.metric_date, instance.get_run_records(dg.RunsFilter(tags=tags, statuses=_ENDED)))


def failed_runs(instance: dg.DagsterInstance, day: date) -> list[dg.DagsterRun]:
    """The failed runs, among the last hundred failures, that would have stored the day, newest first."""
    failures = instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.FAILURE]), limit=_FAILURES_LOOKED_AT)
    return [run for run in failures if may_write_metrics(run) and day in _days_of(run)]


def _has_refused(run: dg.DagsterRun) -> bool:
    return run.status is dg.DagsterRunStatus.FAILURE and run.tags.get(FAILED_PERMANENTLY_TAG) == run.run_id


def _run_in_words(run_id: str, webserver_url: str) -> str:
    return f"run {run_id} ({webserver_url}/runs/{run_id})"


def _days_of(run: dg.DagsterRun) -> list[date]:
    first = run.tags.get(PARTITION_TAG) or run.tags.get(PARTITION_RANGE_START_TAG, "")
    last = run.tags.get(PARTITION_TAG) or run.tags.get(PARTITION_RANGE_END_TAG, "")
    try:
        return days_between(date.fromisoformat(first), date.fromisoformat(last))
    except ValueError:
        # A run without partitions, or of another code location's job, whose partitions are not days.
        return []
