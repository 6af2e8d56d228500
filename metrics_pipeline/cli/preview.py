"""`backfill --preview`: what a backfill would change, day by day."""

from datetime import date
from decimal import Decimal

from rich.console import Console
from rich.progress import track

from metrics_pipeline.cli.tables import Column, Format, say, show
from metrics_pipeline.errors import PermanentError
from metrics_pipeline.metrics.comparison import DayChange
from metrics_pipeline.metrics.windows import day_window, days_between
from metrics_pipeline.pipeline.aggregation import AggregationOptions, preview_day
from metrics_pipeline.pipeline.opening import open_database, open_source
from metrics_pipeline.settings import Settings

_MAX_NAMED_AGENTS = 5


def _signed(number: int | Decimal) -> str:
    return "0" if not number else f"{number:+,f}" if isinstance(number, Decimal) else f"{number:+,}"


def _first_of(agents: tuple[str, ...]) -> str:
    more = len(agents) - _MAX_NAMED_AGENTS
    return ", ".join(agents[:_MAX_NAMED_AGENTS]) + (f" and {more} more" if more > 0 else "")


_COLUMNS = (
    Column("day", is_text=True),
    Column("inserted"),
    Column("changed"),
    Column("unchanged", rank=2),
    Column("executions", in_words=_signed),
    Column("tokens", rank=3, in_words=_signed),
    Column("cost_usd", "cost USD", in_words=_signed),
    Column("changed_agents", "changed agents", is_folded=True, rank=1, in_words=_first_of),
)


def preview_days(settings: Settings, first: date, last: date, options: AggregationOptions, form: Format) -> None:
    """Computes the days without writing; prints a row for each, then the days that would fail and why."""
    database = open_database(settings)
    logs = open_source(database, settings)
    changes: list[DayChange] = []
    failures: list[str] = []
    for day in track(
        days_between(first, last), "Computing", console=Console(stderr=True), transient=True, show_speed=False
    ):
        try:
            changes.append(preview_day(database, logs, day_window(day, settings.time_zone), options))
        except PermanentError as error:
            named = "" if str(day) in str(error) else f"{day}: "
            failures.append(f"Would fail and stay as it is: {named}{error}")
    rows = [
        {"day": change.metric_date, **{column.name: getattr(change, column.name) for column in _COLUMNS[1:]}}
        for change in changes
    ]
    show(f"Preview: nothing was written to {database.description}", _COLUMNS, rows, form)
    for failure in failures:
        say(failure, is_error=form is not Format.TABLE)
