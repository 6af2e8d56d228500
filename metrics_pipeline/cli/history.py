"""`status` and `restatements`: the state of each stored day, and the stored values that were replaced."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated

import typer

from metrics_pipeline.cli.tables import print_table
from metrics_pipeline.cli.values import storable
from metrics_pipeline.errors import DagsterStorageError
from metrics_pipeline.metrics.reconciliation import DayVerdict, LedgerRow
from metrics_pipeline.orchestration.instance import open_instance
from metrics_pipeline.orchestration.reconciling import judge
from metrics_pipeline.pipeline.opening import open_database, open_logs, require_ready
from metrics_pipeline.pipeline.reconciling import findings, how_judged, judge_days, lookback
from metrics_pipeline.pipeline.watching import USUAL_EFFORT, look_at_days
from metrics_pipeline.settings import Settings
from metrics_pipeline.store.ledger import ledger_rows
from metrics_pipeline.store.reads import Restatement
from metrics_pipeline.store.reads import restatements as stored_restatements

_FIRST_DAY = datetime(1, 1, 1)  # noqa: DTZ001 - an option's bounds are dates
_LAST_DAY = datetime(9999, 12, 31)  # noqa: DTZ001


def status(
    days: Annotated[
        int | None, typer.Option(min=1, max=3660, help="How many days back. Default: METRICS_LOOKBACK_DAYS.")
    ] = None,
) -> None:
    """Shows the state of the last days: whether the stored metrics of each day still equal its logs.

    - **aggregated**: its metrics equal its logs
    - **no activity**: its metrics equal its logs, and there is not one log
    - **missing**: it was never aggregated
    - **dirty**: its logs have changed since it was aggregated; some are late or corrected
    - **damaged**: another program deleted or altered its stored rows
    - **shrunk**: logs that are in its metrics are gone
    - **unreadable**: one of its logs cannot be read
    - **running**: it is being aggregated
    - **sealed**: retention has deleted its raw logs
    - **expired**: retention has deleted its metrics
    - **other zone**: it was stored under another METRICS_TIME_ZONE

    The logs of a day are read only if nothing cheaper shows that they are those of the last reading: the counters of
    its partitions, or, except of the newest two days, their count. The last sentence says which, and since when.

    The schedule and the sensor aggregate missing, dirty and damaged days; `metrics-pipeline backfill` does it
    immediately. A shrunk day waits for a decision: `metrics-pipeline seal` keeps its metrics, and `metrics-pipeline
    aggregate --accept-deleted-logs` computes them from the logs that are left.
    """
    settings = Settings.from_environment()
    database = open_database(settings)
    window = lookback(settings, datetime.now(UTC), days)
    logs = open_logs(database, settings)
    unknown = ""
    try:
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
    print_table(
        f"{database.description}, {f'logs of {logs.name}, ' if settings.logs_url else ''}days in {settings.time_zone}",
        ("day", "state", "why", "logs", "aggregated", "skipped", "agents", "when (UTC)", "run", "definition"),
        [_status_row(verdict, ledger.get(verdict.metric_date)) for verdict in verdicts],
        left=("day", "state", "why", "when (UTC)", "run"),
    )
    print(f"{findings(verdicts)} {how_judged(verdicts)}".rstrip())
    if unknown:
        typer.echo(unknown, err=True)


def restatements(
    agent: Annotated[str | None, typer.Option(callback=storable, help="Only this agent. Default: all.")] = None,
    first: Annotated[
        datetime, typer.Option("--from", metavar="YYYY-MM-DD", formats=["%Y-%m-%d"], help="The first metric day.")
    ] = _FIRST_DAY,
    last: Annotated[
        datetime, typer.Option("--to", metavar="YYYY-MM-DD", formats=["%Y-%m-%d"], help="The last metric day.")
    ] = _LAST_DAY,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="The maximum number of rows, newest first.")] = 100,
) -> None:
    """Shows the stored values that were replaced, when, by which run and why.

    Example: `metrics-pipeline restatements --agent support-triage --from 2025-07-01 --to 2025-07-31`
    """
    database = open_database(Settings.from_environment())
    require_ready(database)
    with database.connect() as connection:
        found = stored_restatements(connection, first.date(), last.date(), agent_id=agent, limit=limit)
    if not found:
        print("No stored value was replaced.")
        return
    print_table(
        f"Restatements in {database.description}",
        ("agent", "day", "replaced (UTC)", "reason", "run", "what changed"),
        [_restatement_row(restatement) for restatement in found],
        left=("agent", "day", "replaced (UTC)", "reason", "run", "what changed"),
    )


def _status_row(verdict: DayVerdict, row: LedgerRow | None) -> tuple[str, ...]:
    if row is None:
        return (str(verdict.metric_date), verdict.state.words, verdict.reason, "", "", "", "", "", "", "")
    return (
        str(verdict.metric_date),
        verdict.state.words,
        verdict.reason,
        f"{row.source_logs:,}",
        f"{row.aggregated_logs:,}",
        f"{row.skipped_logs:,}",
        f"{row.agents:,}",
        f"{row.aggregated_at:%Y-%m-%d %H:%M}",
        row.run_id[:8],
        f"{row.definition_version} (old)" if verdict.is_outdated else row.definition_version,
    )


def _restatement_row(restatement: Restatement) -> tuple[str, ...]:
    changed = (
        ["cleared"]
        if restatement.new_row is None
        else [
            f"{name} {_plain(old)} → {_plain(restatement.new_row[name])}"
            for name, old in restatement.old_row.items()
            if old != restatement.new_row[name]
        ]
    )
    return (
        restatement.agent_id,
        str(restatement.metric_date),
        f"{restatement.replaced_at:%Y-%m-%d %H:%M:%S}",
        restatement.reason,
        restatement.run_id[:8],
        ", ".join(changed) or "the distribution of latencies or users only",
    )


def _plain(value: object) -> str:
    return f"{value:f}" if isinstance(value, Decimal) else str(value)
