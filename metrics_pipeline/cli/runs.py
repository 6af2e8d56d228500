"""Commands that aggregate days: each is a Dagster run whose events and lineage the UI shows."""

import os
import sys
from datetime import UTC, date, datetime
from typing import Annotated

import dagster as dg
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from metrics_pipeline.cli.preview import preview_days
from metrics_pipeline.cli.tables import print_table
from metrics_pipeline.errors import PermanentError
from metrics_pipeline.metrics.windows import last_complete_day
from metrics_pipeline.orchestration.in_process import DaysOutcome, Report, run_days
from metrics_pipeline.orchestration.instance import open_instance
from metrics_pipeline.pipeline.aggregation import AggregationOptions
from metrics_pipeline.pipeline.opening import open_database, require_ready
from metrics_pipeline.settings import Settings
from metrics_pipeline.store.publishing import Reason

_INCLUDE_INACTIVE = typer.Option(
    help="Also aggregate agents that are not active in agent_registry, for backfills of retired agents."
)
_ACCEPT_DELETED = typer.Option(
    help="Also aggregate a day that has shrunk, because logs in its metrics were deleted. The old values are kept in "
    "metric_restatements."
)

#: The exit code that shells report for a command that Ctrl-C ended: 128 + SIGINT.
INTERRUPTED = 130


def aggregate(
    day: Annotated[
        datetime | None, typer.Option("--date", metavar="YYYY-MM-DD", formats=["%Y-%m-%d"], help="Default: yesterday.")
    ] = None,
    include_inactive_agents: Annotated[bool, _INCLUDE_INACTIVE] = False,
    accept_deleted_logs: Annotated[bool, _ACCEPT_DELETED] = False,
) -> None:
    """Aggregates one day, as a Dagster run.

    Running a day again is safe: unchanged rows are not written, and the old values of a changed row are kept in
    metric_restatements.

    Example: `metrics-pipeline aggregate --date 2025-07-11`
    """
    settings = Settings.from_environment()
    chosen = day.date() if day else _yesterday(settings)
    _run(settings, chosen, chosen, Reason.MANUAL, AggregationOptions(include_inactive_agents, accept_deleted_logs))


def backfill(
    first: Annotated[
        datetime, typer.Option("--from", metavar="YYYY-MM-DD", formats=["%Y-%m-%d"], help="The first day.")
    ],
    last: Annotated[
        datetime | None,
        typer.Option("--to", metavar="YYYY-MM-DD", formats=["%Y-%m-%d"], help="The last day. Default: yesterday."),
    ] = None,
    include_inactive_agents: Annotated[bool, _INCLUDE_INACTIVE] = False,
    accept_deleted_logs: Annotated[bool, _ACCEPT_DELETED] = False,
    preview: Annotated[
        bool, typer.Option("--preview", help="Compute everything, write nothing, and print what would change.")
    ] = False,
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
    """
    settings = Settings.from_environment()
    options = AggregationOptions(include_inactive_agents, accept_deleted_logs)
    last_day = last.date() if last else _yesterday(settings)
    if preview:
        require_complete_days(settings, first.date(), last_day)
        preview_days(settings, first.date(), last_day, options)
    else:
        _run(settings, first.date(), last_day, Reason.BACKFILL, options)


def _yesterday(settings: Settings) -> date:
    return last_complete_day(datetime.now(UTC), settings.time_zone)


def _run(settings: Settings, first: date, last: date, reason: Reason, options: AggregationOptions) -> None:
    require_complete_days(settings, first, last)
    # Checked before the run: inside it, connecting to an unreachable database would be retried for minutes.
    require_ready(open_database(settings))
    with open_instance(settings) as instance:
        run_with_progress(instance, first, last, reason, options)


def run_with_progress(
    instance: dg.DagsterInstance,
    first: date,
    last: date,
    reason: Reason,
    options: AggregationOptions,
) -> None:
    """Runs the days with a progress bar on stderr, and prints a table of the stored ones on stdout.

    Raises PermanentError for a run that failed, and typer.Exit for one that a signal ended.
    """
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

            def advance(day: date, _report: Report) -> None:
                progress.update(task, advance=1, description=f"Stored {day}")

            outcome = run_days(
                instance,
                first,
                last,
                options,
                reason=reason,
                on_day=advance,
            )
    if outcome.continued_run_id is not None:
        typer.echo(
            f"Went on where run {outcome.continued_run_id} stopped; its days that still equal their logs were left out."
        )
    for why in outcome.left_out.values():
        typer.echo(f"Left out: {why}")
    if outcome.days:
        _print_summary(outcome)
    if outcome.is_interrupted:
        typer.echo(f"Interrupted. {len(outcome.days)} days are stored; run the command again to go on.", err=True)
        raise typer.Exit(INTERRUPTED)
    if outcome.failure is not None:
        raise PermanentError(f"Run {outcome.run_id} failed. {outcome.failure}")
    if not outcome.days:
        typer.echo(f"Run {outcome.run_id} had nothing left to do.")


def require_complete_days(settings: Settings, first: date, last: date) -> None:
    """Raises PermanentError unless all days from `first` to `last` have ended and are not before METRICS_START_DATE."""
    if first > last:
        raise PermanentError(f"The first day, {first}, comes after the last, {last}. Swap --from and --to.")
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


def _print_summary(outcome: DaysOutcome) -> None:
    counts = (
        "logs_read",
        "logs_aggregated",
        "logs_skipped",
        "agents",
        "rows_inserted",
        "rows_changed",
        "rows_unchanged",
    )
    print_table(
        f"Run {outcome.run_id}",
        ("day", "logs", "aggregated", "skipped", "agents", "inserted", "changed", "unchanged", "seconds"),
        [
            (
                str(day),
                *(f"{report[key]:,}" for key in counts),
                f"{sum(value for key, value in report.items() if key.startswith('seconds_')):.2f}",
            )
            for day, report in outcome.days.items()
        ],
    )
    for day, report in outcome.days.items():
        if report["warning"] != "none":
            print(f"{day}: {report['warning']}")
