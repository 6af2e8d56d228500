"""What the logs say that no metric shows: costs and agents that were skipped, and values that cannot be right."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any

from sqlalchemy import Connection, text

from metrics_pipeline.logs.contract import UpstreamContract
from metrics_pipeline.logs.log_columns import IS_REGULAR_COST, total_regular_cost_nano_usd
from metrics_pipeline.metrics.conservation import LogCosts
from metrics_pipeline.metrics.costs import NOT_FINITE
from metrics_pipeline.metrics.schema import FAILED_STATUS, NANO_USD_PER_USD, SUCCESS_STATUS
from metrics_pipeline.metrics.windows import DayWindow

#: Statuses that platforms are known to write. Another one may be a success or a failure that nobody counts as such.
KNOWN_STATUSES = (SUCCESS_STATUS, FAILED_STATUS, "running", "pending", "queued", "cancelled", "canceled", "timeout")

#: What makes a value suspicious, as SQL over agent_execution_logs: {kind: (condition, value)}.
SUSPICIONS = {
    "negative_latency": ("latency_ms < 0", "latency_ms"),
    "negative_tokens": ("token_count < 0", "token_count"),
    "negative_cost": (f"cost_usd < 0 AND cost_usd::text NOT IN {NOT_FINITE}", "cost_usd"),
    "cost_not_a_number": (f"cost_usd::text IN {NOT_FINITE}", "cost_usd"),
    "unknown_status": (f"(status IS NULL OR status::text NOT IN {KNOWN_STATUSES})", "status"),
}

# The logs of several days in one pass, and which of the days each belongs to, counted from 1 (see fingerprints).
_LOGS_OF_DAYS = """
    SELECT width_bucket("timestamp", CAST(:starts AS {timestamp_type}[])) AS day, agent_id::text AS agent_id, cost_usd
    FROM agent_execution_logs
    WHERE "timestamp" >= :start AND "timestamp" < :end
      AND "timestamp" < (CAST(:ends AS {timestamp_type}[]))[
              width_bucket("timestamp", CAST(:starts AS {timestamp_type}[]))]"""

_COSTS = f"""
SELECT by_agent.day, sum(logs) AS logs, {total_regular_cost_nano_usd("sum(regular)")} AS cost_nano_usd,
       coalesce(sum(round(exact)) FILTER (WHERE metrics.agent_id IS NOT NULL), 0) AS aggregated_cost_nano_usd
FROM (
    SELECT day, agent_id, count(*) AS logs,
           sum(cost_usd) FILTER (WHERE {IS_REGULAR_COST}) AS regular,
           sum(cost_usd * {NANO_USD_PER_USD}) FILTER (WHERE cost_usd::text NOT IN {NOT_FINITE}) AS exact
    FROM ({_LOGS_OF_DAYS}) AS log
    GROUP BY day, agent_id
) AS by_agent
LEFT JOIN agent_performance_metrics AS metrics
    ON metrics.agent_id = by_agent.agent_id AND metrics.metric_date = (CAST(:days AS date[]))[by_agent.day]
GROUP BY by_agent.day"""

_SKIPPED = f"""
SELECT by_agent.agent_id, sum(logs) AS logs, count(*) AS days, registry.status::text AS status,
       count(*) OVER () AS agents
FROM (SELECT day, agent_id, count(*) AS logs FROM ({_LOGS_OF_DAYS}) AS log GROUP BY day, agent_id) AS by_agent
LEFT JOIN agent_performance_metrics AS metrics
    ON metrics.agent_id = by_agent.agent_id AND metrics.metric_date = (CAST(:days AS date[]))[by_agent.day]
LEFT JOIN agent_registry AS registry ON registry.id::text = by_agent.agent_id
WHERE metrics.agent_id IS NULL
GROUP BY by_agent.agent_id, registry.status
ORDER BY logs DESC, by_agent.agent_id
LIMIT :limit"""

_COUNTS = text(f"""
SELECT count(*) AS logs,
       {", ".join(f"count(*) FILTER (WHERE {condition}) AS {kind}" for kind, (condition, _) in SUSPICIONS.items())}
