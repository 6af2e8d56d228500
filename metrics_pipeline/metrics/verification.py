"""What is known of a day's logs since they were last read in full, and by which evidence it is still true."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from enum import StrEnum
from typing import Any

from metrics_pipeline.metrics.fingerprint import SourceFingerprint
from metrics_pipeline.metrics.windows import DayWindow

#: What a source notes of a day before it reads it, as JSON: while its note stays the same, so do the day's logs.
Mark = Mapping[str, Any]


class JudgedBy(StrEnum):
    """The evidence that a day was last judged by, under the name that commands, checks and API share."""

    CONTENT = "content"
    COUNTERS = "counters"
    FEED = "feed"
    TABLES = "tables"
    INSERTS = "inserts"
    SNAPSHOT = "snapshot"
    COUNT = "count"


#: What each evidence says.
EVIDENCE_MEANINGS = {
    JudgedBy.CONTENT: "every log was read",
    JudgedBy.COUNTERS: "PostgreSQL has counted no write to its partitions since",
    JudgedBy.FEED: "the change feed has noted no change since",
    JudgedBy.TABLES: "PostgreSQL has counted no write to the table, or to any table behind the view, since",
    JudgedBy.INSERTS: "PostgreSQL has counted no update and no deletion since, and it has as many logs as then",
    JudgedBy.SNAPSHOT: "the files in the lake that may hold its logs are the same",
    JudgedBy.COUNT: "it has as many logs as then; a correction in place is found at night",
}


def tells_of_day(mark: Mark | None) -> bool:
    """Whether another note means that this day's logs changed: TABLES and INSERTS differ after a write for any day."""
    return mark is not None and not mark.keys() <= {JudgedBy.TABLES, JudgedBy.INSERTS}


def only_added(since: Mark | None, now: Mark | None) -> bool:
    """Whether logs were at most added between the two notes, so that a day with as many logs is unchanged."""
    noted = (since or {}).get(JudgedBy.INSERTS)
    return noted is not None and noted == (now or {}).get(JudgedBy.INSERTS)


@dataclass(frozen=True)
class Unreadable:
    """Why the logs of a day cannot be read, in place of their fingerprint."""

    reason: str


@dataclass(frozen=True)
class Verification:
    """A row of metric_day_verifications: what the last full reading of a day's logs found.

    ledger_version: LedgerRow.version of the row that the logs were compared with; None if there was none.
    gone: what_is_gone() at that time. mark: the source's note from before the reading; None if it takes none.
    confirmed_at, judged_by: when and by which evidence it was last known to be still true.
    """

    metric_date: date
    window_start: datetime
    window_end: datetime
    ledger_version: str | None
    present: SourceFingerprint | Unreadable
    gone: str | None
    verified_at: datetime
    mark: Mark | None
    confirmed_at: datetime
    judged_by: JudgedBy

    def is_about(self, window: DayWindow, ledger_version: str | None) -> bool:
        """Whether it compares the logs of this window with this version of the ledger's row."""
        return (self.window_start, self.window_end, self.ledger_version) == (window.start, window.end, ledger_version)
