"""Reading CSV, NDJSON, plain or gzipped, line by line. No value passes through a float, and each row has its line.

The readers of Polars, Arrow and DuckDB do not keep these promises: they lose the digits of JSON numbers or cannot name
the line of a row.
"""

import csv
import gzip
import json
import shlex
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from itertools import chain
from typing import Any

import polars as pl
import simplejson
from simplejson import RawJSON

from metrics_pipeline.log_files.log_file import BATCH_BYTES, BATCH_ROWS, MIB, ROW_BYTES, LogFile
from metrics_pipeline.log_files.problems import shown
from metrics_pipeline.log_files.schema import COLUMNS
from metrics_pipeline.metrics.upstream import Kind
from metrics_pipeline.metrics.wording import counted

#: The limit of a row that spans several lines.
_LINES_BYTES = 2 * ROW_BYTES


class TextFile(LogFile, ABC):
    """A file of lines. A row is known by its first line."""

    row_unit = "line"
    #: Columns of the name None are left out.
    _columns: Sequence[str | None]
    _bytes_read = 0
    _bytes_before_row = 0

    @abstractmethod
    def _rows(self, lines: Iterator[str]) -> Iterator[tuple[int, Sequence[str | None] | None]]:
        """The line and the values of `_columns` of each row, or None instead of the values if the row is left out."""

    def _batches(self, on_bytes: Callable[[int], None]) -> Iterator[pl.DataFrame]:
        numbers: list[int] = []
        rows: list[Sequence[str | None]] = []
        bytes_before_batch = 0
        for number, row in self._rows(self._lines(on_bytes)):
            self._bytes_before_row = self._bytes_read
            if row is not None:
                numbers.append(number)
                rows.append(row)
            if rows and (len(rows) >= BATCH_ROWS or self._bytes_read - bytes_before_batch >= BATCH_BYTES):
                yield self._frame(numbers, rows)
                numbers, rows, bytes_before_batch = [], [], self._bytes_read
        if rows:
            yield self._frame(numbers, rows)

    def _frame(self, numbers: list[int], rows: list[Sequence[str | None]]) -> pl.DataFrame:
        columns = zip(self._columns, zip(*rows, strict=True), strict=True)
        return self.text_frame(numbers, {name: values for name, values in columns if name is not None})

    def _lines(self, on_bytes: Callable[[int], None]) -> Iterator[str]:
        with ExitStack() as stack:
            raw = stack.enter_context(self.path.open("rb"))
            is_gzip = self.path.suffix.lower() == ".gz"
            lines = stack.enter_context(gzip.open(raw)) if is_gzip else raw
            reported = 0
            number = 0
            while line := lines.readline(ROW_BYTES):
                number += 1
                if len(line) == ROW_BYTES and not line.endswith(b"\n"):
                    self.problem(number, f"is longer than {ROW_BYTES // MIB} MiB")
                    return
                self.reading.count(1, len(line))
                self._bytes_read += len(line)
                if self._bytes_read - self._bytes_before_row > _LINES_BYTES:
                    self.problem(number, f"belongs to a row of more than {_LINES_BYTES // MIB} MiB")
                    return
                if (position := raw.tell()) - reported >= MIB:
                    on_bytes(position - reported)
                    reported = position
                # The first line may begin with a byte order mark.
                yield line.decode("utf-8-sig" if number == 1 else "utf-8", "surrogateescape")
            on_bytes(raw.tell() - reported)


class CsvFile(TextFile):
    """Values with a header and doubled quotes (RFC 4180). An empty field is NULL.

    The separator is a comma, a semicolon or a tab, whichever the header's line has most.
    """

    def _rows(self, lines: Iterator[str]) -> Iterator[tuple[int, Sequence[str | None] | None]]:
        # The default limit of 128 KiB is less than the metadata of a long conversation.
        csv.field_size_limit(ROW_BYTES)
        first = next(lines, None)
        if first is None:
            self.problem(1, "is missing: the file is empty, without a header")
            return
        reader = csv.reader(chain([first], lines), delimiter=max(",;\t", key=first.count), strict=True)
        try:
            header = next(reader)
            columns = self.log_columns(tuple(header))
            if columns is None:
                return
            self._columns = columns
            line = reader.line_num + 1
            for row in reader:
                if row and len(row) != len(header):
                    self.problem(
                        line, f"has {counted(len(row), 'field')}, but the header names {counted(len(header), 'column')}"
                    )
                yield line, [value or None for value in row] if len(row) == len(header) else None
                line = reader.line_num + 1
        except csv.Error as error:
            self.problem(reader.line_num, f"is not CSV: {error}")


