"""Facts about the logs in PostgreSQL that no metric shows: what each agent logged, and suspicious values."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import Connection, text

from metrics_pipeline.logs.contract import UpstreamContract
from metrics_pipeline.logs.days import over_days
from metrics_pipeline.logs.log_columns import REGULAR_COST_NANO_USD
from metrics_pipeline.logs.source import KNOWN_STATUSES, LogQuality, Suspicion, SuspiciousLog
from metrics_pipeline.metrics.catalog import NANO_USD_PER_USD
from metrics_pipeline.metrics.conservation import AgentLogs
from metrics_pipeline.metrics.costs import NOT_FINITE
from metrics_pipeline.metrics.windows import DayWindow

#: What makes a value suspicious, as SQL over agent_execution_logs: {kind: (condition, value)}.
SUSPICIONS = {
    "negative_latency": ("latency_ms < 0", "latency_ms"),
    "negative_tokens": ("token_count < 0", "token_count"),
    "negative_cost": (f"cost_usd < 0 AND cost_usd::text NOT IN {NOT_FINITE}", "cost_usd"),
    "cost_not_a_number": (f"cost_usd::text IN {NOT_FINITE}", "cost_usd"),
    "unknown_status": (f"(status IS NULL OR status::text NOT IN {KNOWN_STATUSES})", "status"),
}

_BY_AGENT = f"""
SELECT day, agent_id, count(*) AS logs, {REGULAR_COST_NANO_USD} AS regular_cost_nano_usd,
       coalesce(round(sum(cost_usd) FILTER (WHERE cost_usd::text NOT IN {NOT_FINITE}) * {NANO_USD_PER_USD}), 0)
           AS cost_nano_usd
FROM (SELECT {{day}} AS day, agent_id::text AS agent_id, cost_usd FROM {{logs}}) AS log
GROUP BY day, agent_id"""

_COUNTS = text(f"""
SELECT count(*) AS logs,
       {", ".join(f"count(*) FILTER (WHERE {condition}) AS {kind}" for kind, (condition, _) in SUSPICIONS.items())}
FROM agent_execution_logs WHERE "timestamp" >= :start AND "timestamp" < :end""")

_COUNT_FUTURE = text("""SELECT count(*) FROM agent_execution_logs WHERE "timestamp" > :start""")

_EXAMPLES = """
SELECT id::text AS log_id, agent_id::text AS agent_id, "timestamp"::text AS timestamp, {value}::text AS value
FROM agent_execution_logs WHERE {condition} ORDER BY "timestamp" DESC, id LIMIT :limit"""


def logs_by_agent(connection: Connection, contract: UpstreamContract, windows: Sequence[DayWindow]) -> list[AgentLogs]:
    """What each agent logged on each day of `windows`, which are sorted by day."""
    return [
        AgentLogs(
            windows[row["day"] - 1].metric_date,
            row["agent_id"],
            row["logs"],
            int(row["regular_cost_nano_usd"]),
            int(row["cost_nano_usd"]),
        )
        for row in over_days(connection, contract, windows, _BY_AGENT)
    ]


def suspicious_values(
    connection: Connection,
    contract: UpstreamContract,
    start: datetime,
    end: datetime,
    *,
    future_from: datetime,
    examples: int,
) -> LogQuality:
    """The suspicious values of the logs in [start, end), and the logs after `future_from`."""
    bounds = {"start": contract.instant(start), "end": contract.instant(end)}
    counts = dict(connection.execute(_COUNTS, bounds).mappings().one())
    logs = counts.pop("logs")

    def suspicion(count: int, condition: str, value: str, given: dict[str, datetime]) -> Suspicion:
        statement = text(_EXAMPLES.format(condition=condition, value=value))
        rows = connection.execute(statement, {**given, "limit": examples}).mappings() if count else ()
        return Suspicion(count, [SuspiciousLog(**row) for row in rows])

    within = '"timestamp" >= :start AND "timestamp" < :end'
    found = {
        kind: suspicion(counts[kind], f"{within} AND {condition}", value, bounds)
        for kind, (condition, value) in SUSPICIONS.items()
    }
    future = {"start": contract.instant(future_from)}
    found["in_the_future"] = suspicion(
        connection.execute(_COUNT_FUTURE, future).scalar_one(), '"timestamp" > :start', '"timestamp"', future
    )
    return LogQuality(logs, found)
