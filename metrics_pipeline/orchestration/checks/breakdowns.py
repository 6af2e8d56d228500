"""breakdowns_add_up: the values of each dimension give the agents' rows, and no key has too many values."""

import dagster as dg

from metrics_pipeline.metrics.dimensions import MAX_VALUES
from metrics_pipeline.metrics.wording import counted
from metrics_pipeline.orchestration.checks.evaluation import Situation
from metrics_pipeline.orchestration.markdown import markdown_table
from metrics_pipeline.pipeline.reconciling import lookback
from metrics_pipeline.store.breakdowns import audit_breakdown
from metrics_pipeline.store.ledger import days_of_run

#: A day of 500 agents and 25 values takes 0.2 s.
_MAX_DAYS = 31
_MAX_NAMED = 20
#: A key with so many values on an agent's day is rather an id.
_MANY_VALUES = 1_000

BREAKDOWNS_ADD_UP = f"""
Of the days that the run has stored, at most the newest {_MAX_DAYS}: the rows of `agent_dimension_metrics` add up to
those of `agent_performance_metrics` for each agent and dimension, in executions, successes, failures, tokens, cost,
human interventions and error types, to the last digit. Evaluated alone, it looks at the days of the look-back window.
It warns of a dimension with more than {_MANY_VALUES:,} values on an agent's day, of which {MAX_VALUES} have a row.

**When it is red**, somebody or something other than this pipeline wrote to one of the two tables. Materialise the named
days again while their raw logs are there; pruned ones come from a backup. **When it warns**, the key holds an id rather
than a name: declare another dimension.
"""


def breakdowns_add_up(situation: Situation) -> dg.AssetCheckResult:
    """Adds up the values of each day; fails with severity ERROR, or with WARN for a dimension of very many values."""
    days = days_of_run(situation.connection, situation.run_id) or lookback(situation.settings, situation.now)
    audits = {day: audit_breakdown(situation.connection, day) for day in days[-_MAX_DAYS:]}
    broken = [(day, *each) for day, audit in audits.items() for each in audit.not_adding_up]
    most: dict[str, int] = {}
    for audit in audits.values():
        for dimension, values in audit.most_values.items():
            most[dimension] = max(values, most.get(dimension, 0))
    many = {dimension: values for dimension, values in most.items() if values > _MANY_VALUES}
    if broken:
        day, agent, dimension, metric = broken[0]
        differ = counted(len(broken), "sum over values differs", "sums over values differ")
        description = (
            f"{differ} from the agents' rows, the first is {metric} of {agent!r} by {dimension} on {day}. Materialise "
            "their days again while their raw logs are there."
        )
    elif many:
        named = ", ".join(f"{dimension} ({values:,} values)" for dimension, values in sorted(many.items()))
        description = f"All sums are right. Most values are merged into (other) of: {named}, on one agent's day."
    else:
        description = (
            f"The rows by value add up to the agents' rows ({sum(audit.rows for audit in audits.values()):,})."
        )
    return dg.AssetCheckResult(
        passed=not broken and not many,
        severity=dg.AssetCheckSeverity.WARN if many and not broken else dg.AssetCheckSeverity.ERROR,
        description=description,
        metadata={
            "days_checked": len(audits),
            "rows": sum(audit.rows for audit in audits.values()),
            "sums_broken": len(broken),
            "most_values": dg.MetadataValue.json(most),
            "broken": markdown_table(
                ("day", "agent", "dimension", "metric"),
                broken[:_MAX_NAMED],
                nothing="None.",
                more=len(broken) - _MAX_NAMED,
            ),
        },
    )
