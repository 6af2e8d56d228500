"""metric_acknowledged_agents: agents that the checks leave out, because somebody knows of them and said why."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, text

_ROWS = text("""
SELECT agent_id, reason, acknowledged_at, status::text AS status
  FROM metric_acknowledged_agents LEFT JOIN agent_registry ON id::text = agent_id
 ORDER BY agent_id COLLATE "C\"""")

# The date of an earlier acknowledgement is kept: since then the agent is left out.
_ACKNOWLEDGE = text("""
INSERT INTO metric_acknowledged_agents AS known (agent_id, reason)
SELECT agent_id, :reason FROM unnest(CAST(:agents AS text[])) AS agent_id
ON CONFLICT (agent_id) DO UPDATE SET reason = EXCLUDED.reason""")

_TAKE_BACK = text("DELETE FROM metric_acknowledged_agents WHERE agent_id = ANY(:agents) RETURNING agent_id")


@dataclass(frozen=True)
class Acknowledgement:
    """An acknowledged agent; status: its present one in agent_registry, None if it is not registered."""

    agent_id: str
    reason: str
    acknowledged_at: datetime
    status: str | None


def acknowledgements(connection: Connection) -> list[Acknowledgement]:
    """All acknowledged agents, in the order of their ids."""
    return [Acknowledgement(**row) for row in connection.execute(_ROWS).mappings()]


def acknowledge(connection: Connection, agents: Sequence[str], reason: str) -> None:
    """Acknowledges the agents, registered or not. A repetition replaces the reason and keeps the date."""
    connection.execute(_ACKNOWLEDGE, {"agents": sorted(set(agents)), "reason": reason})


def take_back(connection: Connection, agents: Sequence[str]) -> list[str]:
    """Takes acknowledgements back, and returns the agents that had one."""
    return sorted(connection.execute(_TAKE_BACK, {"agents": list(agents)}).scalars())
