"""What monitoring asks of the stored days: the newest one's totals and agents, and days that were never stored."""

from collections.abc import Sequence
from datetime import date

from sqlalchemy import Connection, RowMapping, text

_TOTALS = text("""
SELECT count(*) AS agents, coalesce(sum(total_executions), 0) AS executions,
       coalesce(sum(failed_executions), 0) AS failed_executions, coalesce(sum(total_tokens), 0) AS tokens,
       coalesce(sum(total_cost_usd), 0) AS cost_usd
FROM agent_performance_metrics WHERE metric_date = :day""")

_AGENTS = text("""
SELECT agent_id, total_executions, success_rate, total_cost_usd, p50_latency_ms, p95_latency_ms, p99_latency_ms
FROM agent_performance_metrics WHERE metric_date = :day
ORDER BY total_executions DESC, agent_id LIMIT :limit""")

_GAPS = text("""
SELECT count(*) AS days, min(day)::date AS oldest
FROM generate_series((SELECT min(metric_date) FROM metric_day_ledger)::timestamp, CAST(:last AS date), '1 day') AS day
WHERE NOT EXISTS (SELECT FROM metric_day_ledger WHERE metric_date = day)""")


def day_totals(connection: Connection, day: date) -> RowMapping:
    """agents, executions, failed_executions, tokens and cost_usd of all agents of a day."""
    return connection.execute(_TOTALS, {"day": day}).mappings().one()


def busiest_agents(connection: Connection, day: date, limit: int) -> Sequence[RowMapping]:
    """The `limit` agents with the most executions of a day."""
    return connection.execute(_AGENTS, {"day": day, "limit": limit}).mappings().all()


def gaps(connection: Connection, last: date) -> tuple[int, date | None]:
    """How many days from the first stored one to `last` are not stored, and the oldest of them."""
    row = connection.execute(_GAPS, {"last": last}).one()
    return row.days, row.oldest
