"""The rows of metric_alerts that say what is wrong with the data and the pipeline now, and their transitions."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any

from sqlalchemy import Connection, text

from metrics_pipeline.metrics.alerts import Alert, Change, Scope, Severity
from metrics_pipeline.store.alerts import lock_alerts, open_alerts

_FORGET = text("""
DELETE FROM metric_alerts WHERE rule = :rule AND scope = 'pipeline' AND agent_id = '' AND opened_on = :opened_on""")
_KEEP = text("""
INSERT INTO metric_alerts (rule, scope, opened_on, severity, last_seen_on, days, resolved_on, evidence)
VALUES (:rule, 'pipeline', :opened_on, :severity, :last_seen_on, :days, :resolved_on, CAST(:evidence AS jsonb))""")
_TRANSITION = text("""
INSERT INTO metric_alert_transitions
    (rule, scope, agent_id, opened_on, transition, metric_date, severity, evidence, run_id, is_quiet)
VALUES (:rule, 'pipeline', '', :opened_on, :transition, :metric_date, :severity, CAST(:evidence AS jsonb), :run_id,
        false)""")


@dataclass(frozen=True)
class Condition:
    """What a rule finds wrong now.

    first, last: the days that it is about. about: the days, runs or others, each of which is news once. said: what is
    wrong, in a sentence. run_id: the run that has to do with it.
    """

    rule: str
    severity: Severity
    first: date
    last: date
    about: tuple[str, ...]
    said: str
    run_id: str | None = None

    @property
    def evidence(self) -> dict[str, Any]:
        """As metric_alerts keeps it."""
        return {"said": self.said, "about": list(self.about)}


#: What each rule finds wrong, None for nothing. A rule that cannot be judged now is left out.
Findings = Mapping[str, Condition | None]


def note(connection: Connection, found: Findings, today: date) -> None:
    """Makes the open alerts of the rules those that were found. `today` resolves the others.

    An alert changes, and is told again, if it is more severe or about something new.
    """
    lock_alerts(connection)
    stored = {each.rule: each for each in open_alerts(connection) if each.scope is Scope.PIPELINE}
    for rule, condition in found.items():
        alert = stored.get(rule)
        if condition is not None:
            _hold(connection, alert, condition)
        elif alert is not None:
            _resolve(connection, alert, today)


def _hold(connection: Connection, alert: Alert | None, condition: Condition) -> None:
    opened_on = condition.first if alert is None else alert.opened_on
    values = {
        "rule": condition.rule,
        "opened_on": opened_on,
        "severity": condition.severity,
        "last_seen_on": condition.last,
        "days": len(condition.about),
        "resolved_on": None,
        "evidence": json.dumps(condition.evidence),
        "metric_date": condition.last,
        "run_id": condition.run_id,
    }
    change: Change | None = Change.OPENED
    if alert is not None:
        if (alert.evidence, alert.severity) == (condition.evidence, condition.severity):
            return
        is_worse = condition.severity is Severity.CRITICAL and alert.severity is Severity.WARNING
        has_news = set(condition.about) - set(alert.evidence.get("about", []))
        change = Change.CHANGED if is_worse or has_news else None
    # One that was resolved and begins again on the same day is the same episode.
    connection.execute(_FORGET, values)
    connection.execute(_KEEP, values)
    if change is not None:
        connection.execute(_TRANSITION, {**values, "transition": change})


def _resolve(connection: Connection, alert: Alert, today: date) -> None:
    values = vars(alert) | {"resolved_on": today, "evidence": json.dumps(alert.evidence)}
    connection.execute(_FORGET, values)
    connection.execute(_KEEP, values)
    news = {"transition": Change.RESOLVED, "metric_date": alert.last_seen_on, "run_id": None}
    connection.execute(_TRANSITION, values | news)
