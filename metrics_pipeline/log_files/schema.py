"""The columns of a log file. Everything in this package that depends on a column derives from COLUMNS."""

from collections.abc import Mapping

import polars as pl

from metrics_pipeline.metrics.upstream import LOG_COLUMNS, Kind

COLUMNS: Mapping[str, Kind] = {column.name: column.kind for column in LOG_COLUMNS}

#: The columns that every log must fill.
REQUIRED_COLUMNS = tuple(column.name for column in LOG_COLUMNS if column.is_required)

# Decimals are text, because a Polars Decimal holds at most 38 digits. JSON is its text.
_DTYPES = {Kind.INSTANT: pl.Datetime("us", "UTC"), Kind.INTEGER: pl.Int32()}

#: The frame of checked logs. Where 38 digits are enough, a frame may also hold cost_usd as a Decimal.
LOG_SCHEMA = pl.Schema({name: _DTYPES.get(kind, pl.String()) for name, kind in COLUMNS.items()})
