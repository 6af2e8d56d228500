"""The interface between the pipeline and whatever holds the logs: what a source must deliver, and nothing else.

Retention is not part of it: only logs in PostgreSQL are pruned, by retention/.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Protocol

import polars as pl
from sqlalchemy import Connection

from metrics_pipeline.metrics.catalog import FAILED_STATUS, SUCCESS_STATUS
from metrics_pipeline.metrics.conservation import AgentLogs
from metrics_pipeline.metrics.dimensions import ExtractedValues
from metrics_pipeline.metrics.fingerprint import FingerprintKind, SourceFingerprint
from metrics_pipeline.metrics.verification import JudgedBy, Mark, Unreadable
from metrics_pipeline.metrics.windows import DayWindow
from metrics_pipeline.postgres.database import Database

#: Statuses that platforms are known to write. Any other may mean a success or a failure, but is not counted as one.
KNOWN_STATUSES = (SUCCESS_STATUS, FAILED_STATUS, "running", "pending", "queued", "cancelled", "canceled", "timeout")


@dataclass(frozen=True)
class ExtractedDay:
    """All logs of a day, from one state of the source.

    agents: the ids (String, distinct) of the registered agents in scope. partials: PARTIALS_SCHEMA, in any order.
    exact_costs: EXACT_COSTS_SCHEMA for agents_with_irregular_costs(partials), and for the logs without an agent.
    taken_at: when the state was read. kind: the kind of fingerprint to which the partials' content_hash belongs.
    values: the logs by the values of the source's dimensions; None without dimensions. is_merged: whether partials has
    one row for each agent, with sorted pairs and without bare values.
    """

    agents: pl.Series
    partials: pl.DataFrame
    exact_costs: pl.DataFrame
    taken_at: datetime
    kind: FingerprintKind
    values: ExtractedValues | None = None
    is_merged: bool = False

    @property
    def logs(self) -> int:
        """How many logs were read."""
        return int(self.partials["total_executions"].sum())


@dataclass(frozen=True)
class SuspiciousLog:
    """A log that holds a suspicious value, everything as text."""

    log_id: str
    agent_id: str | None
    timestamp: str
    value: str | None


@dataclass(frozen=True)
class Suspicion:
    """How many logs hold a kind of suspicious value, and the newest of them."""

    logs: int
    examples: Sequence[SuspiciousLog]


@dataclass(frozen=True)
class LogQuality:
    """How many logs were examined, the suspicious ones by kind, including kinds without any, and unreadable days."""

    logs: int
    suspicions: dict[str, Suspicion]
    unreadable: dict[date, Unreadable]


class LogSource(Protocol):
    """A source of the logs of days.

    Each method is given a snapshot: a transaction on the database that holds the metrics. A source whose logs are in
    that database reads through it, so that logs, ledger and metrics show one state. Another source ends it in read_day
    and fingerprints, because the server ends a session after half an hour in an idle transaction, and Spark took longer
    for 100 million logs. `windows` are sorted by day and may have gaps.

    Attributes:
        name: what holds the logs, for people; without secrets.
        warnings: what is allowed but slow or misleading, a sentence each.
        fingerprint_kinds: the kinds that `fingerprints` can compute, the present one first.
        unlogged: which OPTIONAL_COLUMNS the logs do not have.
    """

    name: str
    warnings: tuple[str, ...]
    fingerprint_kinds: tuple[FingerprintKind, ...]
    unlogged: Sequence[str]

    def read_day(self, snapshot: Connection, window: DayWindow, *, include_inactive_agents: bool) -> ExtractedDay:
        """The logs of the window as partial aggregates, and the agents in scope."""

    def fingerprints(
        self, snapshot: Connection, windows: Sequence[DayWindow], kind: FingerprintKind
    ) -> dict[date, SourceFingerprint | Unreadable]:
        """The fingerprint of each day, including days without logs. A day that cannot be read does not stop the others.

        For the same logs it equals the one that is computed from the result of read_day.
        """

    def watch(self, database: Database, until: datetime) -> None:
        """Has the source note changes of logs older than `until`, where it can; called before marks().

        Needs the privileges of the pipeline. Reads no logs.
        """

    def marks(self, connection: Connection, windows: Sequence[DayWindow]) -> Mapping[date, Mark]:
        """A note of each day's present state, of the days whose changes the source can tell from it.

        `connection` is not a snapshot: the notes are taken before the logs are read. Reads no logs.
        """

    def unchanged(
        self, connection: Connection, windows: Sequence[DayWindow], since: Mapping[date, Mark], now: Mapping[date, Mark]
    ) -> Mapping[date, JudgedBy]:
        """The days whose logs are certainly the same as when the notes `since` were taken, and what shows it.

        `now` are the present notes. Reads no logs.
        """

    def counts(self, snapshot: Connection, windows: Sequence[DayWindow]) -> Mapping[date, int]:
        """The number of logs of each day, including days without logs, as cheaply as the source can tell it."""

    def logs_by_agent(self, snapshot: Connection, windows: Sequence[DayWindow]) -> list[AgentLogs]:
        """What each agent logged on each day. Agents without logs on a day are left out, and so are unreadable days."""

    def quality(
        self, snapshot: Connection, windows: Sequence[DayWindow], *, future_from: datetime, examples: int
    ) -> LogQuality:
        """The suspicious values of the logs of consecutive days, and the logs after `future_from`.

        Of the days that can be read; the others are named.
        """

    def first_log_at(self, snapshot: Connection) -> datetime | None:
        """The instant of the oldest log; None without logs."""
