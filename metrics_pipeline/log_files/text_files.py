"""Reading CSV and NDJSON, plain or gzipped, by the line. No value passes through a float; each row knows its line."""

import csv
import gzip
import json
import re
import secrets
from abc import ABC
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import polars as pl

from metrics_pipeline.log_files.log_file import BATCH_BYTES, BATCH_ROWS, LINE_BYTES, MIB, LogFile
from metrics_pipeline.log_files.problems import quoted
from metrics_pipeline.log_files.schema import LOG_SCHEMA

#: What of a row may stand on several lines, together.
_ROW_BYTES = 2 * LINE_BYTES


class TextFile(LogFile, ABC):
    """A file of lines."""

    row_unit = "line"
    _bytes_read = 0
    _bytes_before_row = 0

    def _lines(self, on_bytes: Callable[[int], None]) -> Iterator[str]:
        with ExitStack() as stack:
            raw = stack.enter_context(self.path.open("rb"))
            is_gzip = self.path.suffix.lower() == ".gz"
            lines = stack.enter_context(gzip.open(raw)) if is_gzip else raw
            reported = 0
            number = 0
            while line := lines.readline(LINE_BYTES):
                number += 1
                if len(line) == LINE_BYTES and not line.endswith(b"\n"):
                    self.problem(number, f"is longer than {LINE_BYTES // MIB} MiB")
                    return
                self._bytes_read += len(line)
                if self._bytes_read - self._bytes_before_row > _ROW_BYTES:
                    self.problem(number, f"belongs to a row of more than {_ROW_BYTES // MIB} MiB")
                    return
                if raw.tell() - reported >= MIB:
                    on_bytes(raw.tell() - reported)
                    reported = raw.tell()
                # A byte order mark may lead the file.
                yield line.decode("utf-8-sig" if number == 1 else "utf-8", "surrogateescape")
            on_bytes(raw.tell() - reported)

    def _is_full(self, rows: Sequence[int], bytes_before: int) -> bool:
        return len(rows) >= BATCH_ROWS or self._bytes_read - bytes_before >= BATCH_BYTES


class CsvFile(TextFile):
    """Comma-separated values with a header, quoted by doubled quotes (RFC 4180). An empty field is NULL."""

    def _batches(self, on_bytes: Callable[[int], None]) -> Iterator[pl.DataFrame]:
        # The module's own limit of 128 KiB is less than the metadata of a long conversation.
        csv.field_size_limit(LINE_BYTES)
        reader = csv.reader(self._lines(on_bytes), strict=True)
        try:
            header = next(reader, None)
            if header is None:
                self.problem(1, "is missing: the file is empty, without a header")
            elif self.has_usable_columns(header):
                yield from self._rows(reader, header)
        except csv.Error as error:
            self.problem(reader.line_num, f"is no CSV: {error}")

    def _rows(self, reader: Any, header: list[str]) -> Iterator[pl.DataFrame]:
        lines: list[int] = []
        rows: list[list[str]] = []
        bytes_before = self._bytes_read
        line = reader.line_num + 1
        for row in reader:
            self._bytes_before_row = self._bytes_read
            if len(row) == len(header):
                lines.append(line)
                rows.append(row)
            elif row:
                self.problem(line, f"has {len(row)} fields, but the header names {len(header)} columns")
            line = reader.line_num + 1
            if self._is_full(lines, bytes_before):
                yield self._frame(lines, rows, header)
                lines, rows, bytes_before = [], [], self._bytes_read
        if rows:
            yield self._frame(lines, rows, header)

    def _frame(self, lines: list[int], rows: list[list[str]], header: list[str]) -> pl.DataFrame:
        frame = self.text_frame(lines, dict(zip(header, zip(*rows, strict=True), strict=True)))
        return frame.with_columns(pl.col(header).replace("", None))


@dataclass(frozen=True, slots=True)
class _Number:
    """A JSON number with a fraction or exponent, or NaN: its digits as they stand."""

    digits: str


