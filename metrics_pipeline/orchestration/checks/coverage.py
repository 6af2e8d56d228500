"""Which agents and which of their logs are in the metrics, and which are not."""

import dagster as dg

from metrics_pipeline.metrics.conservation import skipped_agents
from metrics_pipeline.metrics.windows import day_window, last_complete_day
from metrics_pipeline.metrics.wording import counted
from metrics_pipeline.orchestration.checks.evaluation import Situation
from metrics_pipeline.orchestration.markdown import markdown_table
from metrics_pipeline.pipeline.reconciling import lookback
from metrics_pipeline.store.acknowledgements import acknowledgements
from metrics_pipeline.store.audit import agents_without_row, registered_statuses
from metrics_pipeline.store.ledger import ledger_rows, newest_stored_day
from metrics_pipeline.store.reads import executions_by_agent

_MAX_NAMED_AGENTS = 20

ACTIVE_AGENTS_HAVE_ROWS = """
Every agent that is active in `agent_registry` has its row of the newest stored day, also if it had no logs.

**When it is yellow**, the named agents were activated after that day was stored. Materialise the day again to add them.
"""

NO_SKIPPED_LOGS = """
Every log of the last METRICS_LOOKBACK_DAYS is in some agent's metrics: none was skipped because its agent is inactive
or not in `agent_registry`.

Logs of agents that were acknowledged do not turn it yellow.

**When it is yellow**, register or activate the named agents and materialise their days again. For agents that were
retired on purpose, materialise with `include_inactive_agents: true`, or acknowledge them: `metrics-pipeline agents
acknowledge`. What was skipped is counted in the ledger.
"""


def active_agents_have_rows(situation: Situation) -> dg.AssetCheckResult:
    """Looks for rows of the newest stored day; fails with severity WARN."""
    day = newest_stored_day(situation.connection, last_complete_day(situation.now, situation.settings.time_zone))
    found = agents_without_row(situation.connection, day, limit=_MAX_NAMED_AGENTS) if day else None
    missing = found.missing_agents if found else 0
    return dg.AssetCheckResult(
        passed=missing == 0,
        severity=dg.AssetCheckSeverity.WARN,
        description=(
            f"{missing} active agents have no row of {day}. Materialise the day again to add them."
            if missing
            else f"Every active agent has its row of {day}."
            if day
            else "No day is stored yet."
        ),
        metadata={
            "day": str(day or "none"),
            "active_agents": found.active_agents if found else 0,
            "agents_without_row": missing,
            "agents": markdown_table(
                ("agent", "name"), found.named if found else (), nothing="None.", more=missing - _MAX_NAMED_AGENTS
            ),
        },
    )


def no_skipped_logs(situation: Situation) -> dg.AssetCheckResult:
    """Adds up the ledger's skipped logs, and names their agents if the logs still exist; fails with severity WARN."""
    settings = situation.settings
    days = lookback(settings, situation.now)
    first, last = (days[0], days[-1]) if days else (settings.start_date, settings.start_date)
    ledger = ledger_rows(situation.connection, first, last)
    affected = [row for row in ledger.values() if row.skipped_logs > 0]
    windows = [day_window(row.metric_date, settings.time_zone) for row in affected if not row.is_sealed]
    agents = skipped_agents(
        situation.logs.logs_by_agent(situation.connection, windows),
        executions_by_agent(situation.connection, [window.metric_date for window in windows]),
    )
    known = {each.agent_id for each in acknowledgements(situation.connection)}
    unknown = [agent for agent in agents if agent.agent_id not in known]
    named = (unknown + [agent for agent in agents if agent.agent_id in known])[:_MAX_NAMED_AGENTS]
    statuses = registered_statuses(situation.connection, [agent.agent_id for agent in named if agent.agent_id])
    skipped = sum(row.skipped_logs for row in ledger.values())
    read = sum(row.source_logs for row in ledger.values())
    are = "is" if skipped == 1 else "are"
    # Logs that are gone were perhaps another agent's.
    is_known = not unknown and sum(agent.logs for agent in agents) >= skipped
    return dg.AssetCheckResult(
        passed=skipped == 0 or is_known,
        severity=dg.AssetCheckSeverity.WARN,
        description=(
            f"{skipped:,} of {counted(read, 'log')} on {counted(len(affected), 'day')} {are} in no metric; "
            f"their agents ({len(agents):,} found) are inactive or not registered."
            if skipped and not is_known
            else f"{skipped:,} of {counted(read, 'log')} on {counted(len(affected), 'day')} {are} in no metric, all of "
            "acknowledged agents."
            if skipped
            else f"All logs are in the metrics: {counted(read, 'log')} of {counted(len(ledger), 'stored day')}."
        ),
        metadata={
            "days": f"{first} to {last}" if days else "none",
            "days_stored": len(ledger),
            "days_with_skipped_logs": len(affected),
            "logs_read": read,
            "logs_skipped": skipped,
            "agents_skipped": len(agents),
            "agents_acknowledged": len(agents) - len(unknown),
            "agents": markdown_table(
                ("agent", "in agent_registry", "acknowledged", "skipped logs", "days"),
                [
                    (
                        agent.agent_id,
                        statuses.get(agent.agent_id or "", "not registered"),
                        "yes" if agent.agent_id in known else "",
                        f"{agent.logs:,}",
                        agent.days,
                    )
                    for agent in named
                ],
                nothing="None.",
                more=len(agents) - len(named),
            ),
        },
    )
