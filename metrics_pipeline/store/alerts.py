"""metric_alerts and its journal: what is open, what changed, and what a receiver was not yet told."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

from sqlalchemy import Connection, text

from metrics_pipeline.metrics.alerts import Alert, Change, Scope, Severity

_ALERT_COLUMNS = "rule, scope, agent_id, opened_on, severity, last_seen_on, days, resolved_on, evidence"
_ORDER = 'opened_on, rule, scope, agent_id COLLATE "C"'

_OPEN = text(f"SELECT {_ALERT_COLUMNS} FROM metric_alerts WHERE resolved_on IS NULL ORDER BY {_ORDER}")

_ALERTS = text(f"""
SELECT {_ALERT_COLUMNS} FROM metric_alerts
 WHERE opened_on <= :last AND (resolved_on IS NULL OR resolved_on >= :first)
   AND (CAST(:agent_id AS text) IS NULL OR agent_id = :agent_id)
 ORDER BY {_ORDER}""")

_TRANSITION_COLUMNS = (
    "transition_id, rule, scope, agent_id, opened_on, transition, metric_date, severity, evidence, run_id, "
    "occurred_at, is_quiet"
)
_UNDELIVERED = text(f"""
SELECT {_TRANSITION_COLUMNS} FROM metric_alert_transitions
 WHERE NOT is_quiet AND NOT EXISTS (
    SELECT FROM metric_alert_deliveries AS delivery
     WHERE delivery.transition_id = metric_alert_transitions.transition_id
       AND receiver = :receiver AND delivered_at IS NOT NULL)
 ORDER BY transition_id LIMIT :limit""")


@dataclass(frozen=True)
class Transition:
    """A row of metric_alert_transitions; metric_date is the day whose storing caused it."""

    transition_id: int
    rule: str
    scope: Scope
    agent_id: str
    opened_on: date
    transition: Change
    metric_date: date
    severity: Severity
    evidence: dict[str, Any]
    run_id: str | None
    occurred_at: datetime
    is_quiet: bool


def open_alerts(connection: Connection) -> list[Alert]:
    """The alerts that are not resolved, the oldest first."""
    return [_alert(row) for row in connection.execute(_OPEN).mappings()]


def alerts_between(connection: Connection, first: date, last: date, *, agent_id: str | None = None) -> list[Alert]:
    """The alerts that were open on a day from `first` to `last`, of one agent or all, the oldest first."""
    rows = connection.execute(_ALERTS, {"first": first, "last": last, "agent_id": agent_id})
    return [_alert(row) for row in rows.mappings()]


def undelivered_transitions(connection: Connection, receiver: str, limit: int) -> list[Transition]:
    """The oldest transitions that are to be told and that `receiver` was not told."""
    rows = connection.execute(_UNDELIVERED, {"receiver": receiver, "limit": limit}).mappings()
    return [
        Transition(
            **{
                **row,
                "scope": Scope(row["scope"]),
                "transition": Change(row["transition"]),
                "severity": Severity(row["severity"]),
            }
        )
        for row in rows
    ]


def _alert(row: Mapping[str, Any]) -> Alert:
    return Alert(**{**row, "scope": Scope(row["scope"]), "severity": Severity(row["severity"])})
