"""What retention may delete: the cutoffs of a policy, and the verdict on each day whose raw logs are old enough."""

from collections.abc import Collection
from dataclasses import dataclass, field, fields
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

from metrics_pipeline.errors import PermanentError
from metrics_pipeline.metrics.fingerprint import FingerprintKind, SourceFingerprint
from metrics_pipeline.metrics.reconciliation import LedgerRow, is_of_zone

#: A hundred years. A much larger number leads to a date before the year 1, which Python cannot represent.
MAX_DAYS = 36_600
#: What people write in place of a number of days for rows that are kept forever.
NEVER = "never"
#: The cutoff of rows that are kept forever: no row that retention may touch is older.
FIRST_DAY = date(1900, 1, 1)


@dataclass(frozen=True)
class RetentionPolicy:
    """For how many days rows are kept, None forever. Raises PermanentError for a policy that could lose a number.

    The environment variables METRICS_RETENTION_*, the options of `metrics-pipeline retention` and the fields of the
    launchpad are made from these fields.
    """

    raw_log_days: int | None = field(
        default=30, metadata={"description": "Keep the raw logs of this many days before today."}
    )
    metric_days: int | None = field(
        default=365, metadata={"description": "Keep the metrics of this many days before today."}
    )
    alert_days: int | None = field(
        default=90, metadata={"description": "Keep alerts that were resolved within this many days before today."}
    )

    def __post_init__(self) -> None:
        for limit in fields(self):
            days = getattr(self, limit.name)
            if days is None:
                continue
            if days < 1:
                raise PermanentError(f"{limit.name} is {days}. Keep rows for at least 1 day.")
            if days > MAX_DAYS:
                raise PermanentError(f"{limit.name} is {days}. Keep rows for at most {MAX_DAYS:,} days.")
        # Metrics of a day whose logs are there never go, so logs that are kept forever need no such limit.
        if self.raw_log_days is not None and self.metric_days is not None and self.raw_log_days > self.metric_days:
            raise PermanentError(
                f"raw_log_days is {self.raw_log_days}, more than metric_days, {self.metric_days}: metrics would go "
                "before the logs that they were made of. Raise metric_days or lower raw_log_days."
            )


@dataclass(frozen=True)
class Cutoffs:
    """The first day that is kept, per kind of row, counted back from `today`. Rows of earlier days may be deleted.

    FIRST_DAY where nothing is deleted.
    """

    time_zone: str
    today: date
    raw_logs: date
    metrics: date
    alerts: date


def cutoffs(policy: RetentionPolicy, at: datetime, time_zone: str) -> Cutoffs:
    """The cutoffs of a run scheduled for the instant `at`: today in `time_zone`, minus the days of the policy."""
    today = at.astimezone(ZoneInfo(time_zone)).date()

    def first_kept(days: int | None) -> date:
        return FIRST_DAY if days is None else today - timedelta(days=days)

    return Cutoffs(
        time_zone,
        today,
        raw_logs=first_kept(policy.raw_log_days),
        metrics=first_kept(policy.metric_days),
        alerts=first_kept(policy.alert_days),
    )


def reason_to_hold_back(
    stored: LedgerRow | None,
    pruned: SourceFingerprint | None,
    stored_totals: tuple[int, int],
    time_zone: str,
    overlapping: date | None,
    kinds: Collection[FingerprintKind],
) -> str | None:
    """Why no log of the day may be deleted, whatever the logs are; None if the logs decide.

    stored: the day's ledger row. pruned: of a sealed day that a version before 0003 of the tables pruned in part, the
    logs that are gone. stored_totals: the number of the day's stored metrics, and the sum of their executions.
    overlapping: a day of another zone, not sealed, whose window shares instants with this one's. kinds: the
    fingerprints that can be computed.
    """
    if stored is None:
        return "never aggregated: backfill the day"
    if stored.raw_pruned_at is not None and pruned is None:
        return f"arrived after the day was sealed on {stored.raw_pruned_at:%Y-%m-%d}: not in its metrics"
    if not is_of_zone(stored, time_zone):
        return f"stored as a day of {stored.time_zone}, not of {time_zone}"
    if overlapping is not None:
        return f"shares hours with {overlapping}, which is stored under another time zone"
    if stored_totals != (stored.agents, stored.aggregated_logs):
        return (
            f"the stored metrics of this day are damaged (rows {stored_totals[0]} of {stored.agents}, "
            f"executions {stored_totals[1]} of {stored.aggregated_logs}): backfill the day"
        )
    kind = stored.source_fingerprint.kind
    if kind not in kinds or (pruned is not None and pruned.kind != kind):
        return f"its fingerprint is version {kind[1]} of {kind[0]}, which cannot be verified here: backfill the day"
    return None


def reason_of_difference(stored: LedgerRow, present: SourceFingerprint) -> str | None:
    """Why logs that differ from the aggregated ones stay; None if they are the same.

    present: the logs that are there, with those that were pruned before, of the same kind as in the ledger.
    """
    differences = ", ".join(stored.source_fingerprint.differences(present))
    if differences and stored.is_sealed:
        return f"half pruned by an earlier version, and the rest differs from what was aggregated ({differences})"
    return f"differs from what was aggregated ({differences}): backfill the day" if differences else None
