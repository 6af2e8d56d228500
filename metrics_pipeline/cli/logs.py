"""`logs`: bring execution logs into the database, generated or from files."""

from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from metrics_pipeline.cli.tables import printable
from metrics_pipeline.cli.values import day_option
from metrics_pipeline.errors import PermanentError
from metrics_pipeline.log_files.loading import LoadedLogs, load_log_files
from metrics_pipeline.log_files.log_file import MAX_MIB, MAX_ROWS, Reading
from metrics_pipeline.log_files.sample_logs import store_sample
from metrics_pipeline.log_files.schema import COLUMNS
from metrics_pipeline.log_files.spans import Traces
from metrics_pipeline.metrics.windows import days_between, last_complete_day
from metrics_pipeline.metrics.wording import counted
from metrics_pipeline.pipeline.opening import open_database
from metrics_pipeline.postgres.database import Database
from metrics_pipeline.sample.agents import SampleSpec
from metrics_pipeline.settings import Settings

app = typer.Typer(no_args_is_help=True, help="Bring execution logs into the database: generated, or from files.")

_TERMINAL = Console(stderr=True)


class FileFormat(StrEnum):
    """What a file holds, where its ending does not tell."""

    OTLP = "otlp"


_FIRST_DAY = date(1970, 1, 2)
_LAST_DAY = date(9998, 12, 30)


@app.command()
def generate(
    days: Annotated[int, typer.Option(min=1, max=3660, help="The number of days, ending with --until.")] = 7,
    logs_per_day: Annotated[
        int, typer.Option(min=0, max=100_000_000, help="Logs of a working day; Saturdays and Sundays have fewer.")
    ] = 10_000,
    agents: Annotated[int, typer.Option(min=1, max=100_000, help="The number of agents; a few get most logs.")] = 20,
    seed: Annotated[int, typer.Option(help="The same seed gives the same logs.")] = 1,
    until: Annotated[
        date | None, day_option("--until", help="The last day. Default: yesterday in METRICS_TIME_ZONE.")
    ] = None,
    yes: Annotated[
        bool, typer.Option("--yes", help="Write generated logs also into the database that METRICS_DATABASE_URL names.")
    ] = False,
) -> None:
    """Generates realistic logs and their agents, and stores them.

    A few agents have most of the logs, the load varies over the day, there are incidents, latencies have a long tail,
    and some values are missing. The options determine the logs, ids included: repeating a command adds nothing, so an
    interrupted command can be repeated. Each day is stored in one transaction.

    **Examples**

    - `metrics-pipeline logs generate`: the last week
    - `metrics-pipeline logs generate --days 30 --logs-per-day 100000 --agents 200`
    - `metrics-pipeline logs generate --days 1 --until 2025-03-30 --seed 42`
    """
    settings = Settings.from_environment()
    last = until or last_complete_day(datetime.now(UTC), settings.time_zone)
    if not _FIRST_DAY + timedelta(days=days) <= last <= _LAST_DAY:
        raise PermanentError(
            f"The days (--days {days}, --until {last}) do not lie between {_FIRST_DAY} and {_LAST_DAY}. Correct one of "
            "the two."
        )
    first = last - timedelta(days=days - 1)
    spec = SampleSpec(seed=seed, agents=agents, logs_per_day=logs_per_day)
    database = open_database(settings)
    if not (database.is_embedded or yes):
        raise PermanentError(
            f"METRICS_DATABASE_URL names {database.description}, whose logs may be real, and generated logs and agents "
            "would be mixed with them. Unset it to use the embedded database, or add --yes."
        )
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("logs"),
        TimeRemainingColumn(),
        console=_TERMINAL,
        transient=True,
        disable=not _TERMINAL.is_terminal,
    )
    with progress:
        task = progress.add_task("Starting", total=None)
        generated = 0

        def advance(day: date, logs: int) -> None:
            nonlocal generated
            generated += logs
            progress.update(task, advance=logs, description=f"{day}")

        stored = store_sample(database, spec, days_between(first, last), settings.time_zone, advance)
    typer.echo(
        f"Generated {counted(generated, 'log')} of {counted(agents, 'agent')} from {first} to {last} in "
        f"{printable(database.description)}. New: {stored:,}, stored already: {generated - stored:,}."
    )
    _advise(first, last, settings)


