"""distributions_equal_metrics: the stored distributions give the stored percentiles, means and numbers of users."""

import dagster as dg

from metrics_pipeline.metrics.wording import counted
from metrics_pipeline.orchestration.checks.evaluation import Situation
from metrics_pipeline.orchestration.markdown import markdown_table
from metrics_pipeline.pipeline.reconciling import lookback
from metrics_pipeline.store.distribution_audit import audit_day
from metrics_pipeline.store.ledger import days_of_run

#: A day of a million logs takes 0.3 s.
_MAX_DAYS = 31
_MAX_NAMED_AGENTS = 20

DISTRIBUTIONS_EQUAL_METRICS = f"""
Of the days that the run has stored, at most the newest {_MAX_DAYS}: computed again from `agent_day_distributions`, the
mean, p50, p95 and p99 of the latencies and the number of users of each agent are those in `agent_performance_metrics`,
no distribution holds more executions than its agent has, and its digest is that of its content. Evaluated alone, it
looks at the days of the look-back window. Percentiles of rounded latencies and estimated users are not compared.

**When it is red**, somebody or something other than this pipeline wrote to one of the two tables. Materialise the named
days again while their raw logs are there; pruned ones come from a backup.
"""


def distributions_equal_metrics(situation: Situation) -> dg.AssetCheckResult:
    """Recomputes the metrics of each day from its distributions; fails with severity ERROR."""
    days = days_of_run(situation.connection, situation.run_id) or lookback(situation.settings, situation.now)
    audits = {day: audit_day(situation.connection, day) for day in days[-_MAX_DAYS:]}
    broken = [(day, agent) for day, audit in audits.items() for agent in audit.contradictory_agents]
    return dg.AssetCheckResult(
        passed=not broken,
        severity=dg.AssetCheckSeverity.ERROR,
        description=(
            f"{counted(len(broken), 'distribution contradicts', 'distributions contradict')} the metrics, the first of "
            f"{broken[0][1]!r} on {broken[0][0]}. "
            "Materialise their days again while their raw logs are there."
            if broken
            else f"All distributions equal the metrics ({sum(audit.distributions for audit in audits.values()):,})."
        ),
        metadata={
            "days": f"{days[-_MAX_DAYS:][0]} to {days[-1]}" if days else "none",
            "days_checked": len(audits),
            "distributions": sum(audit.distributions for audit in audits.values()),
            "distributions_not_exact": sum(audit.not_exact for audit in audits.values()),
            "rows_without_distribution": sum(audit.without for audit in audits.values()),
            "distributions_broken": len(broken),
            "broken": markdown_table(
                ("day", "agent"), broken[:_MAX_NAMED_AGENTS], nothing="None.", more=len(broken) - _MAX_NAMED_AGENTS
            ),
        },
    )
