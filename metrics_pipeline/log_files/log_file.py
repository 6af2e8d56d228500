"""What all formats of log files have in common: batches of text with each row's place, and which columns may be."""

import zlib
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import ClassVar

import polars as pl
import pyarrow as pa

from metrics_pipeline.log_files.problems import Problems, quoted, shown
from metrics_pipeline.log_files.schema import LOG_SCHEMA, REQUIRED_COLUMNS

MIB = 2**20
BATCH_ROWS = 50_000
#: A batch of long rows ends early, and a row without an end is refused, so that neither fills the memory. Read as
#: Python's objects, a line of short JSON values takes fifty times its length.
BATCH_BYTES = 64 * MIB
LINE_BYTES = 16 * MIB


class LogFile(ABC):
    """One file of logs. What cannot be read goes to `problems`, with its place."""

    #: What the file's rows are counted in, from 1: the lines of a text file, or the rows of data.
    row_unit: ClassVar[str]

    def __init__(self, path: Path, problems: Problems) -> None:
        self.path = path
        self._problems = problems

    def batches(self, on_bytes: Callable[[int], None]) -> Iterator[pl.DataFrame]:
        """The file's rows, as frames of `row` (Int64, the row's place) and the columns of LOG_SCHEMA it has, as String.

        `on_bytes` hears how many more bytes of the file were read.
        """
        try:
            yield from self._batches(on_bytes)
        except (OSError, EOFError, zlib.error, pa.ArrowException, UnicodeDecodeError) as error:
            # UnicodeDecodeError: a damaged name of a column in Parquet.
            self._problems.add(shown(self.path), f"cannot be read: {error}")

    @abstractmethod
    def _batches(self, on_bytes: Callable[[int], None]) -> Iterator[pl.DataFrame]: ...

    def problem(self, row: int, reason: str, *, column: str | None = None, value: object = None) -> None:
        """Notes a problem of the file's row."""
        self._problems.add(f"{shown(self.path)}, {self.row_unit} {row}", reason, column=column, value=value)

    def has_usable_columns(self, names: Sequence[str]) -> bool:
        """Whether `names` holds every required column and no unknown or repeated one; if not, problems say which."""
        times = Counter(names)
        wrong = [
            *(f"has the unknown column {quoted(name)}" for name in times if name not in LOG_SCHEMA),
            *(f"has the column {quoted(name)} twice" for name in times if times[name] > 1),
            *(f"lacks the column {name!r}" for name in REQUIRED_COLUMNS if name not in times),
        ]
        for reason in wrong:
            self._problems.add(shown(self.path), f"{reason}; the columns of a log are {', '.join(LOG_SCHEMA)}")
        return not wrong

    def text_frame(self, rows: Sequence[int], columns: dict[str, Sequence[str | None]]) -> pl.DataFrame:
        """A batch without the rows whose text is no Unicode, which become problems.

        Readers decode with surrogateescape, so that a byte that is no UTF-8 is still known by its row and column.
        """
        unusable: set[int] = set()
        series = [pl.Series("row", rows, dtype=pl.Int64)]
        for name, values in columns.items():
            try:
                series.append(pl.Series(name, values, dtype=pl.String))
            except UnicodeEncodeError:
                bad = {row for row, value in zip(rows, values, strict=True) if value and not _is_unicode(value)}
                for row, value in zip(rows, values, strict=True):
                    if row in bad:
                        self.problem(row, "is no text in UTF-8", column=name, value=value)
                unusable |= bad
                usable = [None if row in bad else value for row, value in zip(rows, values, strict=True)]
                series.append(pl.Series(name, usable, dtype=pl.String))
        frame = pl.DataFrame(series)
        return frame.filter(~pl.col("row").is_in(list(unusable))) if unusable else frame


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
