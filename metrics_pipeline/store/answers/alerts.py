"""Alerts: those that metric_alerts has, and those that were withdrawn."""

from collections.abc import Sequence
from datetime import date
from enum import StrEnum

from sqlalchemy import Connection, RowMapping, text

from metrics_pipeline.store.answers.rows import Page, as_array

# A withdrawn alert is in the journal only. An alert that exists again is not withdrawn.
_ALERTS = """
WITH alerts AS MATERIALIZED (
    SELECT CASE WHEN resolved_on IS NULL THEN 'open' ELSE 'resolved' END AS state, rule, scope, agent_id, severity,
           opened_on, last_seen_on, days, resolved_on, NULL::timestamptz AS withdrawn_at, evidence,
           xmin::text AS written
    FROM metric_alerts
    UNION ALL
    (SELECT DISTINCT ON (rule, scope, agent_id, opened_on)
            'withdrawn', rule, scope, agent_id, severity, opened_on, NULL, NULL, NULL, occurred_at, evidence,
            transition_id::text
     FROM metric_alert_transitions AS told
     WHERE transition = 'withdrawn' AND NOT EXISTS (
         SELECT FROM metric_alerts AS present
         WHERE (present.rule, present.scope, present.agent_id, present.opened_on)
               = (told.rule, told.scope, told.agent_id, told.opened_on))
     ORDER BY rule, scope, agent_id, opened_on, transition_id DESC)
), wanted AS MATERIALIZED (
    SELECT * FROM alerts
    WHERE (:state = 'all' OR state = :state)
      AND (CAST(:agent_id AS text) IS NULL OR (scope = 'agent' AND agent_id = :agent_id))
      AND (CAST(:rule AS text) IS NULL OR rule = :rule)
      AND (CAST(:severity AS text) IS NULL OR severity = :severity)
      AND opened_on <= :last AND (state = 'open' OR coalesce(resolved_on, opened_on) >= :first)
)"""

# Money is text in the evidence, so that it keeps its digits there.
_SELECT = """
SELECT state, rule, scope,
       CASE scope WHEN 'agent' THEN agent_id END AS agent_id, severity, opened_on, last_seen_on, days, resolved_on,
       withdrawn_at, evidence->>'metric' AS metric, (evidence->>'value')::numeric AS value,
       (evidence->>'usual_low')::numeric AS usual_low, (evidence->>'usual_high')::numeric AS usual_high,
       (evidence->>'executions')::numeric::bigint AS executions,
       evidence - ARRAY['metric', 'value', 'usual_low', 'usual_high', 'executions'] AS details
FROM wanted
ORDER BY opened_on DESC, severity = 'critical' DESC, rule, scope, agent_id COLLATE "C", state
LIMIT :limit OFFSET :offset"""

_PAGE = text(f"""
{_ALERTS}
SELECT {as_array(_SELECT)} AS rows, (SELECT count(*) FROM wanted) AS total,
       (SELECT md5(coalesce(string_agg(row(state, rule, scope, agent_id, opened_on, written)::text, ','
                                       ORDER BY opened_on, rule, scope, agent_id COLLATE "C", state), ''))
        FROM wanted) AS version""")

# Also rules that had an alert once and are off now, or of the pipeline: a monitoring system sees that it ended.
_OPEN = text("""
SELECT rule, severity, count(opened_on)
FROM (SELECT rule FROM metric_alerts UNION SELECT rule FROM metric_alert_transitions) AS known
CROSS JOIN unnest(ARRAY['warning', 'critical']) AS severity
LEFT JOIN (SELECT * FROM metric_alerts WHERE resolved_on IS NULL) AS alert USING (rule, severity)
GROUP BY rule, severity""")

_CHANGES = text("""
SELECT transition, severity, rule, CASE scope WHEN 'agent' THEN agent_id ELSE scope END AS about, opened_on,
       evidence->>'metric' AS metric, evidence->>'value' AS value, evidence->>'usual_low' AS usual_low,
       evidence->>'usual_high' AS usual_high
FROM metric_alert_transitions WHERE run_id = :run_id AND metric_date = :metric_date ORDER BY transition_id""")


class WantedState(StrEnum):
    """Which alerts."""

    OPEN = "open"
    RESOLVED = "resolved"
    WITHDRAWN = "withdrawn"
    ALL = "all"


def alerts_page(
    connection: Connection,
    first: date,
    last: date,
    *,
    state: WantedState,
    agent_id: str | None = None,
    rule: str | None = None,
    severity: str | None = None,
    limit: int,
    offset: int,
) -> Page:
    """At most `limit` alerts that were open on a day from `first` to `last`, newest first, of a day the critical first.

    A withdrawn alert counts as open on the day that it opened.
    agent_id, rule, severity: None for any.
    """
    parameters = {
        "first": first,
        "last": last,
        "state": state,
        "agent_id": agent_id,
        "rule": rule,
        "severity": severity,
        "limit": limit,
        "offset": offset,
    }
    return Page(**connection.execute(_PAGE, parameters).mappings().one())


def alert_changes(connection: Connection, run_id: str, metric_date: date) -> Sequence[RowMapping]:
    """What became of alerts when a run stored a day: transition, severity, rule, about, opened_on, and the evidence.

    about: the agent, fleet or pipeline. Of the evidence metric, value, usual_low and usual_high, as text.
    """
    return connection.execute(_CHANGES, {"run_id": run_id, "metric_date": metric_date}).mappings().all()


def open_by_rule(connection: Connection) -> dict[tuple[str, str], int]:
    """How many alerts are open, by rule and severity, of each rule that ever had one."""
    return {(rule, severity): number for rule, severity, number in connection.execute(_OPEN)}
