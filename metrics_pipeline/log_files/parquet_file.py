"""Reading Parquet by row groups. Every column is cast to text by Arrow, so that one set of rules checks all formats."""

from collections.abc import Callable, Iterator, Sequence
from typing import cast

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import types

from metrics_pipeline.log_files.log_file import BATCH_BYTES, BATCH_ROWS, LINE_BYTES, MIB, LogFile
from metrics_pipeline.log_files.problems import shown


def _is_text(kind: pa.DataType) -> bool:
    if types.is_dictionary(kind):
        return _is_text(kind.value_type)
    checks = (types.is_string, types.is_large_string, types.is_string_view, types.is_null)
    return any(check(kind) for check in checks)


def _is_number(kind: pa.DataType) -> bool:
    return any(check(kind) for check in (types.is_integer, types.is_floating, types.is_decimal))


#: What a column may hold beside text. A whole float counts as an integer: pandas writes integers with gaps as floats.
#: A float cost is taken as the shortest decimal that denotes it, which is what its writer saw printed.
_ALSO_ACCEPTED: dict[str, Callable[[pa.DataType], bool]] = {
    "id": types.is_integer,
    "timestamp": types.is_timestamp,
    "latency_ms": _is_number,
    "token_count": _is_number,
    "cost_usd": _is_number,
}

_WHOLE_NUMBERS = ("latency_ms", "token_count")


class ParquetFile(LogFile):
    """Rows are counted from 1. A timestamp without a zone is UTC."""

    row_unit = "row"

    def _batches(self, on_bytes: Callable[[int], None]) -> Iterator[pl.DataFrame]:
        with pq.ParquetFile(self.path) as file:
            schema = file.schema_arrow
        if not (self.has_usable_columns(schema.names) and self._has_usable_types(schema)):
            return
        texts = [field.name for field in schema if _is_text(field.type) and not types.is_null(field.type)]
        # As dictionaries: a few kilobytes of file may repeat one long text for millions of rows.
        with pq.ParquetFile(self.path, read_dictionary=texts, page_checksum_verification=True) as file:
            bytes_per_row = self.path.stat().st_size / max(file.metadata.num_rows, 1)
            first = 1
            for batch in file.iter_batches(BATCH_ROWS):
                for start, end in self._pieces(batch, first):
                    piece = batch.slice(start, end - start)
                    rows = range(first + start, first + end)
                    yield self.text_frame(rows, {name: _texts(name, piece.column(name)) for name in piece.schema.names})
                on_bytes(int(bytes_per_row * batch.num_rows))
                first += batch.num_rows

    def _pieces(self, batch: pa.RecordBatch, first: int) -> Iterator[tuple[int, int]]:
        """The batch's rows, from 0, in pieces whose texts fit into memory; rows that do not become problems."""
        start = held = 0
        for row, size in enumerate(_row_bytes(batch)):
            if size > LINE_BYTES:
                self.problem(first + row, f"is longer than {LINE_BYTES // MIB} MiB")
            if start < row and (size > LINE_BYTES or held + size > BATCH_BYTES):
                yield start, row
                start, held = row, 0
            if size > LINE_BYTES:
                start = row + 1
            else:
                held += size
        if start < batch.num_rows:
            yield start, batch.num_rows

    def _has_usable_types(self, schema: pa.Schema) -> bool:
        wrong = [
            field
            for field in schema
            if not _is_text(field.type) and not _ALSO_ACCEPTED.get(field.name, types.is_null)(field.type)
        ]
        for field in wrong:
            self._problems.add(shown(self.path), f"has type {field.type}; write it as text", column=field.name)
        return not wrong


def _row_bytes(batch: pa.RecordBatch) -> Sequence[int]:
    """How many bytes the texts of each row have."""
    total = pa.repeat(pa.scalar(0, pa.int64()), batch.num_rows)
    for column in batch.columns:
        if types.is_dictionary(column.type) and _is_text(column.type):
            lengths = pc.binary_length(column.dictionary.cast(pa.large_string())).take(column.indices)
            total = pc.add(total, pc.fill_null(lengths, 0))
    return cast("list[int]", total.to_pylist())


def _texts(name: str, column: pa.Array) -> Sequence[str | None]:
    if name in _WHOLE_NUMBERS and types.is_floating(column.type):
        # The shortest decimal that denotes the narrow float 2147483520 is 2.1474835e9, which is another whole number.
        column = column.cast(pa.float64())
    if types.is_timestamp(column.type) and column.type.tz is not None:
        # The zone is only how to show the instant; the instants themselves are stored in UTC.
        column = column.cast(pa.timestamp(column.type.unit, "UTC"))
    binary = column.cast(pa.large_string()).cast(pa.large_binary())
    return [None if value is None else value.decode("utf-8", "surrogateescape") for value in binary.to_pylist()]