FROM agent_execution_logs WHERE "timestamp" >= :start AND "timestamp" < :end""")

_EXAMPLES = """
SELECT id::text AS log_id, agent_id::text AS agent_id, "timestamp"::text AS timestamp, {value}::text AS value
FROM agent_execution_logs WHERE "timestamp" >= :start AND "timestamp" < :end AND {condition}
ORDER BY "timestamp" DESC, id LIMIT :limit"""

# '-infinity' and the years before Christ, which Python's calendar lacks, are no beginning of anything.
_BEGINNING = text("""
SELECT (SELECT min("timestamp") FROM agent_execution_logs
         WHERE "timestamp" >= '0001-01-01' AND "timestamp" < '9999-01-01') AS first_log,
       (SELECT min(window_start) FROM metric_day_ledger) AS first_stored""")

_IN_THE_FUTURE = """FROM agent_execution_logs WHERE "timestamp" > :now"""


@dataclass(frozen=True)
class SkippedAgent:
    """An agent whose logs are in no metric: on how many days, and its status, None if it is not registered."""

    agent_id: str | None
    logs: int
    days: int
    status: str | None


@dataclass(frozen=True)
class SuspiciousLog:
    """A log that holds a suspicious value, everything as text."""

    log_id: str
    agent_id: str | None
    timestamp: str
    value: str | None


@dataclass(frozen=True)
class Suspicion:
    """How many logs hold a kind of suspicious value, and the newest of them."""

    logs: int
    examples: Sequence[SuspiciousLog]


def beginning(connection: Connection) -> datetime | None:
    """The instant (UTC) from which on there is anything: the first log that stands, or the first stored day."""
    first_log, first_stored = connection.execute(_BEGINNING).one()
    instants = [first.replace(tzinfo=first.tzinfo or UTC) for first in (first_log, first_stored) if first is not None]
    return min(instants, default=None)


def log_costs(connection: Connection, contract: UpstreamContract, windows: Sequence[DayWindow]) -> dict[date, LogCosts]:
    """What the logs of each of `windows` say of its cost; a day without logs is left out. One pass over the logs.

    `windows` are in the order of their days; there may be days between them.
    """
    rows = _over_days(connection, contract, windows, _COSTS)
    return {
        windows[row["day"] - 1].metric_date: LogCosts(
            **{name: int(value) for name, value in row.items() if name != "day"}
        )
        for row in rows
    }


def skipped_agents(
    connection: Connection, contract: UpstreamContract, windows: Sequence[DayWindow], *, limit: int
) -> tuple[int, list[SkippedAgent]]:
    """How many agents have logs but no row on a day of `windows`, and those with most such logs. One pass."""
    rows = _over_days(connection, contract, windows, _SKIPPED, limit=limit)
    agents = rows[0]["agents"] if rows else 0
    return agents, [SkippedAgent(row["agent_id"], int(row["logs"]), row["days"], row["status"]) for row in rows]


def suspicious_values(
    connection: Connection, contract: UpstreamContract, start: datetime, end: datetime, *, examples: int
) -> tuple[int, dict[str, Suspicion]]:
    """How many logs the instants [start, end) have, and what is suspicious of them by kind, zeros included."""
    bounds = {"start": contract.instant(start), "end": contract.instant(end)}
    counts = dict(connection.execute(_COUNTS, bounds).mappings().one())
    logs = counts.pop("logs")
    found = {}
    for kind, count in counts.items():
        condition, value = SUSPICIONS[kind]
        statement = text(_EXAMPLES.format(condition=condition, value=value))
        rows = connection.execute(statement, {**bounds, "limit": examples}).mappings() if count else ()
        found[kind] = Suspicion(count, [SuspiciousLog(**row) for row in rows])
    return logs, found


def future_logs(connection: Connection, contract: UpstreamContract, now: datetime, *, examples: int) -> Suspicion:
    """The logs that were written for an instant after `now`."""
    count = connection.execute(text(f"SELECT count(*) {_IN_THE_FUTURE}"), {"now": contract.instant(now)}).scalar_one()
    rows = connection.execute(
        text(
            f"""SELECT id::text AS log_id, agent_id::text AS agent_id, "timestamp"::text AS timestamp,
                       "timestamp"::text AS value {_IN_THE_FUTURE} ORDER BY "timestamp" DESC, id LIMIT :limit"""
        ),
        {"now": contract.instant(now), "limit": examples},
    )
    return Suspicion(count, [SuspiciousLog(**row) for row in rows.mappings()])


def _over_days(
    connection: Connection, contract: UpstreamContract, windows: Sequence[DayWindow], statement: str, **parameters: Any
) -> Sequence[Any]:
    if not windows:
        return []
    starts = [contract.instant(window.start) for window in windows]
    ends = [contract.instant(window.end) for window in windows]
    return (
        connection.execute(
            text(statement.format(timestamp_type="timestamp" if contract.timestamp_is_naive else "timestamptz")),
            {
                "days": [window.metric_date for window in windows],
                "starts": starts,
                "ends": ends,
                "start": starts[0],
                "end": ends[-1],
                **parameters,
            },
        )
        .mappings()
        .all()
    )
