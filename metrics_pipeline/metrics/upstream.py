"""The columns of other systems' tables that we read, each declared once.

The contract check, the tables that we create where no other system does, the files that can be loaded, and the
documentation derive from these declarations.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum, auto

from metrics_pipeline.names import ALERTS_TABLE, LOGS_TABLE, REGISTRY_TABLE

_TEXT = ("text", "character varying")
_LABEL = (*_TEXT, "enum")
_AGENT = (*_TEXT, "uuid")
_INTEGERS = ("smallint", "integer", "bigint")
#: Types whose values are read in their shortest decimal text, which a cast would shorten.
FLOATS = ("double precision", "real")
#: Types of a latency that can hold fractions of a millisecond.
FRACTIONS = ("numeric", *FLOATS)
_INSTANT = ("timestamp with time zone", "timestamp without time zone")


@dataclass(frozen=True)
class UpstreamColumn:
    """A column of a table that another system owns.

    accepted: the PostgreSQL types that our SQL can read; `enum` means every enum type, and an empty tuple any type.
    created_as: the type in tables that we create.
    is_required: whether every row needs a value, including the rows of a log file.
    is_optional: whether the table may lack the column, which is then NULL in every row.
    """

    name: str
    accepted: tuple[str, ...]
    created_as: str
    meaning: str
    is_required: bool = False
    is_optional: bool = False


class Kind(Enum):
    """What a log column's values are: how each file format may write them, and which rule checks them."""

    ID = auto()  # text or an integer, whichever the table's column holds
    NAME = auto()  # text that is not blank
    TEXT = auto()  # any text
    INSTANT = auto()  # an ISO 8601 timestamp
    INTEGER = auto()  # a 32-bit integer
    DECIMAL = auto()  # a decimal number of any length, or NaN
    JSON = auto()  # any JSON value


@dataclass(frozen=True)
class LogColumn(UpstreamColumn):
    """A column of agent_execution_logs, which a file of logs has under the same name."""

    kind: Kind = Kind.TEXT


LOG_COLUMNS = (
    LogColumn("id", (), "uuid", "Identifies the log.", kind=Kind.ID),
    LogColumn(
        "agent_id", _AGENT, "text", "The agent, as agent_registry.id spells it.", is_required=True, kind=Kind.NAME
    ),
    LogColumn(
        "timestamp",
        _INSTANT,
        "timestamp with time zone",
        "When the execution was logged; decides its day. Without a time zone it means UTC.",
        is_required=True,
        kind=Kind.INSTANT,
    ),
    LogColumn(
        "status",
        _LABEL,
        "text",
        "'success', 'failed', or any other, which counts in the total only.",
        is_required=True,
        kind=Kind.NAME,
    ),
    LogColumn(
        "latency_ms",
        (*_INTEGERS, *FRACTIONS),
        "integer",
        "Latency in milliseconds, of 32 bits: one of 25 days or more makes its day unreadable. A fraction is rounded "
        "half away from zero. NULL, NaN and infinities are left out.",
        is_optional=True,
        kind=Kind.INTEGER,
    ),
    LogColumn(
        "token_count",
        _INTEGERS,
        "integer",
        "Tokens used, of 32 bits: 2³¹ or more make their day unreadable. NULL counts as 0.",
        is_optional=True,
        kind=Kind.INTEGER,
    ),
    LogColumn(
        "cost_usd",
        ("numeric", *FLOATS),
        "numeric",
        "Cost in USD; of a binary type, its shortest decimal text. NULL, NaN and infinities count as 0.",
        is_optional=True,
        kind=Kind.DECIMAL,
    ),
    LogColumn(
        "error_type",
        _LABEL,
        "text",
        "Why the execution failed; read only for status 'failed'. NULL counts under 'unknown'.",
        is_optional=True,
        kind=Kind.TEXT,
    ),
    LogColumn(
        "metadata",
        ("json", "jsonb"),
        "jsonb",
        "The keys human_intervention and user_id are read.",
        is_optional=True,
        kind=Kind.JSON,
    ),
)


