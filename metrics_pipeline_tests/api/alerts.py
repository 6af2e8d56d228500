"""Alerts of every state and scope, written by hand as the pipeline would write them."""

import json

from metrics_pipeline.postgres.database import Database
from metrics_pipeline_tests.days import execute


def store_alerts(database: Database, agent: str = "support-triage") -> None:
    """Two open alerts of 3 and 4 March and a resolved one; an alert that was withdrawn, and one that exists again."""
    rate = {"metric": "success_rate", "value": 0.5, "usual_low": 0.9315, "usual_high": 1.0, "executions": 60}
    cost = {"metric": "total_cost_usd", "value": "12345678901.500000001", "usual_low": 0, "usual_high": "10.000000000"}
    end = {"executions": 60, "projected_usd": "13", "projected_low": "12", "projected_high": "14"}
    quoted = agent.replace("'", "''")

    def alert(rule: str, scope: str, agent_id: str, opened: str, severity: str, resolved: str, evidence: object) -> str:
        return (
            "INSERT INTO metric_alerts "
            "(rule, scope, agent_id, opened_on, severity, last_seen_on, days, resolved_on, evidence) "
            f"VALUES ('{rule}', '{scope}', '{agent_id}', '{opened}', '{severity}', '2025-03-04', 2, {resolved}, "
            f"'{json.dumps(evidence)}')"
        )

    def withdrawn(opened: str) -> str:
        return (
            "INSERT INTO metric_alert_transitions (rule, scope, agent_id, opened_on, transition, metric_date, "
            f"severity, evidence, occurred_at, is_quiet) VALUES ('unusual_success_rate', 'agent', '{quoted}', "
            f"'{opened}', 'withdrawn', '{opened}', 'warning', '{json.dumps(rate)}', '2025-03-05T06:00Z', false)"
        )

    execute(
        database,
        alert("unusual_success_rate", "agent", quoted, "2025-03-04", "critical", "NULL", rate),
        alert("budget", "fleet", "", "2025-03-03", "warning", "NULL", cost | end),
        alert("day_missing", "pipeline", "", "2025-02-01", "warning", "'2025-02-03'", {"said": "Nobody ran it."}),
        # Also of 4 March, but it is an alert again.
        withdrawn("2025-03-04"),
        withdrawn("2025-03-01"),
        withdrawn("2025-03-01"),
    )
