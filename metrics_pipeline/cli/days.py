"""`seal` and `clear`: an operator's decision about one stored day."""

from datetime import date
from typing import Annotated

import typer

from metrics_pipeline.cli.runs import require_complete_days
from metrics_pipeline.cli.values import day_option
from metrics_pipeline.errors import PermanentError
from metrics_pipeline.metrics.verification import Unreadable
from metrics_pipeline.metrics.windows import day_window
from metrics_pipeline.metrics.wording import counted
from metrics_pipeline.pipeline.opening import open_database, open_source, require_ready
from metrics_pipeline.pipeline.reconciling import present_fingerprints
from metrics_pipeline.postgres.privileges import Purpose, require_privileges
from metrics_pipeline.settings import Settings
from metrics_pipeline.store.closing import clear_day, seal_day
from metrics_pipeline.store.ledger import ledger_rows

_DAY = day_option("--date", help="The day in METRICS_TIME_ZONE.")


def seal(day: Annotated[date, _DAY]) -> None:
    """Keeps the stored metrics of a day for good, because its logs were deleted but its executions did happen.

    The day is then treated as if retention had pruned its logs: nothing aggregates it again. A day that equals its logs
    is refused.

    Example: `metrics-pipeline seal --date 2025-07-11`
    """
    settings = Settings.from_environment()
    require_complete_days(settings, day, day)
    database = open_database(settings)
    logs = open_source(database, settings)
    window = day_window(day, settings.time_zone)
    with database.snapshot() as snapshot:
        present = present_fingerprints(snapshot, logs, [window], ledger_rows(snapshot, day, day))[day]
    if isinstance(present, Unreadable):
        raise PermanentError(f"{window.metric_date} cannot be sealed, because {present.reason}. Correct or delete it.")
    gone = seal_day(database, window, present)
    gone_logs = counted(gone, "of its logs is gone", "of its logs are gone")
    print(f"{window.metric_date} is sealed: its metrics are final. {gone_logs}, {present.logs:,} left.")


def clear(
    day: Annotated[date, _DAY],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Deletes the stored metrics of a day, as if it had never been aggregated; schedule and commands then may.

    For a day whose executions never happened, or that was stored under another METRICS_TIME_ZONE. The old values are
    kept in metric_restatements. Needs the privileges of `db grants --operator`.

    Example: `metrics-pipeline clear --date 2025-07-11`
    """
    settings = Settings.from_environment()
    require_complete_days(settings, day, day)
    database = open_database(settings)
    require_ready(database)
    with database.connect() as connection:
        require_privileges(connection, Purpose.OPERATOR)
    window = day_window(day, settings.time_zone)
    if not yes:
        typer.confirm(f"Delete the stored metrics of {window.metric_date}?", abort=True)
    rows = clear_day(database, window, settings.alert_rules)
    print(f"{window.metric_date} is cleared: {counted(rows, 'row')} went to the restatements.")