class _RepeatingObject(dict[str, Any]):
    """A JSON object that names a key twice. The last value counts, as in PostgreSQL."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    return found if len(found) == len(pairs) else _RepeatingObject(pairs)


# RawJSON keeps a number's digits as they are written, and the encoder writes them unchanged.
_DECODER = json.JSONDecoder(parse_float=RawJSON, parse_constant=RawJSON, object_pairs_hook=_object)
#: For integers of more digits than Python converts (4,300). Using it for every line would double the decoder's time.
_DECODER_OF_LONG_INTEGERS = json.JSONDecoder(
    parse_int=RawJSON, parse_float=RawJSON, parse_constant=RawJSON, object_pairs_hook=_object
)
_ENCODER = simplejson.JSONEncoder(ensure_ascii=False, separators=(",", ":"))

#: What a JSON value may be beside null and a string. A string of a JSON column holds JSON text.
_JSON_TYPES: dict[Kind, tuple[type, ...]] = {
    Kind.ID: (int,),
    Kind.INSTANT: (int, RawJSON),
    Kind.INTEGER: (int, RawJSON),
    Kind.DECIMAL: (int, RawJSON),
    Kind.JSON: (dict, _RepeatingObject, list, bool, int, RawJSON),
}


class NdjsonFile(TextFile):
    """One JSON object per line (.ndjson, .jsonl). Blank lines are skipped, and a missing key is NULL."""

    _columns = tuple(COLUMNS)

    def _rows(self, lines: Iterator[str]) -> Iterator[tuple[int, Sequence[str | None] | None]]:
        for number, line in enumerate(lines, start=1):
            record = None
            if not line.isspace():
                try:
                    record = self._record(number, _decoded(line))
                except (ValueError, RecursionError) as error:
                    self.problem(number, f"is not JSON: {error}")
            yield number, None if record is None else self._texts(number, record)

    def _record(self, number: int, record: Any) -> dict[str | None, Any] | None:
        """The values of a JSON object by the log's columns, or None after adding a problem."""
        if type(record) is not dict:
            is_object = isinstance(record, _RepeatingObject)
            self.problem(number, "names a column twice" if is_object else "is JSON, but no object")
            return None
        columns = self.log_columns(tuple(record), f", {self.row_unit} {number}")
        return None if columns is None else dict(zip(columns, record.values(), strict=True))

    def _texts(self, number: int, record: dict[str | None, Any]) -> list[str | None] | None:
        texts: list[str | None] = []
        is_usable = True
        for name, kind in COLUMNS.items():
            value = text = record.get(name)
            if not (value is None or isinstance(value, str)):
                try:
                    text = _as_text(value)
                    reason = (
                        None
                        if type(value) in _JSON_TYPES.get(kind, ())
                        else "is of the wrong JSON type; write it as text"
                    )
                except RecursionError:
                    text, reason = None, "is nested too deeply"
                if reason is not None:
                    self.problem(number, reason, column=name, value=text)
                    is_usable = False
            texts.append(text)
        return texts if is_usable else None


class JsonFile(NdjsonFile):
    """An array of JSON objects (.json). It is decoded at once, so it has the limits of one row."""

    row_unit = "log"

    def _rows(self, lines: Iterator[str]) -> Iterator[tuple[int, Sequence[str | None] | None]]:
        problems = self.problems.total
        text = "".join(lines)
        if self.problems.total > problems or len(text) > ROW_BYTES:
            # jq before 1.7 reads numbers as binary floats, which changes integers above 2^53.
            command = f"jq -c '.[]' {shlex.quote(shown(self.path))} > logs.ndjson"
            self.problems.add(shown(self.path), f"is too long; write a log a line, with jq 1.7 or newer: {command}")
            return
        try:
            logs = _decoded(text)
        except (ValueError, RecursionError) as error:
            self.problems.add(shown(self.path), f"is not JSON: {error}; name a file that has a log a line .ndjson")
            return
        for number, log in enumerate(logs if isinstance(logs, list) else [logs], start=1):
            record = self._record(number, log)
            yield number, None if record is None else self._texts(number, record)


def _as_text(value: Any) -> str:
    # The encoder costs ten times as much as these two ways for numbers, which most rows have three of.
    if isinstance(value, RawJSON):
        return value.encoded_json
    return str(value) if type(value) is int else _ENCODER.encode(value)


def _decoded(line: str) -> Any:
    try:
        return _DECODER.decode(line)
    except ValueError:
        # A long integer, or a fault that the second decoder finds as well.
        return _DECODER_OF_LONG_INTEGERS.decode(line)
