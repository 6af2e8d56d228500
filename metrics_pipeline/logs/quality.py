"""SQL on what the logs in PostgreSQL say that no metric shows: each agent's costs, and values that cannot be right."""

from sqlalchemy import text

from metrics_pipeline.logs.contract import UpstreamContract
from metrics_pipeline.logs.log_columns import REGULAR_COST_NANO_USD, cost
from metrics_pipeline.logs.source import KNOWN_STATUSES
from metrics_pipeline.metrics.catalog import NANO_USD_PER_USD
from metrics_pipeline.metrics.costs import NOT_FINITE


def suspicions(contract: UpstreamContract) -> dict[str, tuple[str, str]]:
    """What makes a value suspicious, as SQL over agent_execution_logs: {kind: (condition, value)}."""
    latency, tokens, cost_usd = map(contract.column, ("latency_ms", "token_count", "cost_usd"))
    known = (*KNOWN_STATUSES, *contract.statuses)
    is_finite = f"{cost_usd}::text NOT IN {NOT_FINITE}"
    return {
        "negative_latency": (f"{latency} < 0", latency),
        "negative_tokens": (f"{tokens} < 0", tokens),
        "negative_cost": (f"{cost_usd} < 0 AND {is_finite}", cost_usd),
        "cost_not_a_number": (f"{cost_usd}::text IN {NOT_FINITE}", cost_usd),
        "cost_of_12_digits_or_more": (f"abs({cost_usd}) >= 1e11 AND {is_finite}", f"left({cost_usd}::text, 40)"),
        "unknown_status": (f'(status IS NULL OR status::text COLLATE "C" NOT IN {known})', "status"),
    }


_BY_AGENT = f"""
SELECT day, agent_id, count(*) AS logs, {REGULAR_COST_NANO_USD} AS regular_cost_nano_usd,
       coalesce(round(sum(cost_usd) FILTER (WHERE cost_usd::text NOT IN {NOT_FINITE}) * {NANO_USD_PER_USD}), 0)
           AS cost_nano_usd
FROM (SELECT {{day}} AS day, agent_id::text COLLATE "C" AS agent_id, COST AS cost_usd FROM {{logs}}) AS log
GROUP BY day, agent_id"""


def by_agent(contract: UpstreamContract) -> str:
    """A statement for over_days(): the logs and the costs of each agent and day."""
    return _BY_AGENT.replace("COST", cost(contract))


_COUNTS = """
SELECT count(*) AS logs, {counts}
FROM agent_execution_logs WHERE "timestamp" >= :start AND "timestamp" < :end"""

COUNT_FUTURE = text("""SELECT count(*) FROM agent_execution_logs WHERE "timestamp" > :start""")


def counts(contract: UpstreamContract) -> str:
    """A statement that counts the logs between :start and :end, and those that are suspicious by kind."""
    kinds = suspicions(contract).items()
    return _COUNTS.format(
        counts=", ".join(f"count(*) FILTER (WHERE {condition}) AS {kind}" for kind, (condition, _) in kinds)
    )


EXAMPLES = """
SELECT id::text AS log_id, agent_id::text AS agent_id, "timestamp"::text AS timestamp, {value}::text AS value
FROM agent_execution_logs WHERE {condition} ORDER BY "timestamp" DESC, id LIMIT :limit"""
