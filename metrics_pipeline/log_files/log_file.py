"""What the readers of all file formats share: options and limits, frames of text with each row's place, the columns."""

import re
import shlex
import zlib
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import compress
from pathlib import Path

import polars as pl
import pyarrow as pa

from metrics_pipeline.errors import LogFileError
from metrics_pipeline.log_files.problems import Problems, quoted, shown
from metrics_pipeline.log_files.schema import COLUMNS, REQUIRED_COLUMNS
from metrics_pipeline.log_files.spans import Traces

MIB = 2**20
BATCH_ROWS = 50_000
#: Memory is bounded by ending a batch of long rows early and by refusing a longer row. The factor matters: a line of
#: short JSON values takes fifty times its length as Python objects.
BATCH_BYTES = 64 * MIB
ROW_BYTES = 16 * MIB
#: A Parquet file of 633 kB filled 922 MB of the server's disk, and 1.5 MB of gzip held 1.5 billion blank lines.
MAX_ROWS = 10_000_000
MAX_MIB = 2048

#: A hostile file of JSON has other keys in each line.
_REMEMBERED = 1000
_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass
class Reading:
    """What the files of one command share: how they are read, the problems found, and how much was read.

    columns: the log's column that the files' column holds, where the two names differ; None leaves the column out.
    max_rows, max_mib: how many lines, spans or rows of Parquet, and how many MiB after decompression, may be read.
    traces: if given, the files hold OpenTelemetry traces, whatever their names end in.
    """

    columns: Mapping[str, str | None] = field(default_factory=dict)
    max_rows: int = MAX_ROWS
    max_mib: int = MAX_MIB
    traces: Traces | None = None
    problems: Problems = field(default_factory=Problems)
    _rows: int = 0
    _bytes: int = 0

    def count(self, rows: int, size: int) -> None:
        """Counts what was read, in bytes after decompression. Raises LogFileError if it is more than allowed."""
        self._rows += rows
        self._bytes += size
        if self._rows > self.max_rows or self._bytes > self.max_mib * MIB:
            raise LogFileError(
                f"Nothing was loaded: the files have more than {self.max_rows:,} lines or rows, or more than "
                f"{self.max_mib:,} MiB when decompressed. Load fewer at once, or raise --max-rows or --max-mib."
            )


class LogFile(ABC):
    """One file of logs. Whatever cannot be read is added to the problems with its place."""

    #: What the file's rows are counted in, from 1: lines of a text file, or rows of data.
    row_unit: str

    def __init__(self, path: Path, reading: Reading) -> None:
        self.path = path
        self.reading = reading
        self.problems = reading.problems
        self._faults: set[str] = set()
        self._known: dict[tuple[str, ...], list[str | None]] = {}

    def prepare(self, on_bytes: Callable[[int], None]) -> None:
        """Reads what the batches of all files depend on. Called for each file before the batches of the first.

        Calls `on_bytes` with the number of bytes read since the last call, as `batches` does.
        """
        with self._faults_named():
            self._prepare(on_bytes)

    def batches(self, on_bytes: Callable[[int], None]) -> Iterator[pl.DataFrame]:
        """The file's rows in frames of `row` (Int64, the row's place) and the file's columns (String)."""
        with self._faults_named():
            yield from self._batches(on_bytes)

    @contextmanager
    def _faults_named(self) -> Iterator[None]:
        try:
            yield
        except (OSError, EOFError, zlib.error, pa.ArrowException, UnicodeDecodeError) as error:
            # UnicodeDecodeError: the name of a Parquet column is damaged.
            self.problems.add(shown(self.path), f"cannot be read: {error}")

    def _prepare(self, on_bytes: Callable[[int], None]) -> None:  # noqa: B027 - only spans depend on each other
        pass

    @abstractmethod
    def _batches(self, on_bytes: Callable[[int], None]) -> Iterator[pl.DataFrame]: ...

    def problem(self, row: int, reason: str, *, column: str | None = None, value: object = None) -> None:
        """Adds a problem of one row of the file."""
        self.problems.add(f"{shown(self.path)}, {self.row_unit} {row}", reason, column=column, value=value)

    def log_columns(self, names: tuple[str, ...], place: str = "") -> list[str | None] | None:
        """The log's column that each column of the file holds; None for a column that is left out.

        Case, spaces and hyphens of a name do not matter. Returns None if a required column is missing, or if one is
        unknown or repeated, and adds a problem for each such column, once per file.
        """
        if names in self._known:
            return self._known[names]
        columns = [self._log_column(name) for name in names]
        times = Counter(name for name in columns if name is not None)
        faults = [
            *(
                (f"lacks the column {name!r}", f"--column {name}=NAME")
                for name in REQUIRED_COLUMNS
                if name not in times
            ),
            *((f"has the column {quoted(name)} twice", None) for name in times if times[name] > 1),
            *(
                (f"has the unknown column {quoted(name)}", f"--skip-column {shlex.quote(name)}")
                for name in times
                if name not in COLUMNS
            ),
        ]
        for reason, remedy in faults:
            if reason not in self._faults:
                self.problems.add(f"{shown(self.path)}{place}", reason, remedy=remedy)
                if len(self._faults) < _REMEMBERED:
                    self._faults.add(reason)
        if faults:
            return None
        if len(self._known) < _REMEMBERED:
            self._known[names] = columns
        return columns

    def _log_column(self, name: str) -> str | None:
        if name in self.reading.columns:
            return self.reading.columns[name]
        usual = name.strip(" ").lower().replace(" ", "_").replace("-", "_")
        return usual if usual in COLUMNS else name

    def text_frame(self, rows: Sequence[int], columns: Mapping[str, Sequence[str | None]]) -> pl.DataFrame:
        """A batch of the rows whose values are all valid Unicode; adds a problem for each value that is not.

        The readers decode with surrogateescape: an invalid byte becomes a surrogate in its own row and column.
        """
        try:
            texts = [pl.Series(name, values, dtype=pl.String) for name, values in columns.items()]
            return pl.DataFrame([pl.Series("row", rows, dtype=pl.Int64), *texts])
        except UnicodeEncodeError:
            is_usable = [True] * len(rows)
            for name, values in columns.items():
                for index, value in enumerate(values):
                    if value is not None and _SURROGATE.search(value):
                        self.problem(rows[index], "is not text in UTF-8", column=name, value=value)
                        is_usable[index] = False
            usable = {name: list(compress(values, is_usable)) for name, values in columns.items()}
            return self.text_frame(list(compress(rows, is_usable)), usable)
