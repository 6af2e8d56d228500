"""Alerts: episodes of unusual days of an agent, of the fleet or of the pipeline, which follow from the verdicts.

An alert opens on an unusual day, and resolves on the second usual day in a row, or when no day was judged for
QUIET_DAYS (episodes()). What differs from the stored alerts are the transitions (differences()).
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import date, timedelta
from enum import StrEnum
from typing import Any

from metrics_pipeline.metrics.alert_rules import Scope as Scope
from metrics_pipeline.metrics.alert_rules import Severity as Severity
from metrics_pipeline.metrics.verdicts import Series, Verdict

#: After how many usual days in a row an alert is resolved, and after how many days of which none was judged.
USUAL_DAYS = 2
QUIET_DAYS = 14


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

    @property
    def series(self) -> Series:
        """What it is about."""
        return Series(self.rule, self.scope, self.agent_id)

    def is_open_on(self, day: date) -> bool:
        """Whether it was opened by the end of `day` and not resolved then."""
        return self.opened_on <= day and (self.resolved_on is None or self.resolved_on > day)


def episodes(series: Series, verdicts: Iterable[Verdict], before: Alert | None, newest: date) -> list[Alert]:
    """The alerts that follow from the verdicts, in the order of their days.

    before: an alert as it was after its last_seen_on, if the verdicts begin after that day. newest: the newest day
    that is stored, by which an alert without judged days has been resolved or not.
    """
    found: list[Alert] = []
    current = None if before is None else replace(before, resolved_on=None)
    judged_on = before.last_seen_on if before else date.min
    usual = 0
    for day, evidence, is_critical in verdicts:
        if current and day > _ends(judged_on):
            found.append(replace(current, resolved_on=_ends(judged_on)))
            current = None
        if evidence is not None:
            severity = Severity.CRITICAL if is_critical else Severity.WARNING
            if current is None:
                current = Alert(*series, day, severity, day, 1, None, evidence)
            else:
                current = replace(
                    current,
                    severity=max(current.severity, severity, key=list(Severity).index),
                    last_seen_on=day,
                    days=current.days + 1,
                    evidence=evidence,
                )
            usual = 0
        elif current:
            usual += 1
            if usual == USUAL_DAYS:
                found.append(replace(current, resolved_on=day))
                current, usual = None, 0
        judged_on = day
    if current:
        found.append(replace(current, resolved_on=_ends(judged_on) if newest >= _ends(judged_on) else None))
    return found


def _ends(judged_on: date) -> date:
    return judged_on + timedelta(days=QUIET_DAYS)


def differences(before: Iterable[Alert], after: Iterable[Alert]) -> list[tuple[Change, Alert]]:
    """What became of the alerts, in the order of the days on which they opened.

    An alert that is open again after a restatement is opened. A withdrawn one is given as it was.
    """
    old, new = ({(alert.opened_on, alert.series): alert for alert in alerts} for alerts in (before, after))
    found: list[tuple[Change, Alert]] = []
    for key in sorted({*old, *new}):
        if key in new:
            found += _changes(old.get(key), new[key])
        else:
            found.append((Change.WITHDRAWN, old[key]))
    return found


def _changes(old: Alert | None, new: Alert) -> Iterator[tuple[Change, Alert]]:
    was_open = old is not None and old.resolved_on is None
    if old is None or (not was_open and new.resolved_on is None):
        yield Change.OPENED, replace(new, resolved_on=None)
    elif old.severity != new.severity:
        yield Change.CHANGED, new
    if new.resolved_on is not None and (old is None or was_open):
        yield Change.RESOLVED, new
