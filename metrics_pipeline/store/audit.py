"""Audits our own tables: the ledger against its rows, agents without rows, and the history of each agent."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import date

import polars as pl
from sqlalchemy import Connection, text

from metrics_pipeline.metrics.anomalies import HISTORY_SCHEMA
from metrics_pipeline.metrics.catalog import AGENT_DAY, AGENT_DIMENSION_DAY, NANO_USD_PER_USD
from metrics_pipeline.metrics.conservation import StoredTotals
from metrics_pipeline.store.ledger import LEDGER_COLUMNS, ledger_row
from metrics_pipeline.store.publishing import rows_digest
from metrics_pipeline.store.unlogged import ROWS_AND_DAYS, known

_MAX_NAMED_AGENTS = 5

# The tolerance of costs: the average and the total are each rounded by half a nano-dollar at most.
_CONTRADICTION = """(
    errors <> failed_executions
    OR successful_executions + failed_executions > total_executions
    OR success_rate <> CASE total_executions WHEN 0 THEN 1
                       ELSE round(successful_executions::numeric / total_executions, 6) END
    OR abs(avg_cost_per_execution * total_executions - total_cost_usd) > (total_executions + 1) * 0.0000000005
    OR NOT (p50_latency_ms <= p95_latency_ms AND p95_latency_ms <= p99_latency_ms))"""

_DIGEST = rows_digest(AGENT_DAY)
_BREAKDOWN_DIGEST = rows_digest(AGENT_DIMENSION_DAY)

_STORED_TOTALS = text(f"""
SELECT {", ".join(f"ledger.{name}" for name in LEDGER_COLUMNS)}, ledger.xmin::text AS version,
       coalesce(rows, 0) AS rows, coalesce(executions, 0) AS executions, coalesce(successful, 0) AS successful,
       coalesce(failed, 0) AS failed, coalesce(counted, 0) AS errors, coalesce(tokens, 0) AS tokens,
       coalesce(cost_nano_usd, 0) AS cost_nano_usd, coalesce(contradictory, '{{}}') AS contradictory_agents,
       coalesce(digest, (SELECT {_DIGEST} FROM agent_performance_metrics WHERE false)) AS digest,
       CASE WHEN :breakdowns THEN
           coalesce(breakdown_digest_now, (SELECT {_BREAKDOWN_DIGEST} FROM agent_dimension_metrics WHERE false))
       END AS breakdown_digest_now
FROM metric_day_ledger AS ledger
LEFT JOIN (
    SELECT metric_date, count(*) AS rows, sum(total_executions) AS executions,
           sum(successful_executions) AS successful, sum(failed_executions) AS failed, sum(errors) AS counted,
           sum(total_tokens) AS tokens, sum(total_cost_usd) * {NANO_USD_PER_USD} AS cost_nano_usd,
           (array_agg(agent_id ORDER BY agent_id) FILTER (WHERE {_CONTRADICTION}))[1:{_MAX_NAMED_AGENTS}]
               AS contradictory,
           {_DIGEST} AS digest
    FROM agent_performance_metrics
    CROSS JOIN LATERAL (
        SELECT coalesce(sum(executions::numeric), 0) AS errors FROM jsonb_each_text(error_distribution)
            AS error(type, executions)) AS distribution
    WHERE metric_date BETWEEN :first AND :last
    GROUP BY metric_date
) AS stored USING (metric_date)
LEFT JOIN (
    SELECT metric_date, {_BREAKDOWN_DIGEST} AS breakdown_digest_now
    FROM agent_dimension_metrics WHERE :breakdowns AND metric_date BETWEEN :first AND :last GROUP BY metric_date
) AS by_value USING (metric_date)
WHERE metric_date BETWEEN :first AND :last
ORDER BY metric_date""")

_DAYS_WITHOUT_LEDGER = text("""
SELECT count(DISTINCT metric_date) FROM agent_performance_metrics AS metrics
WHERE NOT EXISTS (SELECT FROM metric_day_ledger AS ledger WHERE ledger.metric_date = metrics.metric_date)""")

_AGENTS_WITHOUT_ROW = text("""
SELECT count(*) OVER () AS agents, id::text AS agent_id, name
FROM agent_registry
WHERE status::text COLLATE "C" = 'active' AND NOT EXISTS (
    SELECT FROM agent_performance_metrics WHERE agent_id = id::text AND metric_date = :metric_date)
ORDER BY id::text LIMIT :limit""")

_STATUSES = text("SELECT id::text, status::text FROM agent_registry WHERE id::text = ANY(:agents)")

_ACTIVE_AGENTS = text("""SELECT count(*) FROM agent_registry WHERE status::text COLLATE "C" = 'active'""")

_HISTORY = text(f"""
SELECT {", ".join(map(known, HISTORY_SCHEMA.names()))} FROM {ROWS_AND_DAYS} WHERE metric_date = ANY(:days)""")


@dataclass(frozen=True)
class AgentsWithoutRow:
    """The active agents without a row of a day: how many, and the first of them as (id, name)."""

    active_agents: int
    missing_agents: int
    named: Sequence[tuple[str, str]]


def stored_totals(
    connection: Connection, first: date = date.min, last: date = date.max, *, breakdowns: bool = True
) -> list[StoredTotals]:
    """The days of the ledger from `first` to `last` with the sums over their rows, oldest first. Reads no logs.

    breakdowns: whether to read the rows by value too, which takes 4 µs each: 0.05 s for a day of 500 agents and 25
    values.
    """
    totals = []
    given = {"first": first, "last": last, "breakdowns": breakdowns}
    for row in connection.execute(_STORED_TOTALS, given).mappings():
        sums = {name: value for name, value in row.items() if name not in (*LEDGER_COLUMNS, "version")}
        agents, digest = tuple(sums.pop("contradictory_agents")), str(sums.pop("digest"))
        of_values = sums.pop("breakdown_digest_now")
        # sum() of a bigint is a numeric.
        whole = {name: int(value) for name, value in sums.items()}
        totals.append(
            StoredTotals(
                ledger_row(row), **whole, contradictory_agents=agents, digest=digest, breakdown_digest=of_values
            )
        )
    return totals


def days_without_ledger(connection: Connection) -> int:
    """How many days have rows of metrics but no ledger row: another program stored them, or the ledger was cleared."""
    return int(connection.execute(_DAYS_WITHOUT_LEDGER).scalar_one())


def agents_without_row(connection: Connection, metric_date: date, *, limit: int) -> AgentsWithoutRow:
    """The agents that are active now and have no row of the day; at most `limit` are named."""
    rows = connection.execute(_AGENTS_WITHOUT_ROW, {"metric_date": metric_date, "limit": limit}).all()
    return AgentsWithoutRow(
        active_agents=int(connection.execute(_ACTIVE_AGENTS).scalar_one()),
        missing_agents=rows[0].agents if rows else 0,
        named=[(row.agent_id, row.name) for row in rows],
    )


def registered_statuses(connection: Connection, agents: Collection[str]) -> dict[str, str]:
    """The status of each of `agents` that is registered."""
    return {row.id: row.status for row in connection.execute(_STATUSES, {"agents": list(agents)})}


def agent_history(connection: Connection, days: Sequence[date]) -> pl.DataFrame:
    """The stored rows of `days` in HISTORY_SCHEMA, without what nothing is known of."""
    rows = connection.execute(_HISTORY, {"days": list(days)})
    return pl.DataFrame([tuple(row) for row in rows], schema=HISTORY_SCHEMA, orient="row", strict=False)
