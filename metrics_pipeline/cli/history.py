"""`status` and `restatements`: the state of each stored day, and the stored values that were replaced."""

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from typing import Annotated, Any

import simplejson
import typer

from metrics_pipeline.cli.tables import Column, Format, FormatOption, in_words, say, show
from metrics_pipeline.cli.values import day_option, named, require_known, require_order, storable
from metrics_pipeline.errors import DagsterStorageError
from metrics_pipeline.metrics.reconciliation import DayState, DayVerdict, LedgerRow
from metrics_pipeline.metrics.wording import counted
from metrics_pipeline.pipeline.opening import open_database, open_source, require_ready
from metrics_pipeline.pipeline.reconciling import (
    days_not_stored,
    findings,
    first_day,
    how_judged,
    judge_days,
    lookback,
    other_dimensions,
    why_start_later,
)
from metrics_pipeline.pipeline.watching import USUAL_EFFORT, look_at_days
from metrics_pipeline.settings import Settings
from metrics_pipeline.store.acknowledgements import acknowledgements
from metrics_pipeline.store.answers.restatements import restatements_page
from metrics_pipeline.store.ledger import ledger_rows

#: The exit code of `status --exit-code`. Neither 1, which an error has, nor 2, a wrong option.
_NEEDS_ATTENTION = 3

_MAX_NAMED_AGENTS = 5

_STYLES = {
    DayState.AGGREGATED: "green",
    DayState.NO_ACTIVITY: "green",
    DayState.RUNNING: "cyan",
    DayState.OTHER_ZONE: "yellow",
    DayState.DIRTY: "yellow",
    DayState.MISSING: "red",
    DayState.DAMAGED: "bold red",
    DayState.SHRUNK: "bold red",
    DayState.UNREADABLE: "bold red",
}

_STATUS = (
    Column("day", is_text=True),
    Column("state", is_text=True, in_words=lambda state: state.words, style=lambda state: _STYLES.get(state, "")),
    Column("why", is_folded=True),
    Column("logs"),
    Column("aggregated", rank=4),
    Column("skipped", rank=1),
    Column("agents", rank=2),
    Column("aggregated_at", "when (UTC)", is_text=True, rank=3),
    Column("run_id", "run", is_text=True, rank=5, in_words=lambda run_id: (run_id or "")[:8]),
    Column("definition", rank=6),
)

_RESTATEMENTS = (
    Column("agent", is_text=True),
    Column("day", is_text=True),
    Column("replaced_at", "replaced (UTC)", is_text=True, rank=1, in_words="{:%Y-%m-%d %H:%M:%S}".format),
    Column("reason", is_text=True, rank=2),
    Column("run_id", "run", is_text=True, rank=3, in_words=lambda run_id: run_id[:8]),
    Column("changed", "what changed", is_folded=True),
)


def status(
    days: Annotated[
        int | None, typer.Option(min=1, max=3660, help="How many days back. Default: METRICS_LOOKBACK_DAYS.")
    ] = None,
    form: FormatOption = Format.TABLE,
    exit_code: Annotated[
        bool,
        typer.Option(
            "--exit-code",
            help="For cron and monitoring: end with code 3 if a shown day is missing, dirty, damaged, shrunk or "
            "unreadable, or if Dagster's database does not answer.",
        ),
    ] = False,
) -> None:
    """Shows the state of the last days: whether the stored metrics of each day still equal its logs.

    - **aggregated**: its metrics equal its logs
    - **no activity**: its metrics equal its logs, and there is not one log
    - **missing**: it was never aggregated
    - **dirty**: its logs have changed since it was aggregated; some are late or corrected
    - **damaged**: another program deleted or altered its stored rows
    - **shrunk**: logs or columns that are in its metrics are gone
    - **unreadable**: one of its logs cannot be read
    - **running**: it is being aggregated
    - **sealed**: retention has deleted its raw logs
    - **expired**: retention has deleted its metrics
    - **other zone**: it was stored under another METRICS_TIME_ZONE

    The logs of a day are read only if nothing cheaper shows that they are those of the last reading: the counters of
    its partitions or of the tables behind a view, the list of its files in a lake, or their count. If no count differs,
    the newest two days are read too. The last sentence says which evidence counted, and since when.

    The schedule and the sensor aggregate missing, dirty and damaged days; `metrics-pipeline backfill` does it
    immediately. A shrunk day waits for a decision: `metrics-pipeline seal` keeps its metrics, and `metrics-pipeline
    aggregate --accept-deleted-logs` computes them from the logs that are left.
    """
    settings = Settings.from_environment()
    database = open_database(settings)
    window = lookback(settings, datetime.now(UTC), days)
    logs = open_source(database, settings)
    unknown = ""
    try:
        from metrics_pipeline.orchestration.instance import open_instance
        from metrics_pipeline.orchestration.reconciling import judge

        with open_instance(settings) as instance:
            verdicts = judge(instance, database, logs, settings.time_zone, window, is_recorded=False)
    except DagsterStorageError as error:
        # On such a night the state of the metrics is what an operator needs.
        unknown = f"Which days a run is writing is not known. {error}"
        found = look_at_days(database, logs, window, settings.time_zone, USUAL_EFFORT)
        with database.snapshot() as snapshot:
            verdicts = judge_days(snapshot, window, settings.time_zone, found=found.by_day)
    with database.connect() as connection:
        ledger = ledger_rows(connection, window[0], window[-1]) if window else {}
        first = first_day(connection, logs, settings.time_zone)
        missing = days_not_stored(connection, max(first, settings.start_date), window[0]) if first and window else []
        known = [each.agent_id for each in acknowledgements(connection)]
    show(
        f"{database.description}, {f'logs of {logs.name}, ' if settings.logs_url else ''}days in {settings.time_zone}",
        _STATUS,
        [_status_row(verdict, ledger.get(verdict.metric_date)) for verdict in verdicts],
        form,
    )
    if form is Format.TABLE:
        say(f"{findings(verdicts, names_days=False)} {how_judged(verdicts)}".rstrip())
        _say_other_dimensions(ledger, settings)
        _say_older(missing, window)
        _say_acknowledged(known)
        if later := why_start_later(settings, first):
            say(later)
    if unknown:
        say(unknown, is_error=True)
    if exit_code and (unknown or any(verdict.state.is_fault for verdict in verdicts)):
        raise typer.Exit(_NEEDS_ATTENTION)


