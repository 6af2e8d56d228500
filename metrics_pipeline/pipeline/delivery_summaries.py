"""The daily and the weekly summary: what all agents did, beside the days before, and what is open."""

from datetime import date, datetime, timedelta

from sqlalchemy import Connection

from metrics_pipeline.metrics.alerts import Severity
from metrics_pipeline.metrics.windows import last_due_day
from metrics_pipeline.metrics.wording import counted
from metrics_pipeline.pipeline.delivery_messages import subject
from metrics_pipeline.postgres.database import Database
from metrics_pipeline.settings import Settings
from metrics_pipeline.store.alerts import open_alerts
from metrics_pipeline.store.summaries import SUMMARY_PREFIX, Figures, figures, is_due, note_summary

DAILY = f"{SUMMARY_PREFIX}daily"
WEEKLY = f"{SUMMARY_PREFIX}weekly"

_MOST_ALERTS = 10
_WEEK = timedelta(days=7)


def note_summaries(database: Database, settings: Settings, now: datetime) -> None:
    """Writes the summaries that are due at the instant `now`, and that somebody wants, into the journal.

    A day's is due when the day is, a week's when its Sunday is.
    """
    day = last_due_day(now, settings.time_zone)
    sunday = day - timedelta(days=day.isoweekday() % 7)
    with database.begin() as connection:
        if settings.notify_daily and is_due(connection, DAILY, day):
            week_before = figures(connection, day - _WEEK, day - timedelta(days=1))
            lines = [
                _in_words(figures(connection, day, day)),
                f"A day of the week before: {_in_words(week_before, 7)}",
            ]
            _note(connection, settings, DAILY, day, f"{day}", lines)
        if settings.notify_weekly and is_due(connection, WEEKLY, sunday):
            monday = sunday - timedelta(days=6)
            week = figures(connection, monday, sunday)
            week_before = figures(connection, monday - _WEEK, sunday - _WEEK)
            missing = [f"Not stored: {7 - week.days} of its 7 days."] if week.days < 7 else []
            lines = [
                _in_words(week),
                f"The week before: {_in_words(week_before)}",
                *missing,
            ]
            _note(connection, settings, WEEKLY, sunday, f"{monday} to {sunday}", lines)


def _note(connection: Connection, settings: Settings, rule: str, last: date, period: str, lines: list[str]) -> None:
    alerts = sorted(open_alerts(connection), key=lambda alert: alert.severity is not Severity.CRITICAL)
    lines.append(f"Open alerts: {len(alerts):,}")
    lines += [
        f"- [{alert.severity}] {subject(alert.rule, alert.scope, alert.agent_id)} since {alert.opened_on}"
        for alert in alerts[:_MOST_ALERTS]
    ]
    if len(alerts) > _MOST_ALERTS:
        lines.append(f"and {len(alerts) - _MOST_ALERTS:,} more.")
    if settings.api_url:
        lines.append(f"{settings.api_url}/?day={last}" if rule == DAILY else f"{settings.api_url}/")
    note_summary(connection, rule, last, f"Summary of {period}", lines)


def _in_words(all_agents: Figures, days: int = 1) -> str:
    """The figures in a sentence; their means, if they are over several days that a day is compared with."""
    number, with_cost = (all_agents.days, all_agents.days_with_cost) if days > 1 else (1, 1)
    if not all_agents.days:
        return "nothing is stored."
    rate = f"{all_agents.failures / all_agents.executions:.2%}" if all_agents.executions else "none"
    cost = f"{all_agents.cost_usd / with_cost:,.2f} USD" if all_agents.days_with_cost else "cost unknown"
    if days == 1 and 0 < all_agents.days_with_cost < all_agents.days:
        cost += f" on {all_agents.days_with_cost} of {all_agents.days} days"
    executions = counted(round(all_agents.executions / number), "execution")
    return f"{executions} of {counted(all_agents.agents, 'agent')}, {rate} failed, {cost}."
