"""`retention`: deletes what is old enough, or with --dry-run says what would go."""

import os
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.console import Console

from metrics_pipeline.cli.runs import INTERRUPTED
from metrics_pipeline.cli.tables import print_table
from metrics_pipeline.errors import PermanentError
from metrics_pipeline.logs.contract import PRUNED_TABLES
from metrics_pipeline.metrics.retention import RetentionPolicy, cutoffs
from metrics_pipeline.orchestration.in_process import Report, run_retention
from metrics_pipeline.orchestration.instance import open_instance
from metrics_pipeline.orchestration.retention import retention_metadata
from metrics_pipeline.pipeline.opening import open_database, open_logs
from metrics_pipeline.retention.pace import Pace
from metrics_pipeline.retention.run import apply_retention
from metrics_pipeline.settings import Settings

_DEFAULTS = Pace()


def retention(
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Delete nothing; print what would go and what is held back.")
    ] = False,
    raw_log_days: Annotated[
        int | None, typer.Option(help="Keep raw logs so long. Default: METRICS_RETENTION_RAW_LOG_DAYS, else 30.")
    ] = None,
    metric_days: Annotated[
        int | None, typer.Option(help="Keep metrics so long. Default: METRICS_RETENTION_METRIC_DAYS, else 365.")
    ] = None,
    alert_days: Annotated[
        int | None, typer.Option(help="Keep resolved alerts so long. Default: METRICS_RETENTION_ALERT_DAYS, else 90.")
    ] = None,
    batch_rows: Annotated[int, typer.Option(help="Rows per transaction.")] = _DEFAULTS.batch_rows,
    pause_ms: Annotated[int, typer.Option(help="Milliseconds between two transactions.")] = _DEFAULTS.pause_ms,
    time_budget_minutes: Annotated[
        int, typer.Option(help="End after so many minutes; the next run goes on.")
    ] = _DEFAULTS.time_budget_minutes,
) -> None:
    """Deletes raw logs, metrics and resolved alerts that are older than the policy keeps, as a Dagster run.

    Days are counted back from today in METRICS_TIME_ZONE. Raw logs of a day go only if its metrics stand and equal
    them; the day is then sealed and never aggregated again. Other days are held back and listed with the reason.
    Interrupted at any point, nothing is half done; run it again to go on.

    **Examples**

    - `metrics-pipeline retention --dry-run`: what would go tonight

    - `metrics-pipeline retention --raw-log-days 60`
    """
    settings = Settings.from_environment()
    standard = settings.retention
    policy = RetentionPolicy(
        standard.raw_log_days if raw_log_days is None else raw_log_days,
        standard.metric_days if metric_days is None else metric_days,
        standard.alert_days if alert_days is None else alert_days,
    )
    pace = Pace(batch_rows, pause_ms, time_budget_minutes)
    # While a step runs Dagster redirects stdout and stderr into the run's compute log; this is for the terminal.
    with os.fdopen(os.dup(sys.stderr.fileno()), "w") as terminal:
        console = Console(file=terminal, markup=False)
        with console.status("Starting") if console.is_terminal else nullcontext() as status:

            def show(message: str) -> None:
                if status is not None:
                    status.update(message)

            report = _preview(settings, policy, pace, show) if dry_run else _run(settings, policy, pace, show)
    _print_report(report, is_dry_run=dry_run)


def _preview(settings: Settings, policy: RetentionPolicy, pace: Pace, show: Callable[[str], None]) -> Report:
    database = open_database(settings)
    started = time.perf_counter()
    report = apply_retention(
        database,
        open_logs(database, PRUNED_TABLES).contract,
        cutoffs(policy, datetime.now(UTC), settings.time_zone),
        pace,
        run_id="",
        is_dry_run=True,
        on_progress=show,
    )
    metadata = retention_metadata(report, time.perf_counter() - started)
    return {key: value.value for key, value in metadata.items()}


def _run(settings: Settings, policy: RetentionPolicy, pace: Pace, show: Callable[[str], None]) -> Report:
    # Checked here first: inside a run, a database that cannot be reached is tried again for minutes.
    open_logs(open_database(settings), PRUNED_TABLES)
    with open_instance(settings) as instance:
        outcome = run_retention(instance, {**asdict(policy), **asdict(pace)}, on_message=show)
    if outcome.is_interrupted:
        typer.echo("Interrupted. Nothing is half done; run the command again to go on.", err=True)
        raise typer.Exit(INTERRUPTED)
    if outcome.report is None:
        raise PermanentError(f"Run {outcome.run_id} failed. {outcome.failure}")
    return outcome.report


def _print_report(report: Report, *, is_dry_run: bool) -> None:
    done = "would be deleted" if is_dry_run else "deleted"
    if report["days"]:
        print_table(
            f"Days with rows that are old enough; kept are raw logs from {report['keeps_raw_logs_from']}, "
            f"metrics from {report['keeps_metrics_from']}",
            ("day", f"logs {done}", f"metrics {done}", "logs held back", "why"),
            [
                (
                    day["day"],
                    f"{day['logs_deleted']:,}",
                    f"{day['metrics_deleted']:,}",
                    f"{day['logs_held_back']:,}",
                    day["reason"],
                )
                for day in report["days"]
            ],
            left=("day", "why"),
        )
    print_table(
        "Rows",
        ("table", done, "held back"),
        [
            ("agent_execution_logs", f"{report['agent_execution_logs_deleted']:,}", f"{report['logs_held_back']:,}"),
            ("agent_performance_metrics", f"{report['agent_performance_metrics_deleted']:,}", ""),
            ("metric_restatements", f"{report['metric_restatements_deleted']:,}", ""),
            ("alert_history", f"{report['alert_history_deleted']:,}", ""),
        ],
    )
    for partition in report["partitions_dropped"]:
        print(f"Partition {partition} {'would be' if is_dry_run else 'was'} dropped as a whole.")
    if report["is_out_of_time"]:
        print("The time budget is used up. Run the command again to go on.")
