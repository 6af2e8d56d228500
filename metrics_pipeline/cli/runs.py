"""Commands that aggregate days: each is a Dagster run whose events and lineage the UI shows."""

import os
import sys
from datetime import UTC, date, datetime
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from metrics_pipeline.cli.preview import preview_days
from metrics_pipeline.cli.tables import Column, Format, FormatOption, say, show
from metrics_pipeline.cli.values import day_option, require_order
from metrics_pipeline.errors import PermanentError
from metrics_pipeline.metrics.windows import last_complete_day
from metrics_pipeline.metrics.wording import counted
from metrics_pipeline.pipeline.aggregation import AggregationOptions
from metrics_pipeline.pipeline.opening import open_database, require_ready
from metrics_pipeline.postgres.database import Database
from metrics_pipeline.settings import Settings
from metrics_pipeline.store.publishing import Reason

# At run time, modules of cli/ import Dagster where they use it: it takes half of the time in which a command starts.
if TYPE_CHECKING:
    import dagster as dg

    from metrics_pipeline.orchestration.in_process import DaysOutcome, Report

_INCLUDE_INACTIVE = typer.Option(
    "--include-inactive-agents",
    help="Also aggregate agents that are not active in agent_registry, for backfills of retired agents.",
)
_ACCEPT_DELETED = typer.Option(
    "--accept-deleted-logs",
    help="Also aggregate a day that has shrunk, because logs or columns in its metrics are gone. The old values are "
    "kept in metric_restatements.",
)

_RENEW_DIMENSIONS = typer.Option(
    "--renew-dimensions",
    help="Only the stored days that are broken down by other dimensions than METRICS_DIMENSIONS declares. Days whose "
    "logs retention has deleted keep theirs and are named.",
)

_COUNTS = {
    "logs": "logs_read",
    "aggregated": "logs_aggregated",
    "skipped": "logs_skipped",
    "agents": "agents",
    "inserted": "rows_inserted",
    "changed": "rows_changed",
    "unchanged": "rows_unchanged",
}
_COLUMNS = (
    Column("day", is_text=True),
    *(Column(name, rank={"aggregated": 1}.get(name, 0)) for name in _COUNTS),
    Column("seconds", rank=2, in_words="{:.2f}".format),
)

#: The exit code that shells report for a command that Ctrl-C ended: 128 + SIGINT.
INTERRUPTED = 130


def aggregate(
    day: Annotated[date | None, day_option("--date", help="The day. Default: yesterday.")] = None,
    include_inactive_agents: Annotated[bool, _INCLUDE_INACTIVE] = False,
    accept_deleted_logs: Annotated[bool, _ACCEPT_DELETED] = False,
    form: FormatOption = Format.TABLE,
) -> None:
    """Aggregates one day, as a Dagster run.

    Running a day again is safe: unchanged rows are not written, and the old values of a changed row are kept in
    metric_restatements.

    Example: `metrics-pipeline aggregate --date 2025-07-11`
    """
    settings = Settings.from_environment()
    chosen = day or _yesterday(settings)
    options = AggregationOptions(include_inactive_agents, accept_deleted_logs)
    _run(settings, chosen, chosen, Reason.MANUAL, options, form)


def backfill(
    first: Annotated[date, day_option("--from", help="The first day.")],
    last: Annotated[date | None, day_option("--to", help="The last day. Default: yesterday.")] = None,
    include_inactive_agents: Annotated[bool, _INCLUDE_INACTIVE] = False,
    accept_deleted_logs: Annotated[bool, _ACCEPT_DELETED] = False,
    renew_dimensions: Annotated[bool, _RENEW_DIMENSIONS] = False,
    preview: Annotated[
        bool, typer.Option("--preview", help="Compute everything, write nothing, and print what would change.")
    ] = False,
    form: FormatOption = Format.TABLE,
) -> None:
    """Aggregates every day of a range, as one Dagster run.

    Each day is stored and reported separately. A day that fails does not stop the others; the command then names it
    and ends with exit code 1. If the command is interrupted, the days that it reported are stored; run it again to
    continue.

    **Examples**

    - `metrics-pipeline backfill --from 2025-07-01 --to 2025-07-31 --preview`: what would change, per day
    - `metrics-pipeline backfill --from 2025-07-01 --to 2025-07-31`
    - `metrics-pipeline backfill --from 2025-07-01 --to 2025-07-31 --accept-deleted-logs`: after duplicates of these
      days were removed on purpose
    - `metrics-pipeline backfill --from 2025-07-01 --renew-dimensions`: after METRICS_DIMENSIONS was changed
    """
    settings = Settings.from_environment()
    options = AggregationOptions(include_inactive_agents, accept_deleted_logs, renew_dimensions)
    last_day = last or _yesterday(settings)
    if preview:
        if renew_dimensions:
            raise typer.BadParameter("--preview compares agents' rows, which --renew-dimensions leaves as they are.")
        require_complete_days(settings, first, last_day)
        preview_days(settings, first, last_day, options, form)
    else:
        _run(settings, first, last_day, Reason.BACKFILL, options, form)


