"""`backfill --preview`: what a backfill would change, day by day."""

from datetime import date

from rich.console import Console
from rich.progress import track

from metrics_pipeline.cli.tables import print_table
from metrics_pipeline.errors import PermanentError
from metrics_pipeline.metrics.comparison import DayChange
from metrics_pipeline.metrics.windows import day_window, days_between
from metrics_pipeline.pipeline.aggregation import AggregationOptions, preview_day
from metrics_pipeline.pipeline.opening import open_database, open_logs
from metrics_pipeline.settings import Settings

_MAX_NAMED_AGENTS = 5


def preview_days(settings: Settings, first: date, last: date, options: AggregationOptions) -> None:
    """Computes the days without writing; prints a row for each, then the days that would fail and why."""
    database = open_database(settings)
    logs = open_logs(database, settings)
    changes: list[DayChange] = []
    failures: list[str] = []
    for day in track(
        days_between(first, last), "Computing", console=Console(stderr=True), transient=True, show_speed=False
    ):
        try:
            changes.append(preview_day(database, logs, day_window(day, settings.time_zone), options))
        except PermanentError as error:
            failures.append(f"{day} would fail and stay as it is: {error}")
    print_table(
        "Preview: nothing was written",
        ("day", "inserted", "changed", "unchanged", "executions", "tokens", "cost USD", "changed agents"),
        [_row(change) for change in changes],
    )
    for failure in failures:
        print(failure)


def _row(change: DayChange) -> tuple[str, ...]:
    named = ", ".join(change.changed_agents[:_MAX_NAMED_AGENTS])
    more = len(change.changed_agents) - _MAX_NAMED_AGENTS
    return (
        str(change.metric_date),
        f"{change.inserted:,}",
        f"{change.changed:,}",
        f"{change.unchanged:,}",
        f"{change.executions:+,}",
        f"{change.tokens:+,}",
        f"{change.cost_usd:+,f}",
        f"{named} and {more} more" if more > 0 else named,
    )