@dataclass(frozen=True)
class MetadataColumn(UpstreamColumn):
    """A key of metadata, or, where the table does not have that column, a column. A lake may have it as one too.

    counted_as: the partial aggregate that counts the logs whose value is 'true'; empty if the value is not counted.
    """

    counted_as: str = ""


METADATA_COLUMNS = (
    MetadataColumn(
        "user_id",
        (*_AGENT, *_INTEGERS),
        "text",
        "Whom the agent worked for; read if there is no metadata.",
        is_optional=True,
    ),
    MetadataColumn(
        "human_intervention",
        ("boolean", *_TEXT),
        "boolean",
        "True if a person had to help; read if there is no metadata.",
        is_optional=True,
        counted_as="human_interventions",
    ),
)
#: The keys of metadata that are read.
METADATA_KEYS = tuple(column.name for column in METADATA_COLUMNS)
#: Those that are counted, with their partial aggregates.
FLAGS = {column.name: column.counted_as for column in METADATA_COLUMNS if column.counted_as}

#: The columns of a log that the table may lack. METADATA_COLUMNS are in metadata, if there is one.
OPTIONAL_COLUMNS = (
    *(column.name for column in LOG_COLUMNS if column.is_optional and column.name != "metadata"),
    *METADATA_KEYS,
)
#: What nothing is known of on a day whose logs did not have the column: a 0 would look like a measurement.
UNKNOWN_WITHOUT = {
    "latency_ms": ("avg_latency_ms", "p50_latency_ms", "p95_latency_ms", "p99_latency_ms"),
    "token_count": ("total_tokens",),
    "cost_usd": ("total_cost_usd", "avg_cost_per_execution", "cost_per_unassisted_success"),
    "user_id": ("unique_users",),
    "human_intervention": ("human_interventions", "human_intervention_rate", "cost_per_unassisted_success"),
}


def unknown_without(columns: Iterable[str]) -> list[str]:
    """The figures of UNKNOWN_WITHOUT that nothing is known of without these of OPTIONAL_COLUMNS."""
    return list(dict.fromkeys(figure for column in columns for figure in UNKNOWN_WITHOUT.get(column, ())))


#: All of them.
MAY_BE_UNKNOWN = frozenset(figure for figures in UNKNOWN_WITHOUT.values() for figure in figures)

REGISTRY_COLUMNS = (
    UpstreamColumn("id", _AGENT, "text", "Identifies the agent.", is_required=True),
    UpstreamColumn("name", _TEXT, "text", "What people call the agent.", is_required=True),
    UpstreamColumn(
        "status", _LABEL, "text", "'active', or any other, which means that the agent is not.", is_required=True
    ),
)

ALERT_COLUMNS = (
    UpstreamColumn("id", (), "bigint", "Identifies the alert."),
    UpstreamColumn("agent_id", _AGENT, "text", "The agent that the alert is about.", is_required=True),
    UpstreamColumn("alert_type", _LABEL, "text", "What kind of alert it is.", is_required=True),
    UpstreamColumn("severity", _LABEL, "text", "How bad it is.", is_required=True),
    UpstreamColumn("message", _TEXT, "text", "What the alert says.", is_required=True),
    UpstreamColumn("triggered_at", _INSTANT, "timestamp with time zone", "When it was raised.", is_required=True),
    UpstreamColumn("resolved_at", _INSTANT, "timestamp with time zone", "When it was resolved; NULL while it is open."),
)

#: The tables of other systems, in the order of the documentation.
UPSTREAM_TABLES: dict[str, tuple[UpstreamColumn, ...]] = {
    REGISTRY_TABLE: REGISTRY_COLUMNS,
    LOGS_TABLE: LOG_COLUMNS,
    ALERTS_TABLE: ALERT_COLUMNS,
}