def _yesterday(settings: Settings) -> date:
    return last_complete_day(datetime.now(UTC), settings.time_zone)


def _run(
    settings: Settings, first: date, last: date, reason: Reason, options: AggregationOptions, form: Format
) -> None:
    require_complete_days(settings, first, last)
    # Checked before the run: inside it, connecting to an unreachable database would be retried for minutes.
    database = open_database(settings)
    require_ready(database)
    from metrics_pipeline.orchestration.instance import open_instance

    with open_instance(settings) as instance:
        run_with_progress(instance, database, first, last, reason, options, form)


def run_with_progress(
    instance: "dg.DagsterInstance",
    database: Database,
    first: date,
    last: date,
    reason: Reason,
    options: AggregationOptions,
    form: Format = Format.TABLE,
) -> None:
    """Runs the days with a progress bar on stderr, and prints the stored ones on stdout.

    database: the one that the run opens by itself, for the title: without logs, it may be the wrong one.
    Raises PermanentError for a run that failed, and typer.Exit for one that a signal ended.
    """
    from metrics_pipeline.orchestration.in_process import run_days

    # While a step runs Dagster redirects stdout and stderr into the run's compute log; the bar is for the terminal.
    with os.fdopen(os.dup(sys.stderr.fileno()), "w", encoding="utf-8") as terminal:
        console = Console(file=terminal)
        progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        with progress:
            task = progress.add_task("Starting the run", total=(last - first).days + 1)

            def advance(day: date, _report: "Report") -> None:
                progress.update(task, advance=1, description=f"Stored {day}")

            outcome = run_days(instance, first, last, options, reason=reason, on_day=advance)

    # JSON and CSV on stdout are for programs.
    tell = partial(say, is_error=form is not Format.TABLE)
    if outcome.continued_run_id is not None:
        tell(
            f"Went on where run {outcome.continued_run_id} stopped; its days that still equal their logs were left out."
        )
    for why in outcome.left_out.values():
        tell(f"Left out: {why}")
    if outcome.days or form is not Format.TABLE:
        _print_days(outcome, database, form)
    for day, report in outcome.days.items():
        if report["warning"] != "none":
            tell(f"{day}: {report['warning']}")
    if outcome.is_interrupted:
        typer.echo(
            f"Interrupted. {counted(len(outcome.days), 'day is', 'days are')} stored; run the command again to go on.",
            err=True,
        )
        raise typer.Exit(INTERRUPTED)
    if outcome.failure is not None:
        raise PermanentError(f"Run {outcome.run_id} failed. {outcome.failure}")
    if not outcome.days:
        tell(f"Run {outcome.run_id} had nothing left to do.")


def require_complete_days(settings: Settings, first: date, last: date) -> None:
    """Raises PermanentError unless all days from `first` to `last` have ended and are not before METRICS_START_DATE."""
    require_order(first, last)
    if first < settings.start_date:
        raise PermanentError(
            f"{first} lies before METRICS_START_DATE, {settings.start_date}. Choose a later day or change it."
        )
    yesterday = _yesterday(settings)
    if last > yesterday:
        raise PermanentError(
            f"{last} has not ended in {settings.time_zone}, so its metrics would be incomplete. "
            f"The last complete day is {yesterday}."
        )


def _print_days(outcome: "DaysOutcome", database: Database, form: Format) -> None:
    rows = [
        {
            "day": day,
            **{name: report[key] for name, key in _COUNTS.items()},
            "seconds": sum(value for key, value in report.items() if key.startswith("seconds_")),
            "run_id": outcome.run_id,
            "warning": None if report["warning"] == "none" else report["warning"],
        }
        for day, report in outcome.days.items()
    ]
    show(f"Run {outcome.run_id} in {database.description}", _COLUMNS, rows, form)
