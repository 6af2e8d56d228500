"""Alerts: episodes of unusual days of an agent, of the fleet or of the pipeline, computed from the stored metrics."""

from dataclasses import dataclass
from datetime import date
from enum import StrEnum
from typing import Any


class Scope(StrEnum):
    """What an alert is about."""

    AGENT = "agent"
    FLEET = "fleet"
    PIPELINE = "pipeline"


class Severity(StrEnum):
    """How bad it is; an episode has that of its worst day."""

    WARNING = "warning"
    CRITICAL = "critical"


class Change(StrEnum):
    """What became of an alert when a day was stored."""

    OPENED = "opened"
    CHANGED = "changed"
    RESOLVED = "resolved"
    WITHDRAWN = "withdrawn"


@dataclass(frozen=True)
class Alert:
    """An episode, as a row of metric_alerts.

    agent_id: empty unless the scope is AGENT. last_seen_on: its newest unusual day. days: how many unusual days it has.
    resolved_on: the day that resolved it; None while it is open. evidence: of the newest unusual day; money is text.
    """

    rule: str
    scope: Scope
    agent_id: str
    opened_on: date
    severity: Severity
    last_seen_on: date
    days: int
    resolved_on: date | None
    evidence: dict[str, Any]
