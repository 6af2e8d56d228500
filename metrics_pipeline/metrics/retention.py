"""What retention may delete: the cutoffs of a policy, and the verdict on each day whose raw logs are old enough."""

from dataclasses import dataclass, field, fields
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

from metrics_pipeline.errors import PermanentError
from metrics_pipeline.metrics.fingerprint import SourceFingerprint
from metrics_pipeline.metrics.reconciliation import LedgerRow

#: A hundred years. A much larger number leads to a date before the year 1, which Python cannot represent.
MAX_DAYS = 36_600


@dataclass(frozen=True)
class RetentionPolicy:
    """For how many days rows are kept. Raises PermanentError for a policy that could lose a number.

    The environment variables METRICS_RETENTION_*, the options of `metrics-pipeline retention` and the fields of the
    launchpad are made from these fields.
    """

    raw_log_days: int = field(default=30, metadata={"description": "Keep the raw logs of this many days before today."})
    metric_days: int = field(default=365, metadata={"description": "Keep the metrics of this many days before today."})
    alert_days: int = field(
        default=90, metadata={"description": "Keep alerts that were resolved within this many days before today."}
    )

    def __post_init__(self) -> None:
        for limit in fields(self):
            days = getattr(self, limit.name)
            if days < 1:
                raise PermanentError(f"{limit.name} is {days}. Keep rows for at least 1 day.")
            if days > MAX_DAYS:
                raise PermanentError(f"{limit.name} is {days}. Keep rows for at most {MAX_DAYS:,} days.")
        if self.raw_log_days > self.metric_days:
            raise PermanentError(
                f"raw_log_days is {self.raw_log_days}, more than metric_days, {self.metric_days}: metrics would go "
                "before the logs that they were made of. Raise metric_days or lower raw_log_days."
            )


@dataclass(frozen=True)
class Cutoffs:
    """The first day that is kept, per kind of row, counted back from `today`. Rows of earlier days may be deleted."""

    time_zone: str
    today: date
    raw_logs: date
    metrics: date
    alerts: date


def cutoffs(policy: RetentionPolicy, at: datetime, time_zone: str) -> Cutoffs:
    """The cutoffs of a run scheduled for the instant `at`: today in `time_zone`, minus the days of the policy."""
    today = at.astimezone(ZoneInfo(time_zone)).date()
    return Cutoffs(
        time_zone,
        today,
        raw_logs=today - timedelta(days=policy.raw_log_days),
        metrics=today - timedelta(days=policy.metric_days),
        alerts=today - timedelta(days=policy.alert_days),
    )


@dataclass(frozen=True)
class PruningProgress:
    """A sealed day that may still have verified logs.

    verified_before: a 64-bit transaction id, which never wraps; logs written by earlier transactions were verified.
    pruned: the fingerprint of the verified logs that are already deleted.
    """

    verified_before: int
    pruned: SourceFingerprint


@dataclass(frozen=True)
class StandingLogs:
    """The logs of a day that exist in the table.

    verifiable: those whose writers had all ended when the day was read or, for a sealed day, when it was sealed.
    later: those written since.
    """

    verifiable: SourceFingerprint
    later: SourceFingerprint

    @property
    def logs(self) -> int:
        """How many logs exist."""
        return self.verifiable.logs + self.later.logs


#: Why a day waits although its logs are those that were aggregated: some are too recent to tell from later ones.
UNSETTLED = "written since the oldest transaction that is still open: left for the next run"


def reason_to_hold_back(
    standing: StandingLogs,
    stored: LedgerRow | None,
    progress: PruningProgress | None,
    *,
    time_zone: str,
    overlapping: date | None,
) -> str | None:
    """Why no log of the day may be deleted; None if the verifiable ones may.

    stored: the day's ledger row. progress: that of a sealed day whose pruning is unfinished. overlapping: an unsealed
    day of another zone whose window overlaps this day's.
    """
    if stored is None:
        return "never aggregated: backfill the day"
    if stored.raw_pruned_at is not None:
        if progress is None:
            return f"arrived after the day was sealed on {stored.raw_pruned_at:%Y-%m-%d}: not in its metrics"
        if stored.time_zone != time_zone:
            return f"half pruned as a day of {stored.time_zone}, not of {time_zone}"
        verified = progress.pruned + standing.verifiable
        if stored.source_fingerprint.equals(verified):
            return None
        if stored.source_fingerprint.equals(verified + standing.later):
            return UNSETTLED
        return "the verified logs of this half-pruned day were changed or deleted by somebody else"
    if stored.time_zone != time_zone:
        return f"stored as a day of {stored.time_zone}, not of {time_zone}"
    if overlapping is not None:
        return f"shares hours with {overlapping}, which is stored under another time zone"
    engine, version = stored.source_fingerprint.kind
    if stored.source_fingerprint.kind != standing.verifiable.kind:
        return f"its fingerprint is version {version} of {engine}, which cannot be verified here: backfill the day"
    differences = stored.source_fingerprint.differences(standing.verifiable + standing.later)
    if differences:
        return f"differs from what was aggregated ({', '.join(differences)}): backfill the day"
    if standing.later.logs:
        return UNSETTLED
    return None