class _Repeating(dict[str, Any]):
    """A JSON object that names a key twice: the last value counts, as in PostgreSQL."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    return found if len(found) == len(pairs) else _Repeating(pairs)


_DECODER = json.JSONDecoder(parse_float=_Number, parse_constant=_Number, object_pairs_hook=_object)
#: Slower, and for whole numbers of more digits than Python makes an int of.
_DECODER_OF_LONG_NUMBERS = json.JSONDecoder(
    parse_int=_Number, parse_float=_Number, parse_constant=_Number, object_pairs_hook=_object
)

#: What a JSON value may be, by column; null everywhere. Metadata may be any value: a string holds JSON text.
_ACCEPTED: dict[str, tuple[type, ...]] = {
    "id": (str, int),
    "agent_id": (str,),
    "timestamp": (str,),
    "status": (str,),
    "latency_ms": (str, int, _Number),
    "token_count": (str, int, _Number),
    "cost_usd": (str, int, _Number),
    "error_type": (str,),
    "metadata": (str, dict, _Repeating, list, bool, int, _Number),
}

# json.dumps writes a _Number as a string with a mark that no file can guess; mark and quotes are then taken away.
_MARK = secrets.token_hex(16)
_MARKED_NUMBER = re.compile(f'"{_MARK}([^"]*)"')


class NdjsonFile(TextFile):
    """One JSON object per line (.ndjson, .jsonl). Blank lines are skipped; a key that is missing is NULL."""

    def _batches(self, on_bytes: Callable[[int], None]) -> Iterator[pl.DataFrame]:
        lines: list[int] = []
        records: list[dict[str, Any]] = []
        bytes_before = self._bytes_read
        for number, line in enumerate(self._lines(on_bytes), start=1):
            self._bytes_before_row = self._bytes_read
            if not line.isspace() and (record := self._record(number, line)) is not None:
                lines.append(number)
                records.append(record)
            if self._is_full(lines, bytes_before):
                yield self._frame(lines, records)
                lines, records, bytes_before = [], [], self._bytes_read
        if records:
            yield self._frame(lines, records)

    def _record(self, number: int, line: str) -> dict[str, Any] | None:
        try:
            record = _decoded(line)
        except (ValueError, RecursionError) as error:
            self.problem(number, f"is no JSON: {error}")
            return None
        if not isinstance(record, dict):
            self.problem(number, "is JSON, but no object")
            return None
        if isinstance(record, _Repeating):
            self.problem(number, "names a column twice")
            return None
        if unknown := record.keys() - LOG_SCHEMA.keys():
            for name in sorted(unknown):
                self.problem(number, f"has the unknown column {quoted(name)}; the columns are {', '.join(LOG_SCHEMA)}")
            return None
        return record

    def _frame(self, lines: list[int], records: list[dict[str, Any]]) -> pl.DataFrame:
        refused: set[int] = set()
        columns: dict[str, Sequence[str | None]] = {}
        for name, accepted in _ACCEPTED.items():
            values = [record.get(name) for record in records]
            if set(map(type, values)) <= {str, type(None)}:
                columns[name] = values
                continue
            texts: list[str | None] = []
            for line, value in zip(lines, values, strict=True):
                try:
                    texts.append(_as_text(value))
                except RecursionError:
                    self.problem(line, "is nested too deeply", column=name)
                    refused.add(line)
                    texts.append(None)
                if value is not None and type(value) not in accepted:
                    self.problem(line, "is of the wrong JSON type", column=name, value=texts[-1])
                    refused.add(line)
            columns[name] = texts
        frame = self.text_frame(lines, columns)
        return frame.filter(~pl.col("row").is_in(list(refused))) if refused else frame


def _decoded(line: str) -> Any:
    try:
        return _DECODER.decode(line)
    except ValueError:
        # A number that is too long for _DECODER, or another fault, which then comes again.
        return _DECODER_OF_LONG_NUMBERS.decode(line)


def _as_text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, _Number):
        return value.digits
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=_marked)
    return _MARKED_NUMBER.sub(r"\1", text) if _MARK in text else text


def _marked(number: _Number) -> str:
    return _MARK + number.digits