@app.command()
def load(
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILE", help=".csv, .tsv, .ndjson or .jsonl, also with .gz; .json and .parquet"),
    ],
    register_agents: Annotated[
        bool,
        typer.Option("--register-agents", help="Register unknown agents as active, with their id as name."),
    ] = False,
    skip_existing: Annotated[
        bool,
        typer.Option(
            "--skip-existing", help="Skip logs that are stored with the same values, instead of refusing them."
        ),
    ] = False,
    column: Annotated[
        list[str] | None,
        typer.Option(
            metavar="COLUMN=NAME",
            help="Read the files' column NAME as this column of a log. May be given several times.",
        ),
    ] = None,
    skip_column: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Leave the files' column NAME out. May be given several times."),
    ] = None,
    form: Annotated[
        FileFormat | None,
        typer.Option(
            "--format", help="otlp: OpenTelemetry traces in JSON or Protobuf.", show_default="by the files' endings"
        ),
    ] = None,
    max_rows: Annotated[
        int, typer.Option(min=1, help="Lines, spans, or rows of Parquet, that the files may have together.")
    ] = MAX_ROWS,
    max_mib: Annotated[
        int, typer.Option(min=1, help="MiB that the files may have together when they are decompressed.")
    ] = MAX_MIB,
) -> None:
    """Loads files of logs, all of them in one transaction.

    The columns are those of agent_execution_logs, in any order; case, spaces and hyphens in their names do not matter.
    Every log needs `agent_id`, `timestamp` and `status`; `id`, `latency_ms`, `token_count`, `cost_usd`, `error_type`
    and `metadata` may be absent or empty. Every value is checked; an error names the file, the line (in Parquet: the
    row), the column and the value.

    - `timestamp` is ISO 8601; without a zone it is UTC. Digits after the microseconds are truncated. A number of 10,
      13, 16 or 19 digits that begins with 1 is epoch time, in seconds to nanoseconds.
    - `latency_ms` and `token_count` are 32-bit integers.
    - `cost_usd` keeps all its digits. A binary float in Parquet is read as the shortest decimal that denotes it.
    - `metadata` is JSON; in NDJSON it may be a string of JSON or an object. Of a JSON string that holds an object, the
      object is stored.
    - In CSV an empty field is NULL, and commas, semicolons or tabs separate the fields. In NDJSON a column must not be
      named twice.
    - A row may have up to 16 MiB, and so may an array of JSON.

    A log whose `id` is already stored is refused, so a file cannot be loaded twice. A log without an id is compared
    by all its other values.

    With `--format otlp`, the files are what OpenTelemetry's Collector exports with its file exporter, in JSON or
    Protobuf. Each span of the operation invoke_agent or invoke_workflow is a log, and each token counts once. Name all
    files of a trace together.

    **Examples**

    - `metrics-pipeline logs load executions.csv --register-agents`
    - `metrics-pipeline logs load export/*.ndjson.gz --skip-existing`: files that overlap the stored logs
    - `metrics-pipeline logs load trace.csv --column agent_id=model --skip-column host`
    - `metrics-pipeline logs load spans*.jsonl --format otlp --register-agents --skip-existing`
    """
    if form is FileFormat.OTLP and (column or skip_column):
        raise typer.BadParameter(
            "Traces have no columns: leave --column and --skip-column out.", param_hint="'--format'"
        )
    reading = Reading(
        {**dict(map(_renamed, column or ())), **dict.fromkeys(skip_column or ())},
        max_rows=max_rows,
        max_mib=max_mib,
        traces=Traces() if form is FileFormat.OTLP else None,
    )
    settings = Settings.from_environment()
    database = open_database(settings)
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TimeRemainingColumn(),
        console=_TERMINAL,
        transient=True,
        disable=not _TERMINAL.is_terminal,
    )
    with progress:
        size = sum(map(_size, files))
        task = progress.add_task("Reading and checking", total=size)

        def advance(more_bytes: int) -> None:
            progress.update(task, advance=more_bytes)
            if progress.finished:
                progress.update(task, description="Storing")

        with database.begin() as connection:
            loaded = load_log_files(
                connection,
                files,
                time_zone=settings.time_zone,
                reading=reading,
                register_unknown=register_agents,
                skip_existing=skip_existing,
                on_bytes=advance,
            )
    _report(loaded, settings, database)


def _renamed(option: str) -> tuple[str, str]:
    """The name in the files and the log's column."""
    column, _, name = option.partition("=")
    if column not in COLUMNS or not name:
        raise typer.BadParameter(
            f"{option!r} is not COLUMN=NAME with one of the columns {', '.join(COLUMNS)}.", param_hint="'--column'"
        )
    return name, column


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        # Loading the file raises the error that names it.
        return 0


def _report(loaded: LoadedLogs, settings: Settings, database: Database) -> None:
    for path, logs in loaded.logs_by_file.items():
        typer.echo(printable(f"{path}: {counted(logs, 'log')} loaded into {database.description}"))
    if loaded.skipped_logs:
        typer.echo(f"Left out, because they are stored with the same values: {loaded.skipped_logs:,}")
    if loaded.registered_agents:
        typer.echo(f"Agents registered: {', '.join(map(printable, loaded.registered_agents))}")
    if loaded.logs_by_day:
        typer.echo(f"Days in {settings.time_zone}:")
        for day, logs in loaded.logs_by_day.items():
            typer.echo(f"  {day}  {counted(logs, 'log'):>15}")
        _advise(min(loaded.logs_by_day), max(loaded.logs_by_day), settings)


def _advise(first: date, last: date, settings: Settings) -> None:
    """Prints the command that aggregates the days from `first` to `last` that have ended."""
    if settings.logs_url is not None:
        typer.echo("METRICS_LOGS_URL names where logs are read from, so these are not aggregated.")
        return
    ended = last_complete_day(datetime.now(UTC), settings.time_zone)
    if first <= ended:
        start = f"METRICS_START_DATE={first} " if first < settings.start_date else ""
        typer.echo(f"Aggregate them with: {start}metrics-pipeline backfill --from {first} --to {min(last, ended)}")
    if last > ended:
        typer.echo(
            f"Days after {ended} have not ended in {settings.time_zone}; the schedule aggregates them when they have."
        )
