"""What the readers of all file formats share: frames of text with each row's place, and the checks of a header."""

import re
import zlib
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import compress
from pathlib import Path
from typing import ClassVar

import polars as pl
import pyarrow as pa

from metrics_pipeline.log_files.problems import Problems, quoted, shown
from metrics_pipeline.log_files.schema import COLUMNS, REQUIRED_COLUMNS

MIB = 2**20
BATCH_ROWS = 50_000
#: Memory is bounded by ending a batch of long rows early and by refusing a longer row. The factor matters: a line of
#: short JSON values takes fifty times its length as Python objects.
BATCH_BYTES = 64 * MIB
ROW_BYTES = 16 * MIB

_SURROGATE = re.compile("[\ud800-\udfff]")


class LogFile(ABC):
    """One file of logs. Whatever cannot be read is added to `problems` with its place."""

    #: What the file's rows are counted in, from 1: lines of a text file, or rows of data.
    row_unit: ClassVar[str]

    def __init__(self, path: Path, problems: Problems) -> None:
        self.path = path
        self.problems = problems

    def batches(self, on_bytes: Callable[[int], None]) -> Iterator[pl.DataFrame]:
        """The file's rows in frames of `row` (Int64, the row's place) and the file's columns (String).

        Calls `on_bytes` with the number of bytes read since the last call.
        """
        try:
            yield from self._batches(on_bytes)
        except (OSError, EOFError, zlib.error, pa.ArrowException, UnicodeDecodeError) as error:
            # UnicodeDecodeError: the name of a Parquet column is damaged.
            self.problems.add(shown(self.path), f"cannot be read: {error}")

    @abstractmethod
    def _batches(self, on_bytes: Callable[[int], None]) -> Iterator[pl.DataFrame]: ...

    def problem(self, row: int, reason: str, *, column: str | None = None, value: object = None) -> None:
        """Adds a problem of one row of the file."""
        self.problems.add(f"{shown(self.path)}, {self.row_unit} {row}", reason, column=column, value=value)

    def has_usable_columns(self, names: Sequence[str]) -> bool:
        """Whether `names` holds every required column and no unknown or repeated one; adds a problem for each fault."""
        times = Counter(names)
        wrong = [
            *(f"has the unknown column {quoted(name)}" for name in times if name not in COLUMNS),
            *(f"has the column {quoted(name)} twice" for name in times if times[name] > 1),
            *(f"lacks the column {name!r}" for name in REQUIRED_COLUMNS if name not in times),
        ]
        for reason in wrong:
            self.problems.add(shown(self.path), f"{reason}; the columns of a log are {', '.join(COLUMNS)}")
        return not wrong

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
                        self.problem(rows[index], "is no text in UTF-8", column=name, value=value)
                        is_usable[index] = False
            usable = {name: list(compress(values, is_usable)) for name, values in columns.items()}
            return self.text_frame(list(compress(rows, is_usable)), usable)
