"""Runs of retention under the test's clock, and looks at what they left."""

import time
from collections.abc import Callable
from dataclasses import replace
from datetime import date, datetime, timedelta
from typing import Any

from metrics_pipeline.metrics.retention import RetentionPolicy, cutoffs
from metrics_pipeline.metrics.windows import DayWindow, day_window
from metrics_pipeline.pipeline.opening import open_logs
from metrics_pipeline.postgres.database import Database
from metrics_pipeline.retention.pace import Pace
from metrics_pipeline.retention.report import RetentionReport
from metrics_pipeline.retention.run import apply_retention
from metrics_pipeline_tests.days import DAY, Log, aggregate, query, store_agents, store_logs

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
    on_progress: Callable[[str], None] = lambda _message: None,
) -> RetentionReport:
    return apply_retention(
        database,
        open_logs(database).contract,
        cutoffs(policy or RetentionPolicy(), datetime.fromisoformat(at), time_zone),
        Pace(batch_rows=batch_rows, pause_ms=0),
        run_id="retention",
        is_dry_run=is_dry_run,
        on_progress=on_progress,
    )


def window(offset: int, time_zone: str = "UTC") -> DayWindow:
    """The day so many days after DAY."""
    return day_window(DAY + timedelta(days=offset), time_zone)


def store_days(database: Database, *offsets: int, logs: int = 3, is_aggregated: bool = True) -> None:
    """An active and an unregistered agent with logs on the days so many days after DAY."""
    if not query(database, "SELECT 1 FROM agent_registry"):
        store_agents(database, {"a": "active"})
    for offset in offsets:
        start = window(offset).start
        store_logs(
            database,
            [
                Log("a" if n else "unregistered", latency_ms=n, cost_usd="0.1", timestamp=start + timedelta(seconds=n))
                for n in range(logs)
            ],
        )
        if is_aggregated:
            aggregate(database, window(offset))


def moved(log: Log, offset: int) -> Log:
    return replace(log, timestamp=log.timestamp + timedelta(days=offset))


def logs_by_day(database: Database) -> dict[date, int]:
    """How many logs stand on each day of UTC."""
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


def settle(database: Database) -> None:
    """Waits until every transaction that is open now has ended, those of other tests on the server among them."""
    with database.engine.connect() as connection:
        newest = connection.exec_driver_sql("SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint").scalar_one()
    oldest_open = "SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint"
    while query(database, oldest_open)[0][0] < newest:
        time.sleep(0.01)


def contents(database: Database) -> dict[str, list[tuple[Any, ...]]]:
    """Everything that retention could touch."""
    tables = ("agent_execution_logs", "agent_performance_metrics", "metric_day_ledger", "metric_restatements",
              "metric_day_pruning", "alert_history")  # fmt: skip
    return {table: sorted(query(database, f"SELECT t::text FROM {table} AS t")) for table in tables}
