"""Loading logs into agent_execution_logs: from frames of valid logs, and from files that may hold anything."""

import stat
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import polars as pl
from sqlalchemy import Connection, text

from metrics_pipeline.errors import LogFileError
from metrics_pipeline.log_files.log_file import LogFile, Reading
from metrics_pipeline.log_files.otlp_file import otlp_file
from metrics_pipeline.log_files.problems import shown
from metrics_pipeline.log_files.staged_checks import (
    check_precision,
    check_unknown,
    refuse_unregistered,
    remove_known,
    unregistered_agents,
)
from metrics_pipeline.log_files.staging import LogStaging, refusals_named
from metrics_pipeline.log_files.text_files import CsvFile, JsonFile, NdjsonFile
from metrics_pipeline.log_files.validation import check_batch


def _parquet_file(path: Path, reading: Reading) -> LogFile:
    # Imported here: pyarrow's modules for it take 0.1 s, and every command imports this one.
    from metrics_pipeline.log_files.parquet_file import ParquetFile

    return ParquetFile(path, reading)


_FORMATS: Mapping[str, Callable[[Path, Reading], LogFile]] = {
    ".csv": CsvFile,
    ".csv.gz": CsvFile,
    ".tsv": CsvFile,
    ".tsv.gz": CsvFile,
    ".ndjson": NdjsonFile,
    ".ndjson.gz": NdjsonFile,
    ".jsonl": NdjsonFile,
    ".jsonl.gz": NdjsonFile,
    ".json": JsonFile,
    ".parquet": _parquet_file,
}


@dataclass(frozen=True)
class LoadedLogs:
    """The logs stored by file and by calendar day, the agents registered, and the number of logs left out."""

    logs_by_file: Mapping[Path, int]
    logs_by_day: Mapping[date, int]
    registered_agents: Sequence[str]
    skipped_logs: int


def load_logs(connection: Connection, frames: Iterable[pl.DataFrame]) -> int:
    """Stores frames of generated logs (LOG_SCHEMA) in the transaction of `connection`; returns how many are new.

    Skips logs whose id is stored already. Where the table's id cannot hold theirs, it gives them ids of its own, and
    logs that are stored with the same values are skipped. Columns that the table generates are left to it.
    Raises LogFileError if PostgreSQL refuses a log.
    """
    staging = LogStaging(connection, as_declared=True)
    columns = [name for name in staging.written if name != "id" or staging.takes_uuids]
    for frame in frames:
        staging.copy(frame.select(pl.col(name) for name in frame.columns if name in columns), "the given logs")
    if not staging.takes_uuids:
        staging.analyze()
        remove_known(connection, staging)
    stored = staging.insert(skip_conflicts=True)
    staging.drop()
    return stored


def register_agents(connection: Connection, agents: pl.DataFrame) -> int:
    """Adds the agents (columns id, name, status: String) that are not in agent_registry; returns how many.

    Raises LogFileError if PostgreSQL refuses an agent, for example because the table has further required columns.
    """
    if agents.is_empty():
        return 0
    with refusals_named("agent_registry"):
        return connection.execute(
            text("INSERT INTO agent_registry (id, name, status) VALUES (:id, :name, :status) ON CONFLICT DO NOTHING"),
            agents.select("id", "name", "status").sort("id").to_dicts(),
        ).rowcount


def load_log_files(
    connection: Connection,
    paths: Sequence[Path],
    *,
    time_zone: str,
    reading: Reading | None = None,
    register_unknown: bool = False,
    skip_existing: bool = False,
    on_bytes: Callable[[int], None] = lambda _: None,
) -> LoadedLogs:
    """Stores the logs of files of every format in the transaction of `connection`: all of them, or none.

    Checks every value and refuses logs that are stored already; `skip_existing` leaves them out instead if their values
    are the same. Refuses agents that are not in agent_registry; `register_unknown` registers them instead as active,
    with their id as name. `time_zone` is the zone of the result's days. Calls `on_bytes` with the number of bytes read
    since the last call. `reading` has the names of columns and the limits.

    Raises LogFileError, which names file, row, column and value of the first problems. The caller must then roll back.
    """
    reading = reading or Reading()
    problems = reading.problems
    files = [_open(path, reading) for path in paths]
    if len({path.resolve() for path in paths}) < len(paths):
        raise LogFileError("A file is named twice. Name each file once.")
    staging = LogStaging(connection)
    for file in files:
        file.prepare(on_bytes)
    for number, file in enumerate(files):
        for batch in file.batches(on_bytes):
            checked = check_batch(batch, file, staging.column_types)
            # After the first problem nothing will be stored. The rest is read to name the other problems.
            if not problems.total and checked.height:
                rows = f"{shown(file.path)}, {file.row_unit}s {checked['row'][0]} to {checked['row'][-1]}"
                staging.copy(checked.with_columns(file=pl.lit(number)), rows)
    problems.raise_any()
    staging.analyze()
    check_precision(connection, staging, files, problems)
    problems.raise_any()
    skipped = remove_known(connection, staging) if skip_existing else 0
    check_unknown(connection, staging, files, problems, known_removed=skip_existing)
    problems.raise_any()
    unknown = unregistered_agents(connection)
    if register_unknown:
        register_agents(
            connection, pl.DataFrame({"id": unknown, "name": unknown}).with_columns(status=pl.lit("active"))
        )
    else:
        refuse_unregistered(unknown)
    by_file, by_day = _counts(connection, time_zone)
    staging.insert()
    staging.drop()
    return LoadedLogs(
        logs_by_file={path: by_file[number] for number, path in enumerate(paths)},
        logs_by_day=dict(sorted(by_day.items())),
        registered_agents=unknown,
        skipped_logs=skipped,
    )


def _open(path: Path, reading: Reading) -> LogFile:
    endings = [ending for ending in _FORMATS if path.name.lower().endswith(ending)]
    if not endings and reading.traces is None:
        raise LogFileError(f"{shown(path)} has no ending of a known format. Known are {', '.join(_FORMATS)}.")
    try:
        # Opening a FIFO would wait for a writer, and a device may never end.
        if not (path.is_dir() or stat.S_ISREG(path.stat().st_mode)):
            raise LogFileError(f"{shown(path)} is not a regular file. Write what it yields into one, and load that.")
        path.open("rb").close()
    except OSError as error:
        raise LogFileError(f"{shown(path)} cannot be opened: {error.strerror}.") from error
    if reading.traces is not None:
        return otlp_file(path, reading, reading.traces)
    return _FORMATS[endings[0]](path, reading)


def _counts(connection: Connection, time_zone: str) -> tuple[Counter[int], Counter[date]]:
    # Python turns quarters of an hour into days, because the windows of days come from Python's time zones and the
    # server's may be of another version. Every zone's present offset is a multiple of a quarter of an hour.
    zone = ZoneInfo(time_zone)
    by_file: Counter[int] = Counter()
    by_day: Counter[date] = Counter()
    quarters = text("""
        SELECT file, floor(extract(epoch FROM "timestamp") / 900)::bigint, count(*) FROM log_staging GROUP BY 1, 2
    """)
    for file, quarter, logs in connection.execute(quarters):
        start = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(minutes=15 * quarter)
        by_file[file] += logs
        by_day[start.astimezone(zone).date()] += logs
    return by_file, by_day
