"""The columns of a log file. Everything in this package that depends on a column derives from COLUMNS."""

from collections.abc import Mapping
from enum import Enum, auto

import polars as pl


class Kind(Enum):
    """What a column's values are: this decides how each file format may write them and which rule checks them."""

    ID = auto()  # text or an integer, whichever the table's column holds
    NAME = auto()  # text that is not blank
    TEXT = auto()  # any text
    INSTANT = auto()  # an ISO 8601 timestamp
    INTEGER = auto()  # a 32-bit integer
    DECIMAL = auto()  # a decimal number of any length, or NaN
    JSON = auto()  # any JSON value


COLUMNS: Mapping[str, Kind] = {
    "id": Kind.ID,
    "agent_id": Kind.NAME,
    "timestamp": Kind.INSTANT,
    "status": Kind.NAME,
    "latency_ms": Kind.INTEGER,
    "token_count": Kind.INTEGER,
    "cost_usd": Kind.DECIMAL,
    "error_type": Kind.TEXT,
    "metadata": Kind.JSON,
}

#: The columns that every log must fill.
REQUIRED_COLUMNS = ("agent_id", "timestamp", "status")

# Decimals are text, because a Polars Decimal holds at most 38 digits. JSON is its text.
_DTYPES = {Kind.INSTANT: pl.Datetime("us", "UTC"), Kind.INTEGER: pl.Int32()}

#: The frame of checked logs. Where 38 digits are enough, a frame may also hold cost_usd as a Decimal.
LOG_SCHEMA = pl.Schema({name: _DTYPES.get(kind, pl.String()) for name, kind in COLUMNS.items()})
