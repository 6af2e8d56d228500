"""A row of the ledger, for tests that need no database."""

from datetime import UTC, date, datetime
from typing import Any

from metrics_pipeline.metrics.catalog import DEFINITION_VERSION
from metrics_pipeline.metrics.fingerprint import SourceFingerprint
from metrics_pipeline.metrics.reconciliation import LedgerRow

DAY = date(2025, 3, 4)
NIGHT = datetime(2025, 3, 5, 2, tzinfo=UTC)
PRUNED_AT = datetime(2025, 4, 5, 3, 30, tzinfo=UTC)


def ledger_row(logs: SourceFingerprint, **values: Any) -> LedgerRow:
    """A day of two agents that was aggregated from `logs` at NIGHT."""
    defaults = {
        "metric_date": DAY,
        "time_zone": "UTC",
        "window_start": datetime(2025, 3, 4, tzinfo=UTC),
        "window_end": datetime(2025, 3, 5, tzinfo=UTC),
        "source_logs": logs.logs,
        "aggregated_logs": logs.logs,
        "skipped_logs": 0,
        "agents": 2,
        "source_fingerprint": logs,
        "definition_version": DEFINITION_VERSION,
        "snapshot_at": NIGHT,
        "aggregated_at": NIGHT,
        "run_id": "a run",
        "raw_pruned_at": None,
        "raw_pruned_logs": None,
        "metrics_expired_at": None,
        "rows_digest": None,
        "breakdown_digest": None,
        "unlogged": [],
        "dimensions": None,
        "version": "7",
    }
    return LedgerRow(**defaults | values)
