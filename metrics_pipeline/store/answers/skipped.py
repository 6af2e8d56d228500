"""Whose logs are in no metric of a day."""

from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any

from sqlalchemy import Connection, text

# The ledger names those with the most logs; what is missing to its number of skipped logs is of others.
_SKIPPED = text("""
WITH named AS (
    SELECT each->>'agent_id' AS agent_id, (each->>'logs')::bigint AS logs
    FROM metric_day_ledger CROSS JOIN LATERAL jsonb_array_elements(skipped_agents) AS each
    WHERE metric_date = :metric_date
)
SELECT CASE WHEN named.agent_id IS NULL THEN 'none' ELSE 'agent' END AS kind, named.agent_id,
       registered.status::text AS status, logs
FROM named LEFT JOIN agent_registry AS registered ON registered.id::text = named.agent_id
UNION ALL
SELECT 'others', NULL, NULL, skipped_logs - (SELECT coalesce(sum(logs), 0) FROM named)::bigint
FROM metric_day_ledger
WHERE metric_date = :metric_date AND skipped_logs > (SELECT coalesce(sum(logs), 0) FROM named)
ORDER BY 1, 4 DESC, 2""")


def skipped_agents(connection: Connection, metric_date: date) -> Sequence[Mapping[str, Any]]:
    """kind, agent_id, status and logs; the logs add up to the day's skipped logs in the ledger.

    kind: agent; none, of logs without an agent; others, of all further agents together.
    """
    return [dict(row) for row in connection.execute(_SKIPPED, {"metric_date": metric_date}).mappings()]
