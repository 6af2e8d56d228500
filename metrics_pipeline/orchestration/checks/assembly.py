"""All checks, with their names and their assets."""

from datetime import UTC, datetime

import dagster as dg

from metrics_pipeline.orchestration.asset_keys import METRICS_ASSET_KEY
from metrics_pipeline.orchestration.checks.breakdowns import BREAKDOWNS_ADD_UP, breakdowns_add_up
from metrics_pipeline.orchestration.checks.changes import NO_UNUSUAL_CHANGES, no_unusual_changes
from metrics_pipeline.orchestration.checks.completeness import (
    FRESHNESS,
    NO_MISSING_OR_DIRTY_DAYS,
    freshness,
    no_missing_or_dirty_days,
)
from metrics_pipeline.orchestration.checks.conservation import STORED_ROWS_EQUAL_LEDGER, stored_rows_equal_ledger
from metrics_pipeline.orchestration.checks.coverage import (
    ACTIVE_AGENTS_HAVE_ROWS,
    NO_SKIPPED_LOGS,
    active_agents_have_rows,
    no_skipped_logs,
)
from metrics_pipeline.orchestration.checks.distributions import (
    DISTRIBUTIONS_EQUAL_METRICS,
    distributions_equal_metrics,
)
from metrics_pipeline.orchestration.checks.evaluation import Clock, build_check
from metrics_pipeline.orchestration.checks.source_values import NO_SUSPICIOUS_VALUES, no_suspicious_values
from metrics_pipeline.orchestration.upstream import agent_execution_logs
from metrics_pipeline.settings import Settings

#: Evaluated with every materialisation, because the UI ignores a verdict older than the last one. The names are public:
#: the UI keeps the history of a check under its name, and alerts refer to it.
_OF_METRICS = (
    ("stored_rows_equal_ledger", stored_rows_equal_ledger, STORED_ROWS_EQUAL_LEDGER),
    ("distributions_equal_metrics", distributions_equal_metrics, DISTRIBUTIONS_EQUAL_METRICS),
    ("breakdowns_add_up", breakdowns_add_up, BREAKDOWNS_ADD_UP),
    ("freshness", freshness, FRESHNESS),
    ("no_missing_or_dirty_days", no_missing_or_dirty_days, NO_MISSING_OR_DIRTY_DAYS),
    ("active_agents_have_rows", active_agents_have_rows, ACTIVE_AGENTS_HAVE_ROWS),
    ("no_unusual_changes", no_unusual_changes, NO_UNUSUAL_CHANGES),
)
#: Evaluated at night only: they read all logs of the look-back window.
_OF_LOGS = (
    ("no_skipped_logs", no_skipped_logs, NO_SKIPPED_LOGS),
    ("no_suspicious_values", no_suspicious_values, NO_SUSPICIOUS_VALUES),
)


def build_checks(settings: Settings, now: Clock = lambda: datetime.now(UTC)) -> list[dg.AssetChecksDefinition]:
    """All checks. A check's run carries no time, hence `now`."""
    return [
        build_check(name, asset, description, evaluate, settings, now)
        for asset, checks in ((METRICS_ASSET_KEY, _OF_METRICS), (agent_execution_logs.key, _OF_LOGS))
        for name, evaluate, description in checks
    ]
