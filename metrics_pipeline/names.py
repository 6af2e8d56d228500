"""Names that several rooms, other programs or stored rows rely on: tables, Dagster objects, tags, lock keys.

Strings and numbers only, so that every room can import it. A name that is stored or deployed must not change.
"""

# Our tables.
METRICS_TABLE = "agent_performance_metrics"
DIMENSIONS_TABLE = "agent_dimension_metrics"

# Tables of other systems.
LOGS_TABLE = "agent_execution_logs"
REGISTRY_TABLE = "agent_registry"
ALERTS_TABLE = "alert_history"

# Assets. The asset of a table has the table's name.
METRICS_ASSET = METRICS_TABLE
RETENTION_ASSET = "data_retention"
OVERVIEW_ASSET = "agent_overview"
API_ASSET = "metrics_api"
PAGE_ASSET = "metrics_page"

# Jobs, schedules and sensors.
DAILY_METRICS_JOB = "daily_metrics_job"
DAILY_CHECKS_JOB = "daily_checks_job"
DATA_RETENTION_JOB = "data_retention_job"
DAILY_METRICS_SCHEDULE = "daily_metrics_schedule"
DAILY_CHECKS_SCHEDULE = "daily_checks_schedule"
DATA_RETENTION_SCHEDULE = "data_retention_schedule"
LATE_LOGS_SENSOR = "late_logs_sensor"
NOTIFICATIONS_SENSOR = "notifications_sensor"
CHECKS_AFTER_FAILURE_SENSOR = "checks_after_failure_sensor"
CHECKS_AFTER_CANCELLATION_SENSOR = "checks_after_cancellation_sensor"

# The code location. Schedules and sensors keep their state under its name. The repository has the name that Dagster
# gives to the Definitions of a module.
LOCATION = "metrics_pipeline"
LOCATION_MODULE = "metrics_pipeline.definitions"
REPOSITORY = "__repository__"

# Tags that Dagster sets and reads.
PARTITION_TAG = "dagster/partition"
PARTITION_RANGE_START_TAG = "dagster/asset_partition_range_start"
PARTITION_RANGE_END_TAG = "dagster/asset_partition_range_end"
BACKFILL_TAG = "dagster/backfill"
WILL_RETRY_TAG = "dagster/will_retry"

#: The reason of a run, set by its starter if Dagster's own tags do not show it.
REASON_TAG = "reason"
#: A digest of the Idempotency-Key of the API's request that started a run or a backfill, and what it asked for. The
#: webserver tells no client of a hidden tag.
IDEMPOTENCY_KEY_TAG = "metrics_pipeline/idempotency_key"
IDEMPOTENT_REQUEST_TAG = "metrics_pipeline/idempotent_request"

# The UI shows no tag whose name begins with ".dagster/". Dagster's own names after it have no "metrics_".
#: The state of a day (DayVerdict.fingerprint) that a run was requested for. The day is appended to the name.
DAY_STATE_TAG = ".dagster/metrics_day_state."
#: Set to the run's own id on a run whose days were refused or contradict their logs: the same state would fail again.
FAILED_PERMANENTLY_TAG = ".dagster/metrics_failed_permanently"
#: The instant that a retention run counts its days from, in ISO 8601, if it is not the start of the run.
SCHEDULED_AT_TAG = ".dagster/metrics_scheduled_at"
#: run id/host/process id/identity of the process that works on a run: a process id alone may be reused.
PROCESS_TAG = ".dagster/metrics_process"

# Keys of PostgreSQL's advisory locks. Running processes of an older version use them too, so they must not change.
#: One process at a time creates or migrates tables.
TABLES_LOCK = int.from_bytes(b"metrics", "big")
#: One request at a time, among all processes of the API, looks for running runs and starts one.
API_RUNS_LOCK = int.from_bytes(b"api runs", "big")
#: One transaction at a time writes a day. The class of a lock with two keys; the second is the day's ordinal.
DAY_LOCK_CLASS = int.from_bytes(b"metr", "big")
#: One transaction at a time computes alerts. It takes this lock last, so that it cannot deadlock.
ALERTS_LOCK = int.from_bytes(b"alerts", "big")
