"""Which days need a run, and why: the ledger's rows against the logs as they are now."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from enum import StrEnum

from metrics_pipeline.metrics.catalog import DEFINITION_VERSION
from metrics_pipeline.metrics.fingerprint import SourceFingerprint
from metrics_pipeline.metrics.verification import JudgedBy, Unreadable, Verification
from metrics_pipeline.metrics.windows import day_window
from metrics_pipeline.metrics.wording import counted

_MAX_NAMED_AGENTS = 3


class DayState(StrEnum):
    """The state of a day, under the name that commands, checks, API and gauges share."""

    AGGREGATED = "aggregated"
    NO_ACTIVITY = "no_activity"
    MISSING = "missing"
    DIRTY = "dirty"
    DAMAGED = "damaged"
    SHRUNK = "shrunk"
    UNREADABLE = "unreadable"
    SEALED = "sealed"
    EXPIRED = "expired"
    RUNNING = "running"
    OTHER_ZONE = "other_zone"

    @property
    def is_fault(self) -> bool:
        """Whether what is stored of the day is not what its logs say, or cannot be compared with them."""
        return self in _FAULTS

    @property
    def words(self) -> str:
        """The name in messages."""
        return self.value.replace("_", " ")


_FAULTS = (DayState.MISSING, DayState.DIRTY, DayState.DAMAGED, DayState.SHRUNK, DayState.UNREADABLE)

#: What each state means.
STATE_MEANINGS = {
    DayState.AGGREGATED: "its metrics equal its logs",
    DayState.NO_ACTIVITY: "its metrics equal its logs, and there is not one log",
    DayState.MISSING: "never aggregated",
    DayState.DIRTY: "its logs have changed since: a late one, a correction",
    DayState.DAMAGED: "its stored rows are not those that were published: deleted or altered by another program",
    DayState.SHRUNK: "logs or columns that are in its metrics are gone; only --accept-deleted-logs aggregates it again",
    DayState.UNREADABLE: "one of its logs cannot be read",
    DayState.SEALED: "its raw logs were pruned, its metrics are final",
    DayState.EXPIRED: "its metrics were older than the retention period and were deleted",
    DayState.RUNNING: "a run is about to write it",
    DayState.OTHER_ZONE: "stored as a day of another METRICS_TIME_ZONE",
}


@dataclass(frozen=True)
class LedgerRow:
    """A row of metric_day_ledger.

    rows_digest: the digest of the rows of metrics as they were published; None if they were stored before revision 0009
    of the tables, or by another program. dimensions: the definitions of the dimensions that the day is broken down by,
    as metrics.dimensions.definitions() gives them; None without any. breakdown_digest: as rows_digest, of the rows by
    value; None without dimensions, or if they were stored before revision 0013. unlogged: which OPTIONAL_COLUMNS its
    logs did not have. version: the row's xmin, which changes with every write, whatever the clocks say.
    """

    metric_date: date
    time_zone: str
    window_start: datetime
    window_end: datetime
    source_logs: int
    aggregated_logs: int
    skipped_logs: int
    agents: int
    source_fingerprint: SourceFingerprint
    definition_version: str
    snapshot_at: datetime
    aggregated_at: datetime
    run_id: str
    raw_pruned_at: datetime | None
    raw_pruned_logs: int | None
    metrics_expired_at: datetime | None
    rows_digest: str | None
    dimensions: str | None
    breakdown_digest: str | None
    unlogged: Sequence[str]
    version: str

    @property
    def is_sealed(self) -> bool:
        """Whether raw logs of the day were pruned."""
        return self.raw_pruned_at is not None


@dataclass(frozen=True)
class Closed:
    """Why a day must not be aggregated again: SEALED or OTHER_ZONE, and a sentence with what to do."""

    state: DayState
    reason: str


@dataclass(frozen=True)
class DayEvidence:
    """What is known of a day when it is judged.

    stored: its row in the ledger; None for a day that was never aggregated, or was cleared. verified: what the last
    reading of its logs found, compared with that row; None if they were not read since the row was written.
    damage: how the stored rows contradict the ledger. is_running: whether a run is about to write the day.
    """

    stored: LedgerRow | None
    verified: Verification | None
    damage: Sequence[str] = ()
    is_running: bool = False


@dataclass(frozen=True)
class DayVerdict:
    """A day's state, and why.

    needs_run: whether another aggregation mends the day without a decision of an operator.
    is_outdated: stored under an older definition of the metrics, or with a fingerprint that cannot be compared any
    more; such a day is aggregated again only on request.
    fingerprint: identifies this state of the day. It changes with the logs, and each time the day is stored.
    verified_at: when its logs were last read in full; confirmed_at, judged_by: when and by which evidence that was last
    known to be still true. All three are None for a day whose logs were not read since it was stored.
    logs: the fingerprint of its logs as they are now, the stored one if they equal it; None for a day without metrics
    that they can be compared with.
    """

    metric_date: date
    state: DayState
    reason: str
    needs_run: bool
    is_outdated: bool
    fingerprint: str
    verified_at: datetime | None = None
    confirmed_at: datetime | None = None
    judged_by: JudgedBy | None = None
    logs: SourceFingerprint | None = None


def why_closed(stored: LedgerRow, time_zone: str) -> Closed | None:
    """Why the day must not be aggregated again under METRICS_TIME_ZONE `time_zone`; None if it may."""
    day = stored.metric_date
    if stored.raw_pruned_at is not None:
        was = "was" if stored.raw_pruned_logs == 1 else "were"
        return Closed(
            DayState.SEALED,
            f"{day} is sealed: {stored.raw_pruned_logs} of its raw logs {was} pruned at "
            f"{stored.raw_pruned_at:%Y-%m-%d %H:%M}Z, so its metrics can no longer be computed. "
            "The stored metrics stay as they are.",
        )
    if not is_of_zone(stored, time_zone):
        return Closed(
            DayState.OTHER_ZONE,
            f"{day} is stored as a day of {stored.time_zone}, and METRICS_TIME_ZONE is now {time_zone}. Set "
            f"METRICS_TIME_ZONE back, or, to recompute the day as one of {time_zone}, clear it first: "
            f"metrics-pipeline clear --date {day}",
        )
    return None


def is_of_zone(stored: LedgerRow, time_zone: str) -> bool:
    """Whether the day was stored as one of `time_zone`. Two names of one zone give the same window."""
    window = day_window(stored.metric_date, time_zone)
    return (stored.window_start, stored.window_end) == (window.start, window.end)


def is_finished(stored: LedgerRow, present: SourceFingerprint | Unreadable) -> bool:
    """Whether the day is stored under the present definition and aggregating the present logs would change nothing."""
    if stored.definition_version != DEFINITION_VERSION:
        return False
    return stored.is_sealed or (not isinstance(present, Unreadable) and stored.source_fingerprint.equals(present))


def may_have_shrunk(stored: LedgerRow | None, present: SourceFingerprint | Unreadable) -> bool:
    """Whether logs of the day's metrics can be gone.

    If no total changed, logs were corrected or moved from one agent to another at most.
    """
    if isinstance(present, Unreadable):
        return False
    if stored is None:
        return True
    before, now = stored.source_fingerprint.numbers, present.numbers
    return any(before[name] != now[name] for name in ("logs", "latency_ms", "tokens", "cost_nano_usd"))


def what_is_gone(
    stored: LedgerRow | None,
    present: SourceFingerprint,
    unlogged: Collection[str],
    executions: Mapping[str, int],
    present_logs: Mapping[str, int],
) -> str | None:
    """Which columns of the stored metrics the logs no longer have, and which agents have fewer logs; None if neither.

    unlogged: which OPTIONAL_COLUMNS the present logs do not have.
    executions, present_logs: of each agent, total_executions of its stored row and the number of its present logs; both
    may be empty unless may_have_shrunk().
    """
    gone = [_columns_gone(stored, present, unlogged), _logs_gone(stored, present, executions, present_logs)]
    return "; ".join(filter(None, gone)) or None


def still_unlogged(stored: LedgerRow | None, present: SourceFingerprint, unlogged: Sequence[str]) -> Sequence[str]:
    """What the ledger notes as `unlogged`: not a column whose loss changed nothing, so that a stored 0 stays a 0."""
    if stored is None or not stored.source_fingerprint.equals(present):
        return unlogged
    return [column for column in unlogged if column in stored.unlogged]


def _columns_gone(stored: LedgerRow | None, present: SourceFingerprint, unlogged: Collection[str]) -> str | None:
    if stored is None or stored.source_logs == 0 or stored.source_fingerprint.equals(present):
        return None
    lost = ", ".join(column for column in unlogged if column not in stored.unlogged)
    return f"its logs no longer have {lost}" if lost else None


def _logs_gone(
    stored: LedgerRow | None,
    present: SourceFingerprint,
    executions: Mapping[str, int],
    present_logs: Mapping[str, int],
) -> str | None:
    fewer = {
        agent: (present_logs.get(agent, 0), logs)
        for agent, logs in sorted(executions.items())
        if present_logs.get(agent, 0) < logs
    }
    if not fewer or not may_have_shrunk(stored, present):
        return None
    gone = sum(logs - now for now, logs in fewer.values())
    named = [f"{agent!r} has {now:,} of {logs:,} left" for agent, (now, logs) in fewer.items()]
    more = len(named) - _MAX_NAMED_AGENTS
    return (
        f"{gone:,} of {sum(executions.values()):,} aggregated logs are gone: {', '.join(named[:_MAX_NAMED_AGENTS])}"
        f"{', and ' + counted(more, 'more agent') if more > 0 else ''}"
    )


def none_counted(logs: SourceFingerprint) -> str | None:
    """Says so if no log of the day is a success or a failure: its platform probably spells the statuses differently."""
    if logs.logs == 0 or logs.successful or logs.failed:
        return None
    return (
        f"none of its logs ({logs.logs:,}) has the status success or failed, so every success rate is 0 "
        "(metrics-pipeline db check names the statuses; let a view translate them)"
    )


def reconcile(days: Mapping[date, DayEvidence], time_zone: str) -> list[DayVerdict]:
    """One verdict per day, in the order of `days`."""
    verdicts = []
    for day, evidence in days.items():
        row, verified = evidence.stored, evidence.verified
        present = verified.present if verified is not None else None
        state, reason = _state(evidence, time_zone)
        is_outdated = row is not None and (
            row.definition_version != DEFINITION_VERSION
            or (isinstance(present, SourceFingerprint) and row.source_fingerprint.kind != present.kind)
        )
        needs_run = (
            state in (DayState.MISSING, DayState.DIRTY)
            or (state is DayState.DAMAGED and row is not None and not row.is_sealed)
            # The run that fails shows in Dagster why the day has no metrics.
            or (state is DayState.UNREADABLE and row is None)
        )
        context = (state.value, row.aggregated_at.isoformat() if row is not None else "never")
        logs = present if isinstance(present, SourceFingerprint) else SourceFingerprint.of_no_logs()
        compared = None
        if row is not None and state in (DayState.DIRTY, DayState.SHRUNK):
            compared = logs
        elif row is not None and state in (DayState.AGGREGATED, DayState.NO_ACTIVITY):
            compared = row.source_fingerprint
        verdicts.append(
            DayVerdict(
                day,
                state,
                reason,
                needs_run,
                is_outdated,
                logs.digest(*context),
                verified.verified_at if verified is not None else None,
                verified.confirmed_at if verified is not None else None,
                verified.judged_by if verified is not None else None,
                compared,
            )
        )
    return verdicts


def _state(evidence: DayEvidence, time_zone: str) -> tuple[DayState, str]:
    stored, verified = evidence.stored, evidence.verified
    present = verified.present if verified is not None else None
    # What adds up depends on the definition.
    is_current = stored is not None and stored.definition_version == DEFINITION_VERSION
    damage = "; ".join(evidence.damage) if is_current else ""
    if evidence.is_running:
        return DayState.RUNNING, "a run is writing it"
    if stored is not None and stored.metrics_expired_at is not None:
        return (
            DayState.EXPIRED,
            f"metrics of {counted(stored.agents, 'agent')} deleted {stored.metrics_expired_at:%Y-%m-%d}",
        )
    closed = why_closed(stored, time_zone) if stored is not None else None
    if closed is not None and stored is not None:
        if damage:
            return DayState.DAMAGED, damage
        if stored.raw_pruned_at is None:
            return closed.state, f"stored as a day of {stored.time_zone}"
        late = present.logs if isinstance(present, SourceFingerprint) else 0
        left = counted(late, "log has arrived since or was left", "logs have arrived since or were left")
        return closed.state, f"raw logs pruned {stored.raw_pruned_at:%Y-%m-%d}{f', {left}' if late else ''}"
    if isinstance(present, Unreadable):
        return DayState.UNREADABLE, present.reason
    if verified is not None and verified.gone:
        return DayState.SHRUNK, "; ".join(filter(None, [verified.gone, damage]))
    if stored is None:
        return (
            DayState.MISSING,
            "never aggregated" if present is None else f"never aggregated, {counted(present.logs, 'log')}",
        )
    if damage:
        return DayState.DAMAGED, damage
    if present is None:
        state = DayState.AGGREGATED if stored.source_logs else DayState.NO_ACTIVITY
        return state, "stored, and not compared with its logs yet"
    if stored.source_fingerprint.kind != present.kind:
        engine, version = stored.source_fingerprint.kind
        return DayState.AGGREGATED, f"not compared: its fingerprint is version {version} of {engine}"
    differences = stored.source_fingerprint.differences(present)
    if differences:
        return DayState.DIRTY, ", ".join(differences)
    warning = none_counted(present)
    reason = f"equal to its logs; {warning}" if warning else "equal to its logs"
    return (DayState.AGGREGATED if present.logs else DayState.NO_ACTIVITY), reason
