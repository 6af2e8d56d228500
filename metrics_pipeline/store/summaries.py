"""Summaries of days and weeks: their figures, and their place in the journal, from which each is told once."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal

from sqlalchemy import Connection, text

from metrics_pipeline.store.alerts import lock_alerts

#: How the rule of a summary in the journal begins. It is never one of metric_alerts.
SUMMARY_PREFIX = "summary_"

_FIGURES = text("""
SELECT (SELECT count(*) FROM metric_day_ledger
         WHERE metric_date BETWEEN :first AND :last AND metrics_expired_at IS NULL) AS days,
       (SELECT count(*) FROM metric_day_ledger WHERE metric_date BETWEEN :first AND :last
           AND metrics_expired_at IS NULL AND 'cost_usd' <> ALL(unlogged)) AS days_with_cost,
       count(DISTINCT agent_id) FILTER (WHERE total_executions > 0) AS agents,
       coalesce(sum(total_executions), 0)::bigint AS executions,
       coalesce(sum(failed_executions), 0)::bigint AS failures, coalesce(sum(total_cost_usd), 0) AS cost_usd
  FROM agent_performance_metrics WHERE metric_date BETWEEN :first AND :last""")

# Only once its last day is stored: until then an alert says that it is missing.
_IS_DUE = text("""
SELECT EXISTS (SELECT FROM metric_day_ledger WHERE metric_date = :last)
   AND NOT EXISTS (SELECT FROM metric_alert_transitions WHERE rule = :rule AND metric_date = :last)""")
_NOTE = text("""
INSERT INTO metric_alert_transitions
    (rule, scope, agent_id, opened_on, transition, metric_date, severity, evidence, is_quiet)
VALUES (:rule, 'pipeline', '', :last, 'opened', :last, 'warning', CAST(:evidence AS jsonb), false)""")


@dataclass(frozen=True)
class Figures:
    """What all agents did in a period. days: how many of its days are stored. agents: those that were active.

    days_with_cost: the days whose logs had a cost; cost_usd is theirs.
    """

    days: int
    days_with_cost: int
    agents: int
    executions: int
    failures: int
    cost_usd: Decimal


def figures(connection: Connection, first: date, last: date) -> Figures:
    """The sums over the stored days from `first` to `last`."""
    return Figures(**connection.execute(_FIGURES, {"first": first, "last": last}).mappings().one())


def is_due(connection: Connection, rule: str, last: date) -> bool:
    """Whether the summary of the period that ends with `last` can be made, and was not. Others wait for the answer."""
    values = {"rule": rule, "last": last}
    if not connection.execute(_IS_DUE, values).scalar_one():
        return False
    lock_alerts(connection)
    return bool(connection.execute(_IS_DUE, values).scalar_one())


def note_summary(connection: Connection, rule: str, last: date, title: str, lines: Sequence[str]) -> None:
    """Writes the summary into the journal, to be told."""
    evidence = json.dumps({"title": title, "lines": list(lines)})
    connection.execute(_NOTE, {"rule": rule, "last": last, "evidence": evidence})
