"""The asset agent_overview: each agent's yesterday, 7 and 28 days, as tables in the UI. It writes nothing."""

from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal

import dagster as dg

from metrics_pipeline.metrics.windows import last_complete_day
from metrics_pipeline.orchestration.asset_keys import METRICS_ASSET_KEY, OVERVIEW_ASSET_KEY
from metrics_pipeline.orchestration.failures import step_outcome
from metrics_pipeline.pipeline.opening import require_ready
from metrics_pipeline.postgres.database import Database
from metrics_pipeline.settings import Settings
from metrics_pipeline.store.ledger import newest_stored_day
from metrics_pipeline.store.overview import Activity, AgentOverview, Overview, agents_overview

_DESCRIPTION = """
What each agent did yesterday (1 d) and in the last 7 and 28 days, as the tables below: executions (runs), the rate of
failed ones, and cost. Every run of daily_metrics_job brings it up to date, and so does the button Materialize, which
reads stored metrics and writes nothing.

The change (±, of the rate in percentage points) is that of the last 7 days against the 7 days before; it is empty if
one of these days is not stored.
"""

#: An event holds them all, and the UI shows them without pages.
_MAX_AGENTS = 50


def build_overview_asset(
    settings: Settings, now: Callable[[], datetime] = lambda: datetime.now(UTC)
) -> dg.AssetsDefinition:
    """The asset. A run by hand carries no time, hence `now`."""

    @dg.asset(
        key=OVERVIEW_ASSET_KEY,
        deps=[METRICS_ASSET_KEY],
        group_name="metrics",
        kinds={"postgres"},
        owners=settings.owners,
        description=_DESCRIPTION,
    )
    def agent_overview(
        context: dg.AssetExecutionContext, database: dg.ResourceParam[Database]
    ) -> dg.MaterializeResult[None]:
        with step_outcome(context):
            require_ready(database)
            yesterday = last_complete_day(now(), settings.time_zone)
            with database.snapshot() as connection:
                day = newest_stored_day(connection, yesterday) or yesterday
                overview = agents_overview(connection, day, limit=_MAX_AGENTS)
        stored = overview.days_stored
        return dg.MaterializeResult(
            metadata={
                "day": str(day),
                "stored": f"{stored['week']} of 7, {stored['month']} of 28",
                "agents": overview.number_of_agents,
                "runs": _table(overview, lambda activity: _short(activity.executions, "{}"), _change_of_executions),
                "failed": _table(overview, _failure_rate, _change_of_failure_rate),
                "cost_usd": _table(overview, _cost, _change_of_cost),
            }
        )

    return agent_overview


def _table(
    overview: Overview, value: Callable[[Activity], str], change: Callable[[Activity, Activity], str]
) -> dg.TableMetadataValue:
    """One row per agent. Headings and keys are short, so that a screen of 1280 pixels shows all columns."""
    is_comparable = overview.is_complete("week") and overview.is_complete("week_before")

    def record(agent: AgentOverview) -> dg.TableRecord:
        return dg.TableRecord(
            {
                "agent": agent.agent_id,
                "1 d": value(agent.day),
                "7 d": value(agent.week),
                "28 d": value(agent.month),
                "±": change(agent.week_before, agent.week) if is_comparable else "",
            }
        )

    columns = [dg.TableColumn(name, "string") for name in ("agent", "1 d", "7 d", "28 d", "±")]
    return dg.MetadataValue.table([record(agent) for agent in overview.agents], dg.TableSchema(columns))


def _short(number: int | Decimal, form: str) -> str:
    return f"{number / 1000:,.1f}k" if number >= 1000 else form.format(number)


def _failure_rate(activity: Activity) -> str:
    return f"{activity.failures / activity.executions:.1%}" if activity.executions else ""


def _change_of_executions(before: Activity, after: Activity) -> str:
    return f"{after.executions / before.executions - 1:+.0%}" if before.executions else ""


def _change_of_failure_rate(before: Activity, after: Activity) -> str:
    if not (before.executions and after.executions):
        return ""
    return f"{100 * (after.failures / after.executions - before.failures / before.executions):+.1f}"


def _cost(activity: Activity) -> str:
    return "unknown" if activity.cost_usd is None else _short(activity.cost_usd, "{:.2f}")


def _change_of_cost(before: Activity, after: Activity) -> str:
    if not before.cost_usd or after.cost_usd is None:
        return ""
    return f"{after.cost_usd / before.cost_usd - 1:+.0%}"
