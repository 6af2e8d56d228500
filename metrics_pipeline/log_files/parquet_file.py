"""Reading Parquet by row groups. Arrow casts every column to text, so that one set of rules checks all formats."""

from collections.abc import Callable, Iterator, Mapping

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import types

from metrics_pipeline.log_files.log_file import BATCH_BYTES, BATCH_ROWS, MIB, ROW_BYTES, LogFile
from metrics_pipeline.log_files.problems import shown
from metrics_pipeline.log_files.schema import COLUMNS
from metrics_pipeline.metrics.upstream import Kind


def _is_text(kind: pa.DataType) -> bool:
    if types.is_dictionary(kind):
        return _is_text(kind.value_type)
    checks = (types.is_string, types.is_large_string, types.is_string_view, types.is_null)
    return any(check(kind) for check in checks)


def _is_number(kind: pa.DataType) -> bool:
    return any(check(kind) for check in (types.is_integer, types.is_floating, types.is_decimal))


#: What a column may hold beside text. A float without a fraction counts as an integer: pandas writes integers with
#: gaps as floats. A float cost is read as the shortest decimal that denotes it, which is what its writer saw printed.
_ARROW_TYPES: dict[Kind, Callable[[pa.DataType], bool]] = {
    Kind.ID: types.is_integer,
    Kind.INSTANT: lambda kind: types.is_timestamp(kind) or types.is_integer(kind),
    Kind.INTEGER: _is_number,
    Kind.DECIMAL: _is_number,
}


class ParquetFile(LogFile):
    """Rows are counted from 1. A timestamp without a zone is UTC."""

    row_unit = "row"

    def _batches(self, on_bytes: Callable[[int], None]) -> Iterator[pl.DataFrame]:
        with pq.ParquetFile(self.path) as file:
            schema = file.schema_arrow
        columns = self.log_columns(tuple(schema.names))
        if columns is None:
            return
        read = {field.name: column for field, column in zip(schema, columns, strict=True) if column is not None}
        if not self._has_usable_types(schema, read):
            return
        texts = [name for name in read if _is_text(kind := schema.field(name).type) and not types.is_null(kind)]
        # As dictionaries: a file of a few kilobytes may repeat one long text in millions of rows.
        with pq.ParquetFile(self.path, read_dictionary=texts, page_checksum_verification=True) as file:
            bytes_per_row = self.path.stat().st_size / max(file.metadata.num_rows, 1)
            first = 1
            for batch in file.iter_batches(BATCH_ROWS, columns=list(read)):
                named = batch.rename_columns([read[name] for name in batch.schema.names])
                yield from self._frames(named, first)
                on_bytes(int(bytes_per_row * batch.num_rows))
                first += batch.num_rows

    def _has_usable_types(self, schema: pa.Schema, read: Mapping[str, str]) -> bool:
        wrong = [
            field
            for field in map(schema.field, read)
            if not _is_text(field.type) and not _ARROW_TYPES.get(COLUMNS[read[field.name]], types.is_null)(field.type)
        ]
        for field in wrong:
            self.problems.add(shown(self.path), f"has type {field.type}; write it as text", column=field.name)
        return not wrong

    def _frames(self, batch: pa.RecordBatch, first: int) -> Iterator[pl.DataFrame]:
        """The batch, which begins with row `first`, without rows that are too long, in frames of about BATCH_BYTES."""
        sizes = _row_bytes(batch)
        self.reading.count(batch.num_rows, int(sizes.sum()))
        fits = sizes <= ROW_BYTES
        for index in (~fits).arg_true():
            self.problem(first + index, f"is longer than {ROW_BYTES // MIB} MiB")
        rows = (pl.int_range(len(fits), eager=True) + first).filter(fits).to_list()
        batch = batch.filter(fits.to_arrow())
        start = 0
        for length in (sizes.filter(fits).cum_sum() // BATCH_BYTES).rle().struct.field("len"):
            piece = batch.slice(start, length)
            columns = {name: _texts(name, piece.column(name)) for name in piece.schema.names}
            yield self.text_frame(rows[start : start + length], columns)
            start += length


def _row_bytes(batch: pa.RecordBatch) -> pl.Series:
    """The size of each row's texts in bytes."""
    total = pa.repeat(pa.scalar(0, pa.int64()), batch.num_rows)
    for column in batch.columns:
        if types.is_dictionary(column.type) and _is_text(column.type):
            lengths = pc.binary_length(column.dictionary.cast(pa.large_string())).take(column.indices)
            total = pc.add(total, pc.fill_null(lengths, 0))
    return pl.Series(total.to_pylist(), dtype=pl.Int64)


def _texts(name: str, column: pa.Array) -> list[str | None]:
    if COLUMNS[name] is Kind.INTEGER and types.is_floating(column.type):
        # The shortest decimal that denotes the 32-bit float 2147483520 is 2.1474835e9, a different integer.
        column = column.cast(pa.float64())
    if types.is_timestamp(column.type) and column.type.tz is not None:
        # Parquet stores instants in UTC; the zone only says how to show them.
        column = column.cast(pa.timestamp(column.type.unit, "UTC"))
    binary = column.cast(pa.large_string()).cast(pa.large_binary())
    return [None if value is None else value.decode("utf-8", "surrogateescape") for value in binary.to_pylist()]
