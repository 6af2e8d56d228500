"""Days put together by tests: storing agents and logs, aggregating, comparing with the oracle."""

from collections.abc import Iterable, Mapping
from dataclasses import astuple, dataclass, fields
from datetime import UTC, date, datetime
from typing import Any

from sqlalchemy import Connection, text

from metrics_pipeline.logs.source import ExtractedDay, LogSource
from metrics_pipeline.metrics.fingerprint import SourceFingerprint
from metrics_pipeline.metrics.reconciliation import DayVerdict
from metrics_pipeline.metrics.verification import Unreadable
from metrics_pipeline.metrics.windows import DayWindow, day_window
from metrics_pipeline.pipeline.aggregation import AggregatedDay, AggregationOptions, ComputedDay, compute_day, store_day
from metrics_pipeline.pipeline.opening import open_logs
from metrics_pipeline.pipeline.reconciling import judge_days
from metrics_pipeline.pipeline.watching import Effort, look_at_days, record
from metrics_pipeline.postgres.database import Database
from metrics_pipeline.store.publishing import Reason
from metrics_pipeline_tests.oracle import expected_metrics, stored_metrics

DAY = date(2025, 3, 4)
WINDOW = day_window(DAY, "UTC")
NOON = datetime(2025, 3, 4, 12, tzinfo=UTC)

# PostgreSQL's counters show within 10 seconds what a session has written. So they do before the commit is confirmed.
_COUNT_NOW = text("SELECT pg_stat_force_next_flush()")

#: As the checks look at night.
READ_ALL = Effort(is_full=True)

#: The tables that an aggregation writes, with the keys that order their rows.
WRITTEN = {
    "agent_performance_metrics": "metric_date, agent_id",
    "agent_day_distributions": "metric_date, agent_id",
    "agent_dimension_metrics": "metric_date, agent_id, dimension, value_kind, value",
    "agent_dimension_distributions": "metric_date, agent_id, dimension, value_kind, value",
    "metric_day_ledger": "metric_date",
    "metric_restatements": "metric_date, agent_id, replaced_at",
}


@dataclass(frozen=True)
class Log:
    """One row of agent_execution_logs. Costs and metadata are text, as PostgreSQL's input functions take it."""

    agent_id: str | None = "a"
    status: str | None = "success"
    latency_ms: int | None = None
    token_count: int | None = None
    cost_usd: str | None = None
    error_type: str | None = None
    metadata: str | None = None
    timestamp: datetime = NOON


def store_agents(database: Database, agents: Mapping[str, str]) -> None:
    """Registers agents: {id: status}."""
    with database.engine.begin() as connection:
        _copy(
            connection, "agent_registry (id, name, status)", ((id_, "name", status) for id_, status in agents.items())
        )


def store_logs(database: Database, logs: Iterable[Log]) -> None:
    """COPY takes the same text for any type of column."""
    columns = ", ".join(f'"{field.name}"' for field in fields(Log))
    with database.engine.begin() as connection:
        _copy(connection, f"agent_execution_logs ({columns})", map(astuple, logs))
        connection.execute(_COUNT_NOW)


def execute(database: Database, *statements: str, **parameters: Any) -> None:
    """Statements in one transaction."""
    with database.engine.begin() as connection:
        for statement in statements:
            connection.execute(text(statement), parameters)
        connection.execute(_COUNT_NOW)


def query(database: Database, statement: str) -> list[tuple[Any, ...]]:
    """The rows of a statement, in a session of its own."""
    with database.engine.connect() as connection:
        return [tuple(row) for row in connection.execute(text(statement))]


def column(database: Database, expression: str) -> list[Any]:
    """One value of each stored row of metrics, in the order of the agents."""
    return [row[0] for row in query(database, f"SELECT {expression} FROM agent_performance_metrics ORDER BY agent_id")]


def empty(database: Database) -> None:
    """Empties the database, in a tenth of the time that a new one takes."""
    execute(
        database,
        "DELETE FROM agent_registry",
        "DELETE FROM agent_execution_logs",
        "DELETE FROM metric_day_verifications",
        "DELETE FROM metric_alerts",
        "DELETE FROM metric_alert_transitions",
        "DELETE FROM metric_alert_deliveries",
        *map("DELETE FROM {}".format, WRITTEN),
    )


def compute(
    database: Database, window: DayWindow = WINDOW, *, include_inactive: bool = False, accept_deleted: bool = False
) -> ComputedDay:
    """The day's metrics, not stored."""
    return compute_day(database, open_logs(database), window, AggregationOptions(include_inactive, accept_deleted))


