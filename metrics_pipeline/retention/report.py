"""What a run of retention did, or a dry run would do."""

from dataclasses import dataclass, field
from datetime import date

from metrics_pipeline.metrics.retention import Cutoffs


@dataclass(frozen=True)
class HeldBackDay:
    """A day older than the cutoff of which `logs` raw logs stay, and why."""

    metric_date: date
    logs: int
    reason: str


@dataclass
class RetentionReport:
    """Counts of rows and lists of days. A dry run counts what would go.

    alerts_held_back: why no alert was deleted, old ones or not; empty if there is no reason.
    is_out_of_time: the time budget ended the run before its work was done.
    logs_left: logs before the cutoff that exist after the run.
    """

    cutoffs: Cutoffs
    is_dry_run: bool
    pruned_logs: dict[date, int] = field(default_factory=dict)
    sealed_days: list[date] = field(default_factory=list)
    held_back: list[HeldBackDay] = field(default_factory=list)
    dropped_partitions: list[str] = field(default_factory=list)
    expired_metrics: dict[date, int] = field(default_factory=dict)
    expired_restatements: int = 0
    deleted_alerts: int = 0
    alerts_held_back: str = ""
    logs_left: int = 0
    is_out_of_time: bool = False
