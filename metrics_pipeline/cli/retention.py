"""`retention`: deletes what is old enough, or with --dry-run prints what would be deleted."""

import inspect
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import asdict, fields, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer
from rich.console import Console

from metrics_pipeline.cli.runs import INTERRUPTED
from metrics_pipeline.cli.tables import Column, Format, FormatOption, say, show
from metrics_pipeline.errors import PermanentError
from metrics_pipeline.metrics.retention import NEVER, RetentionPolicy, cutoffs
from metrics_pipeline.names import ALERTS_TABLE, LOGS_TABLE, METRICS_TABLE
from metrics_pipeline.pipeline.opening import open_database, require_ready_to_prune
from metrics_pipeline.postgres.database import Database
from metrics_pipeline.retention.pace import Pace
from metrics_pipeline.retention.run import LAKE_IS_KEPT, apply_retention
from metrics_pipeline.settings import Settings
from metrics_pipeline.variables import RETENTION_VARIABLES

_RESTATEMENTS_TABLE = "metric_restatements"

if TYPE_CHECKING:
    from metrics_pipeline.orchestration.in_process import Report


def retention(
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Delete nothing; print what would be deleted and what is held back."),
    ] = False,
    form: FormatOption = Format.TABLE,
    **limits: int | str | None,
) -> None:
    """Deletes raw logs, metrics and resolved alerts that are older than the policy keeps, as a Dagster run.

    Days are counted back from today in METRICS_TIME_ZONE. Raw logs of a day are deleted only if its metrics are stored
    and equal them; the day is then sealed and never aggregated again. Other days are held back and listed with the
    reason. An interrupted run leaves nothing half done; run the command again to continue.

    **Examples**

    - `metrics-pipeline retention --dry-run`: what the next night would delete

    - `metrics-pipeline retention --raw-log-days 60`
    """
    settings = Settings.from_environment()
    days = _given(RetentionPolicy, limits)
    policy = replace(settings.retention, **{name: None if value == NEVER else value for name, value in days.items()})
    pace = Pace(**_given(Pace, limits))
    # While a step runs Dagster redirects stdout and stderr into the run's compute log; this is for the terminal.
    with os.fdopen(os.dup(sys.stderr.fileno()), "w", encoding="utf-8") as terminal:
        console = Console(file=terminal, markup=False)
        with console.status("Starting") if console.is_terminal else nullcontext() as status:

            def show(message: str) -> None:
                if status is not None:
                    status.update(message)

            database = open_database(settings)
            carry_out = _preview if dry_run else _run
            report = carry_out(settings, database, policy, pace, show)
    _print_report(report, database, form, is_dry_run=dry_run)
    if settings.logs_url is not None and form is Format.TABLE:
        say(LAKE_IS_KEPT)


def _given(limited: type[RetentionPolicy | Pace], limits: Mapping[str, Any]) -> dict[str, Any]:
    return {limit.name: value for limit in fields(limited) if (value := limits[limit.name]) is not None}


def _options() -> Iterator[inspect.Parameter]:
    for limit in fields(RetentionPolicy):
        default = f"Default: {RETENTION_VARIABLES[limit.name].name}, else {limit.default}."
        help_ = f"{limit.metadata['description']} `{NEVER}` keeps them forever. {default}"
        yield _option(limit.name, str | None, None, typer.Option(help=help_, metavar="DAYS", parser=_days_or_never))
    for limit in fields(Pace):
        yield _option(limit.name, int, limit.default, typer.Option(help=limit.metadata["description"]))