def read(database: Database, window: DayWindow = WINDOW, *, include_inactive: bool = False) -> ExtractedDay:
    """The day's logs as the source delivers them."""
    with database.snapshot() as snapshot:
        return open_logs(database).read_day(snapshot, window, include_inactive_agents=include_inactive)


def present(database: Database, *windows: DayWindow) -> dict[date, SourceFingerprint | Unreadable]:
    """The fingerprints that the server computes of the logs as they are now."""
    logs = open_logs(database)
    with database.snapshot() as snapshot:
        return logs.fingerprints(snapshot, windows, logs.fingerprint_kinds[0])


def judged(
    database: Database, *days: date, logs: LogSource | None = None, effort: Effort = READ_ALL
) -> list[DayVerdict]:
    """The verdicts on the days after a look at their logs, which is recorded as the checks and ticks record it."""
    found = look_at_days(database, logs or open_logs(database), days, "UTC", effort)
    record(database, found)
    with database.snapshot() as snapshot:
        return judge_days(snapshot, days, "UTC", found=found.by_day)


def aggregate(
    database: Database,
    window: DayWindow = WINDOW,
    *,
    include_inactive: bool = False,
    accept_deleted: bool = False,
    run_id: str = "a run",
    reason: Reason = Reason.MANUAL,
) -> AggregatedDay:
    """The day's metrics, stored."""
    computed = compute(database, window, include_inactive=include_inactive, accept_deleted=accept_deleted)
    return store_day(database, computed, run_id=run_id, reason=reason)


def written_rows(database: Database, *tables: str) -> dict[str, list[tuple[Any, ...]]]:
    """Every row of the tables that we write, with the ctid and the xmin of its last change."""
    return {
        table: query(database, f"SELECT ctid::text, xmin::text, t.* FROM {table} AS t ORDER BY {WRITTEN[table]}")
        for table in tables or WRITTEN
    }


def assert_exact(
    database: Database, window: DayWindow = WINDOW, *, include_inactive: bool = False, retired: Iterable[str] = ()
) -> None:
    """What is stored of the day equals the oracle in every row and column, and the ledger accounts for every log.

    `retired` are the agents that are no longer active but keep their row.
    """
    with database.engine.connect() as connection:
        expected = expected_metrics(
            connection, window.start, window.end, include_inactive=include_inactive, retired=retired
        )
        stored = stored_metrics(connection, window.metric_date)
        assert stored == expected
        ledger = connection.execute(
            text("SELECT * FROM metric_day_ledger WHERE metric_date = :day"), {"day": window.metric_date}
        ).one()
        in_window = connection.execute(
            text('SELECT count(*) FROM agent_execution_logs WHERE "timestamp" >= :start AND "timestamp" < :end'),
            {"start": window.start, "end": window.end},
        ).scalar_one()
    assert ledger.source_logs == in_window == ledger.aggregated_logs + ledger.skipped_logs
    assert ledger.aggregated_logs == sum(row["total_executions"] for row in expected.values())
    assert (ledger.agents, ledger.time_zone) == (len(expected), window.time_zone)
    assert (ledger.window_start, ledger.window_end) == (window.start, window.end)


def assert_exact_twice(
    database: Database, window: DayWindow = WINDOW, *, include_inactive: bool = False
) -> AggregatedDay:
    """Aggregates the day, compares it with the oracle, and aggregates it again, which touches no row of metrics.

    The fingerprint is compared with the one that the server computes without Polars.
    """
    first = aggregate(database, window, include_inactive=include_inactive)
    assert_exact(database, window, include_inactive=include_inactive)
    assert present(database, window) == {window.metric_date: first.computed.metrics.fingerprint}
    tables = ("agent_performance_metrics", "agent_day_distributions", "metric_restatements")
    metrics = written_rows(database, *tables)
    second = aggregate(database, window, include_inactive=include_inactive)
    assert written_rows(database, *tables) == metrics
    assert (second.published.inserted, second.published.changed) == (0, 0)
    assert second.computed.metrics.fingerprint == first.computed.metrics.fingerprint
    return first


def _copy(connection: Connection, target: str, rows: Iterable[tuple[Any, ...]]) -> None:
    with connection.connection.cursor() as cursor, cursor.copy(f"COPY {target} FROM STDIN") as copy:
        for row in rows:
            copy.write_row(row)
