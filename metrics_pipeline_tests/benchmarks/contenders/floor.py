"""The floor: the columns that are needed, in the server's own binary form, received and thrown away."""

from datetime import date, timedelta

import psycopg
from psycopg import sql

_COPY = """
COPY (
    SELECT agent_id, status, latency_ms, token_count, cost_usd, error_type,
           metadata->>'human_intervention' = 'true', metadata->>'user_id'
    FROM agent_execution_logs WHERE "timestamp" >= {} AND "timestamp" < {}
) TO STDOUT (FORMAT binary)"""


def run(url: str, day: str) -> dict[str, float]:
    """Stores nothing."""
    start = date.fromisoformat(day)
    statement = sql.SQL(_COPY).format(sql.Literal(start), sql.Literal(start + timedelta(days=1)))
    with psycopg.connect(url) as connection, connection.cursor().copy(statement) as rows:
        for _ in rows:
            pass
    return {}
