"""Turns days of logs into stored metrics, in the steps window, guard, extract, compute, validate, publish."""

import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime

import polars as pl

from metrics_pipeline.errors import PermanentError
from metrics_pipeline.logs.source import LogSource
from metrics_pipeline.metrics.alert_rules import DEFAULT_ALERTING, Alerting
from metrics_pipeline.metrics.calculator import (
    DayMetrics,
    DayTotals,
    daily_metrics,
    day_totals,
    merge_partials,
    merged_values,
    value_metrics,
)
from metrics_pipeline.metrics.catalog import AGENT_DIMENSION_DAY
from metrics_pipeline.metrics.comparison import DayChange, compare_days
from metrics_pipeline.metrics.dimensions import ExtractedValues, definitions, names_of
from metrics_pipeline.metrics.distributions import UserKey, distributions, hashed_users
from metrics_pipeline.metrics.reconciliation import still_unlogged
from metrics_pipeline.metrics.validation import validate_breakdown, validate_day
from metrics_pipeline.metrics.verification import Mark
from metrics_pipeline.metrics.windows import DayWindow
from metrics_pipeline.postgres.database import Database
from metrics_pipeline.store.distributions import user_key
from metrics_pipeline.store.ledger import (
    StoredDay,
    read_stored_day,
    refuse_if_partly_pruned,
    refuse_if_shrunk,
    refuse_unless_open,
)
from metrics_pipeline.store.publishing import NO_BREAKDOWN, Breakdown, Published, Reason, publish_day
from metrics_pipeline.store.reads import metrics_of_day

_CANCEL_AGAIN_SECONDS = 0.1
#: Four that read a large day, and one that stores the day before it.
_CONNECTIONS_TO_READ_AHEAD = 5


@dataclass(frozen=True)
class AggregationOptions:
    """What the person who asks for an aggregation decides.

    include_inactive_agents: also aggregate agents that are not active. accept_deleted_logs: also aggregate a day that
    has shrunk. renew_dimensions: of a run over days, only those that reconciling.other_dimensions() gives.
    """

    include_inactive_agents: bool = False
    accept_deleted_logs: bool = False
    renew_dimensions: bool = False


@dataclass
class StepSeconds:
    """How long each step took, in seconds of wall-clock time."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Measures the block."""
        started = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - started


@dataclass(frozen=True)
class ComputedDay:
    """A day's metrics and distributions, validated but not yet stored, and the state that they were computed from.

    unlogged: as still_unlogged() gives it.
    """

    window: DayWindow
    metrics: DayMetrics
    distributions: pl.DataFrame
    totals: DayTotals
    read: StoredDay
    snapshot_at: datetime
    timings: StepSeconds
    breakdown: Breakdown = NO_BREAKDOWN
    unlogged: Sequence[str] = ()


@dataclass(frozen=True)
class AggregatedDay:
    """A day that is stored. `computed.timings` include the publishing."""

    computed: ComputedDay
    published: Published


def compute_day(
    database: Database,
    logs: LogSource,
    window: DayWindow,
    options: AggregationOptions,
    configured_key: UserKey | None = None,
) -> ComputedDay:
    """Guard, extract, compute and validate, all from one snapshot. Writes nothing.

    configured_key: METRICS_USER_KEY; None means the database's own key.
    Raises DayRefusedError, InvariantError, and the TransientError or PermanentError of a database fault.
    """
    timings = StepSeconds()
    with database.snapshot() as snapshot:
        with timings.step("guard"):
            stored = read_stored_day(snapshot, window.metric_date)
            refuse_unless_open(stored, window)
            refuse_if_partly_pruned(snapshot, window)
            key = user_key(snapshot, configured_key)
        with timings.step("extract"):
            extracted = logs.read_day(snapshot, window, include_inactive_agents=options.include_inactive_agents)
    with timings.step("compute"):
        # An agent that was retired since the day was aggregated keeps its row, which is still updated from its logs.
        agents = pl.concat([extracted.agents, pl.Series(list(stored.executions), dtype=pl.String)]).unique()
        merge = merged_values if extracted.is_merged else merge_partials
        aggregates = merge(extracted.partials)
        metrics = daily_metrics(aggregates, agents, window.metric_date, extracted.exact_costs, extracted.kind)
        users = hashed_users(aggregates, agents, key)
        totals = day_totals(aggregates, agents, users)
        of_agents = distributions(aggregates, agents, key, users=users)
        breakdown = NO_BREAKDOWN
        if extracted.values is not None:
            breakdown = _broken_down(extracted.values, agents, window, key, users)
            metrics = replace(metrics, fingerprint=metrics.fingerprint.with_further(extracted.values.content))
    with timings.step("validate"):
        if not options.accept_deleted_logs:
            refuse_if_shrunk(stored, window, metrics.fingerprint, logs.unlogged, aggregates.logs_by_agent())
        validate_day(metrics, window, extracted.logs)
        validate_breakdown(metrics.metrics, breakdown.metrics, names_of(breakdown.dimensions), window)
    unlogged = still_unlogged(stored.ledger, metrics.fingerprint, logs.unlogged)
    return ComputedDay(window, metrics, of_agents, totals, stored, extracted.taken_at, timings, breakdown, unlogged)