def _days_or_never(text: str) -> int | str:
    # None would mean that the option is not given. The policy judges the number.
    if text == NEVER:
        return NEVER
    try:
        return int(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a number of days; use a whole number, or {NEVER}.") from None


def _option(name: str, type_: Any, default: object, option: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[type_, option])


# Typer makes the options of a command from its signature.
cast("Any", retention).__signature__ = inspect.Signature(
    [*(inspect.signature(retention).parameters[name] for name in ("dry_run", "form")), *_options()]
)


def _preview(
    settings: Settings, database: Database, policy: RetentionPolicy, pace: Pace, show: Callable[[str], None]
) -> "Report":
    started = time.perf_counter()
    report = apply_retention(
        database,
        require_ready_to_prune(database, settings),
        cutoffs(policy, datetime.now(UTC), settings.time_zone),
        pace,
        run_id="",
        is_dry_run=True,
        on_progress=show,
    )
    from metrics_pipeline.orchestration.retention import retention_metadata

    metadata = retention_metadata(report, time.perf_counter() - started)
    return {key: value.value for key, value in metadata.items()}


def _run(
    settings: Settings, database: Database, policy: RetentionPolicy, pace: Pace, show: Callable[[str], None]
) -> "Report":
    # Checked here first: inside a run, a database that cannot be reached is tried again for minutes.
    require_ready_to_prune(database, settings)
    from metrics_pipeline.orchestration.in_process import run_retention
    from metrics_pipeline.orchestration.instance import open_instance

    with open_instance(settings) as instance:
        config = {"dry_run": False, **asdict(policy), **asdict(pace)}
        outcome = run_retention(instance, config, on_message=show)
    if outcome.is_interrupted:
        typer.echo("Interrupted. Nothing is half done; run the command again to go on.", err=True)
        raise typer.Exit(INTERRUPTED)
    if outcome.report is None:
        raise PermanentError(f"Run {outcome.run_id} failed. {outcome.failure}")
    return outcome.report


def _print_report(report: "Report", database: Database, form: Format, *, is_dry_run: bool) -> None:
    if form is not Format.TABLE:
        show("", (), _rows(report, is_dry_run=is_dry_run), form)
        return
    done = "would be deleted" if is_dry_run else "deleted"
    if report["days"]:
        show(
            f"Days with rows that are old enough in {database.description}; first day kept: raw logs "
            f"{report['keeps_raw_logs_from']}, metrics {report['keeps_metrics_from']}",
            (
                Column("day", is_text=True),
                Column("logs_deleted", f"logs {done}"),
                Column("metrics_deleted", f"metrics {done}", rank=1),
                Column("logs_held_back", "held back"),
                Column("reason", "why", is_folded=True),
            ),
            report["days"],
        )
        print()
    show(
        f"Rows in {database.description}",
        (Column("table", is_text=True), Column("deleted", done), Column("held_back", "held back")),
        [
            {
                "table": table,
                "deleted": report[f"{table}_deleted"],
                "held_back": report["logs_held_back"] if table == LOGS_TABLE else None,
            }
            for table in (LOGS_TABLE, METRICS_TABLE, _RESTATEMENTS_TABLE, ALERTS_TABLE)
        ],
    )
    for partition in report["partitions_dropped"]:
        say(f"Partition {partition} {'would be' if is_dry_run else 'was'} dropped as a whole.")
    if report["alert_history_held_back"]:
        say(f"No alert was deleted: {report['alert_history_held_back']}.")
    if report["is_out_of_time"]:
        say("The time budget is used up. Run the command again to go on.")


def _rows(report: "Report", *, is_dry_run: bool) -> list[dict[str, Any]]:
    """A row per day and table; restatements and alerts are not counted by day."""

    def row(day: str | None, table: str, deleted: int, held_back: int = 0, why: str = "") -> dict[str, Any]:
        return {
            "day": day,
            "table": table,
            "is_dry_run": is_dry_run,
            "deleted": deleted,
            "held_back": held_back,
            "why": why or None,
        }

    return [
        *(
            row(day["day"], LOGS_TABLE, day["logs_deleted"], day["logs_held_back"], day["reason"])
            for day in report["days"]
        ),
        *(row(day["day"], METRICS_TABLE, day["metrics_deleted"]) for day in report["days"]),
        *(row(None, table, report[f"{table}_deleted"]) for table in (_RESTATEMENTS_TABLE, ALERTS_TABLE)),
    ]
