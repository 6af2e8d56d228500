"""stored_rows_equal_ledger: nothing was lost, invented or edited since the days were stored."""

import dagster as dg

from metrics_pipeline.metrics.conservation import contradictions, impossible_pruning, is_cost_compared, log_costs
from metrics_pipeline.metrics.windows import day_window
from metrics_pipeline.orchestration.checks.evaluation import Situation
from metrics_pipeline.orchestration.markdown import markdown_table
from metrics_pipeline.pipeline.reconciling import lookback
from metrics_pipeline.store.audit import days_without_ledger, stored_totals
from metrics_pipeline.store.reads import executions_by_agent

_MAX_NAMED_DAYS = 20

STORED_ROWS_EQUAL_LEDGER = """
Of every stored day: the logs read are those aggregated and those skipped; the rows' executions, failures, errors,
tokens and cost add up to what the ledger says; no row contradicts itself; the rows are still those that were stored
(days stored since table revision 0009). The cost of a day with skipped logs, or with
costs finer than a nano-dollar, is compared with its logs at night, for the days of the look-back window and as long as
they have not changed. Not more logs were pruned of any day than it had. Nothing else of days whose metrics expired is
checked.

**When it is red**, somebody or something other than this pipeline wrote to `agent_performance_metrics` or
`metric_day_ledger`. Materialise the named days again while their raw logs are there; pruned ones come from a backup.
"""


def stored_rows_equal_ledger(situation: Situation) -> dg.AssetCheckResult:
    """Compares every day of the ledger with its rows; fails with severity ERROR."""
    everything = stored_totals(situation.connection, breakdowns=False)
    settings = situation.settings
    days = [day for day in everything if day.ledger.metrics_expired_at is None]
    recent = set(lookback(settings, situation.now))
    in_question = [
        day_window(day.ledger.metric_date, settings.time_zone)
        for day in days
        if not situation.is_after_aggregation
        and not day.has_ledger_cost
        and not day.ledger.is_sealed
        and day.ledger.metric_date in recent
    ]
    costs = log_costs(
        situation.logs.logs_by_agent(situation.connection, in_question) if in_question else [],
        executions_by_agent(situation.connection, [window.metric_date for window in in_question]),
    )
    broken = {day.ledger.metric_date: impossible_pruning(day.ledger) for day in everything}
    broken |= {day.ledger.metric_date: contradictions(day, costs.get(day.ledger.metric_date)) for day in days}
    broken = {day: found for day, found in broken.items() if found}
    return dg.AssetCheckResult(
        passed=not broken,
        severity=dg.AssetCheckSeverity.ERROR,
        description=(
            f"{len(broken)} of {len(days)} stored days do not add up: {', '.join(map(str, list(broken)[:5]))}"
            f"{' …' if len(broken) > 5 else ''}. Materialise them again while their raw logs are there."
            if broken
            else f"All {len(days)} stored days add up."
        ),
        metadata={
            "days": f"{days[0].ledger.metric_date} to {days[-1].ledger.metric_date}" if days else "none",
            "days_checked": len(days),
            "days_broken": len(broken),
            "days_expired": len(everything) - len(days),
            "days_without_cost_to_compare": sum(
                not is_cost_compared(day, costs.get(day.ledger.metric_date)) for day in days
            ),
            "days_without_ledger": days_without_ledger(situation.connection),
            "executions": sum(day.executions for day in days),
            "broken_days": markdown_table(
                ("day", "what does not add up"),
                [(day, "; ".join(found)) for day, found in list(broken.items())[:_MAX_NAMED_DAYS]],
                nothing="None.",
                more=len(broken) - _MAX_NAMED_DAYS,
            ),
        },
    )