def _broken_down(
    values: ExtractedValues, agents: pl.Series, window: DayWindow, key: UserKey, users: pl.DataFrame
) -> Breakdown:
    aggregates = merged_values(values.partials)
    metrics = value_metrics(aggregates, agents, window.metric_date, values.costs, values.keys)
    of_values = distributions(aggregates, agents, key, AGENT_DIMENSION_DAY, users)
    return Breakdown(definitions(values.dimensions), metrics, of_values)


def preview_day(database: Database, logs: LogSource, window: DayWindow, options: AggregationOptions) -> DayChange:
    """What aggregating the day now would change. Writes nothing; raises what compute_day raises."""
    # Nothing is stored, so the role need not be able to read the key.
    computed = compute_day(database, logs, window, options, UserKey(b""))
    with database.connect() as connection:
        stored = metrics_of_day(connection, window.metric_date)
    return compare_days(window.metric_date, stored, computed.metrics.metrics)


def store_day(
    database: Database,
    computed: ComputedDay,
    *,
    run_id: str,
    reason: Reason,
    mark: Mark | None = None,
    alerting: Alerting = DEFAULT_ALERTING,
) -> AggregatedDay:
    """Stores a computed day in one transaction. `mark` is the source's note from before the day was computed.

    Raises StaleSnapshotError if another run stored the day since it was read, and the TransientError or PermanentError
    of a database fault.
    """
    with computed.timings.step("publish"):
        published = publish_day(
            database,
            computed.metrics,
            computed.distributions,
            computed.window,
            computed.breakdown,
            unlogged=computed.unlogged,
            read=computed.read,
            snapshot_at=computed.snapshot_at,
            mark=mark,
            run_id=run_id,
            reason=reason,
            alerting=alerting,
        )
    return AggregatedDay(computed, published)


@contextmanager
def _reading_ahead(database: Database) -> Iterator[ThreadPoolExecutor]:
    """A thread that reads. When the block ends early its statements are cancelled, until it has ended."""
    ahead = ThreadPoolExecutor(1, thread_name_prefix="ahead")
    try:
        yield ahead
    except BaseException:
        ahead.shutdown(wait=False, cancel_futures=True)
        ended = threading.Thread(target=ahead.shutdown, name="end of reading")
        ended.start()
        while ended.is_alive():
            # Again and again, because between two statements there is nothing to cancel.
            database.cancel_statements()
            ended.join(_CANCEL_AGAIN_SECONDS)
        raise
    ahead.shutdown()


def aggregate_days(
    database: Database,
    logs: LogSource,
    windows: Mapping[str, DayWindow],
    options: AggregationOptions,
    *,
    run_id: str,
    reason: Reason,
    configured_key: UserKey | None = None,
    alerting: Alerting = DEFAULT_ALERTING,
) -> Iterator[tuple[str, AggregatedDay | PermanentError]]:
    """Computes and stores days in order. Yields the key of each day with its result or its PermanentError.

    A day is read while the one before it is stored: small days take 19 ms each instead of 21. Only one day is read
    ahead, so memory holds a single large one; none if the role may have few connections, because one is then enough.
    A caller that stops early ends the reading of the next day.
    Raises what compute_day and store_day raise, except PermanentError, which concerns one day only.
    """
    if windows:
        # Before the first day is read, so that no change is missed from then on.
        logs.watch(database, max(window.end for window in windows.values()))
    with database.keeping_connections() as kept, _reading_ahead(database) as ahead:
        # Once, because an older note is as good: a write that follows it shows as a change.
        with kept.connect() as connection:
            marks = logs.marks(connection, list(windows.values()))

        def read(window: DayWindow) -> ComputedDay:
            return compute_day(kept, logs, window, options, configured_key)

        def outcome(key: str, computed: Future[ComputedDay]) -> tuple[str, AggregatedDay | PermanentError]:
            try:
                mark = marks.get(windows[key].metric_date)
                day = computed.result()
                return key, store_day(kept, day, run_id=run_id, reason=reason, mark=mark, alerting=alerting)
            except PermanentError as error:
                return key, error

        read_ahead = 0 if 0 <= database.login.connection_limit < _CONNECTIONS_TO_READ_AHEAD else 1
        days: deque[tuple[str, Future[ComputedDay]]] = deque()
        for key, window in windows.items():
            days.append((key, ahead.submit(read, window)))
            if len(days) > read_ahead:
                yield outcome(*days.popleft())
        for day in days:
            yield outcome(*day)
