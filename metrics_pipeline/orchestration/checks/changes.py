"""no_unusual_changes: agents that behave unlike before."""

import dagster as dg
import polars as pl

from metrics_pipeline.metrics.anomalies import (
    JUDGED,
    MIN_EXECUTIONS,
    MIN_SAME_WEEKDAYS,
    MIN_TRAILING_DAYS,
    SAME_WEEKDAYS,
    TRAILING_DAYS,
    days_of_interest,
    unusual_values,
)
from metrics_pipeline.metrics.windows import last_complete_day
from metrics_pipeline.metrics.wording import counted
from metrics_pipeline.orchestration.checks.evaluation import Situation
from metrics_pipeline.orchestration.links import day_links
from metrics_pipeline.orchestration.markdown import markdown_table
from metrics_pipeline.store.acknowledgements import acknowledgements
from metrics_pipeline.store.audit import agent_history
from metrics_pipeline.store.ledger import newest_stored_day

_MAX_NAMED_VALUES = 20

NO_UNUSUAL_CHANGES = f"""
On the newest stored day, each agent's success rate, p95 latency, cost per execution and number of executions are usual
for it: near the median of its last {TRAILING_DAYS} days, or near that of the same weekday in the last {SAME_WEEKDAYS}
weeks. Near means within five robust standard deviations, within what chance alone does to so many executions, and at
least within 5 percentage points of the success rate, or 50 % of the others. More successes, less latency and less cost
are not reported. An agent is judged once it has {MIN_TRAILING_DAYS} such days and
{MIN_SAME_WEEKDAYS} such weekdays; days with fewer than {MIN_EXECUTIONS} executions say nothing of rates, latency and
cost. Agents that were acknowledged are not judged.

**When it is yellow**, the numbers are right, and the named agents have changed: ask their owners whether they know why.
If an agent fell silent on purpose, acknowledge it: `metrics-pipeline agents acknowledge`.
"""


def no_unusual_changes(situation: Situation) -> dg.AssetCheckResult:
    """Judges the newest stored day against the days before it; fails with severity WARN."""
    day = newest_stored_day(situation.connection, last_complete_day(situation.now, situation.settings.time_zone))
    if day is None:
        day = last_complete_day(situation.now, situation.settings.time_zone)
    known = [each.agent_id for each in acknowledgements(situation.connection)]
    history = agent_history(situation.connection, days_of_interest(day))
    unusual = unusual_values(history.filter(~pl.col("agent_id").is_in(known)), day)
    values, agents = unusual.values, unusual.values["agent_id"].n_unique()
    return dg.AssetCheckResult(
        passed=values.is_empty(),
        severity=dg.AssetCheckSeverity.WARN,
        description=(
            f"{agents:,} of {counted(unusual.agents_with_history, 'agent')} changed on {day}: "
            + ", ".join(
                f"{values.filter(metric=metric).height:,} in {metric}"
                for metric in JUDGED
                if not values.filter(metric=metric).is_empty()
            )
            + "."
            if agents
            else f"None of the agents with enough history ({unusual.agents_with_history:,}) changed on {day}."
        ),
        metadata={
            "day": str(day),
            **day_links(situation.settings, day),
            "agents": unusual.agents,
            "agents_with_enough_history": unusual.agents_with_history,
            "agents_changed": agents,
            "agents_acknowledged": history.filter(pl.col("agent_id").is_in(known))["agent_id"].n_unique(),
            **{f"changed_{metric}": values.filter(metric=metric).height for metric in JUDGED},
            "changes": markdown_table(
                (
                    "agent",
                    "metric",
                    "value",
                    "usual from",
                    "to",
                    "executions",
                    f"median of {TRAILING_DAYS} days",
                    "of the weekday",
                ),
                [
                    (agent, metric, *(f"{number:,.6g}" for number in numbers))
                    for agent, metric, *numbers in values.head(_MAX_NAMED_VALUES)
                    .select(
                        "agent_id",
                        "metric",
                        "value",
                        pl.col("usual_low").clip(lower_bound=0),
                        pl.when(metric="success_rate")
                        .then(pl.col("usual_high").clip(upper_bound=1))
                        .otherwise("usual_high"),
                        "executions",
                        "trailing_median",
                        "weekday_median",
                    )
                    .iter_rows()
                ],
                nothing="None.",
                more=values.height - _MAX_NAMED_VALUES,
            ),
        },
    )