def _say_other_dimensions(ledger: Mapping[date, LedgerRow], settings: Settings) -> None:
    """How many days have other dimensions than METRICS_DIMENSIONS declares, and what renews them."""
    days = sorted(other_dimensions(ledger, settings.dimensions))
    renewable = [day for day in days if not ledger[day].is_sealed]
    if not days:
        return
    said = f"{counted(len(days), 'day has', 'days have')} other dimensions than METRICS_DIMENSIONS declares"
    if len(renewable) < len(days):
        said += f", of which {len(days) - len(renewable)} sealed, which keep theirs"
    if not renewable:
        say(f"{said}.")
        return
    say(
        f"{said}. Renew:",
        f"metrics-pipeline backfill --from {renewable[0]} --to {renewable[-1]} --renew-dimensions",
    )


def _say_older(missing: Sequence[date], window: Sequence[date]) -> None:
    if missing:
        say(
            f"Never aggregated before {window[0]}, where no schedule looks: {counted(len(missing), 'day')} "
            f"({named(missing)}). Aggregate them:",
            f"metrics-pipeline backfill --from {missing[0]} --to {missing[-1]}",
        )


def _say_acknowledged(agents: Sequence[str]) -> None:
    if agents:
        more = f" and {len(agents) - _MAX_NAMED_AGENTS} more" if len(agents) > _MAX_NAMED_AGENTS else ""
        shown = ", ".join(agents[:_MAX_NAMED_AGENTS])
        say(f"Acknowledged, so no check warns of them: {shown}{more}. Why:", "metrics-pipeline agents list")


def restatements(
    agent: Annotated[str | None, typer.Option(callback=storable, help="Only this agent. Default: all.")] = None,
    first: Annotated[date | None, day_option("--from", help="The first metric day. Default: the first stored.")] = None,
    last: Annotated[date | None, day_option("--to", help="The last metric day. Default: the last stored.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="The maximum number of rows, newest first.")] = 100,
    form: FormatOption = Format.TABLE,
) -> None:
    """Shows the stored values that were replaced, when, by which run and why.

    Example: `metrics-pipeline restatements --agent support-triage --from 2025-07-01 --to 2025-07-31`
    """
    first, last = first or date.min, last or date.max
    require_order(first, last)
    database = open_database(Settings.from_environment())
    require_ready(database)
    with database.connect() as connection:
        page = restatements_page(connection, first, last, agent_id=agent, limit=limit, offset=0)
        if not page.rows:
            # Those of an agent outlive its metrics.
            require_known(connection, agent)
    if not page.rows and form is Format.TABLE:
        print("No stored value was replaced.")
        return
    rows = [_restatement_row(simplejson.loads(row, use_decimal=True)) for row in page.rows]
    show(f"Restatements in {database.description}", _RESTATEMENTS, rows, form)


def _status_row(verdict: DayVerdict, row: LedgerRow | None) -> dict[str, Any]:
    old = " (old)" if verdict.is_outdated else ""
    return {
        "day": verdict.metric_date,
        "state": verdict.state,
        "why": verdict.reason,
        "logs": row and row.source_logs,
        "aggregated": row and row.aggregated_logs,
        "skipped": row and row.skipped_logs,
        "agents": row and row.agents,
        "aggregated_at": row and row.aggregated_at,
        "run_id": row and row.run_id,
        "definition": row and f"{row.definition_version}{old}",
        "dimensions": row and row.dimensions,
        "read_at": verdict.verified_at,
        "judged_by": verdict.judged_by,
    }


def _restatement_row(restatement: Mapping[str, Any]) -> dict[str, Any]:
    old_row, new_row = restatement["old_row"], restatement["new_row"]
    changed = (
        ["cleared"]
        if new_row is None
        else [
            f"{name} {in_words(old)} → {in_words(new_row[name])}"
            for name, old in old_row.items()
            if old != new_row[name]
        ]
    )
    return {
        "agent": restatement["agent_id"],
        "day": restatement["metric_date"],
        "replaced_at": datetime.fromisoformat(restatement["replaced_at"]),
        "reason": restatement["reason"],
        "run_id": restatement["run_id"],
        "changed": ", ".join(changed) or "the distribution of latencies or users only",
    }
