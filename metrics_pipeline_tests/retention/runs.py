"""Runs of retention under the test's clock, and looks at what they left."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import date, datetime, timedelta
from typing import Any

from sqlalchemy import event

from metrics_pipeline.logs.contract import UpstreamContract
from metrics_pipeline.metrics.fingerprint import SourceFingerprint
from metrics_pipeline.metrics.retention import RetentionPolicy, cutoffs
from metrics_pipeline.metrics.windows import DayWindow, day_window
from metrics_pipeline.pipeline.opening import require_ready
from metrics_pipeline.postgres.database import Database
from metrics_pipeline.retention.pace import Pace
from metrics_pipeline.retention.report import RetentionReport
from metrics_pipeline.retention.run import apply_retention
from metrics_pipeline_tests.days import DAY, WINDOW, Log, aggregate, execute, present, query, store_agents, store_logs

#: The first night after which the raw logs of DAY are more than 30 days old.
NIGHT = "2025-04-04T03:30:00+00:00"


def prune(
    database: Database,
    at: str = NIGHT,
    *,
    policy: RetentionPolicy | None = None,
    time_zone: str = "UTC",
    is_dry_run: bool = False,
    batch_rows: int = 10_000,
    pause_ms: int = 0,
    contract: UpstreamContract | None = None,
    on_progress: Callable[[str], None] = lambda _message: None,
) -> RetentionReport:
    return apply_retention(
        database,
        contract or require_ready(database),
        cutoffs(policy or RetentionPolicy(), datetime.fromisoformat(at), time_zone),
        Pace(batch_rows=batch_rows, pause_ms=pause_ms),
        run_id="retention",
        is_dry_run=is_dry_run,
        on_progress=on_progress,
    )


def day(offset: int) -> date:
    """The day so many days after DAY."""
    return DAY + timedelta(days=offset)


def window(offset: int, time_zone: str = "UTC") -> DayWindow:
    """The window of that day."""
    return day_window(day(offset), time_zone)


def store_days(database: Database, *offsets: int, logs: int = 3, is_aggregated: bool = True) -> None:
    """An active and an unregistered agent with logs on the days so many days after DAY."""
    if not query(database, "SELECT 1 FROM agent_registry"):
        store_agents(database, {"a": "active"})
    for offset in offsets:
        start = window(offset).start
        store_logs(
            database,
            [
                Log(
                    "a" if n else "unregistered",
                    latency_ms=n,
                    cost_usd="0.1",
                    timestamp=start + timedelta(minutes=7 * n),
                )
                for n in range(logs)
            ],
        )
        if is_aggregated:
            aggregate(database, window(offset))


def moved(log: Log, offset: int) -> Log:
    return replace(log, timestamp=log.timestamp + timedelta(days=offset))


def logs_by_day(database: Database) -> dict[date, int]:
    """How many logs are there of each day of UTC."""
    return dict(
        query(database, """SELECT "timestamp"::date, count(*) FROM agent_execution_logs GROUP BY 1 ORDER BY 1""")
    )


def sealed(database: Database) -> dict[date, int]:
    """The sealed days, and how many of their logs were pruned."""
    return dict(
        query(
            database,
            "SELECT metric_date, raw_pruned_logs FROM metric_day_ledger WHERE raw_pruned_at IS NOT NULL ORDER BY 1",
        )
    )


def held_back(report: RetentionReport) -> dict[date, tuple[int, str]]:
    return {day.metric_date: (day.logs, day.reason) for day in report.held_back}


def contents(database: Database) -> dict[str, list[tuple[Any, ...]]]:
    """Everything that retention could touch."""
    tables = ("agent_execution_logs", "agent_performance_metrics", "metric_day_ledger", "metric_restatements",
              "agent_day_distributions", "alert_history")  # fmt: skip
    return {table: sorted(query(database, f"SELECT t::text FROM {table} AS t")) for table in tables}


class KilledError(Exception):
    """Raised where a process would be killed: what was not committed is gone, what was committed stays."""


def kill(_statement: int = 0) -> None:
    raise KilledError


@contextmanager
def interfering(database: Database, when: str, action: Callable[[int], None]) -> Iterator[None]:
    """Calls `action` after each statement of the engine that contains `when`, inside its transaction.

    The action gets the number of the statement, counted from 1. What it executes itself sets off nothing.
    """
    calls = 0
    is_acting = False

    def listen(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        nonlocal calls, is_acting
        if when in statement and not is_acting:
            calls, is_acting = calls + 1, True
            try:
                action(calls)
            finally:
                is_acting = False

    event.listen(database.engine, "after_cursor_execute", listen)
    try:
        yield
    finally:
        event.remove(database.engine, "after_cursor_execute", listen)


#: Statements of retention: one after the snapshot of a day and before its deletion, and the deletion of a slice.
VERIFIED = "AS overlapping"
DELETED = "DELETE FROM agent_execution_logs"


def at(number: int, action: Callable[[], None]) -> Callable[[int], None]:
    """The action, at that call only."""
    return lambda call: action() if call == number else None


def prune_in_part(database: Database, condition: str) -> None:
    """Leaves DAY as revision 0003 makes it of a day of which the version before had deleted these logs."""
    aggregated = present(database, WINDOW)[DAY]
    execute(database, f"DELETE FROM agent_execution_logs WHERE {condition}")
    left = present(database, WINDOW)[DAY]
    gone = SourceFingerprint.of({name: aggregated.numbers[name] - left.numbers[name] for name in left.numbers})
    execute(
        database,
        """UPDATE metric_day_ledger SET raw_pruned_at = now(), raw_pruned_logs = :logs, source_fingerprint =
           (source_fingerprint::jsonb || jsonb_build_object('pruned', CAST(:pruned AS jsonb)))::text
           WHERE metric_date = '2025-03-04'""",
        logs=gone.logs,
        pruned=gone.to_text(),
    )
