"""The names by which Dagster knows what is ours: the assets, the jobs, and the tags of our runs."""

import dagster as dg

METRICS_ASSET_KEY = dg.AssetKey("agent_performance_metrics")
RETENTION_ASSET_KEY = dg.AssetKey("data_retention")
DAILY_METRICS_JOB = "daily_metrics_job"
DAILY_CHECKS_JOB = "daily_checks_job"
DATA_RETENTION_JOB = "data_retention_job"

#: Set by whoever starts a run for a reason that Dagster's own tags do not tell.
REASON_TAG = "metrics_pipeline/reason"
#: The state of the day that a run was asked for because of (DayVerdict.fingerprint).
DAY_STATE_TAG = "metrics_pipeline/day_state"
#: Set on a run whose day was refused or contradicts its logs: the same state of the day would fail again.
FAILED_PERMANENTLY_TAG = "metrics_pipeline/failed_permanently"
#: The instant that a run of retention counts its days from, in ISO 8601, when that is not the start of the run.
SCHEDULED_AT_TAG = "metrics_pipeline/scheduled_at"
#: run id/host/process id/identity of the process that works on a run: a process id alone may be another's by now.
PROCESS_TAG = "metrics_pipeline/process"
