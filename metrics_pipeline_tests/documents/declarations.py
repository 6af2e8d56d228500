"""Where the documents find what the code declares: the one module to change when a declaration moves."""

from collections.abc import Sequence

from metrics_pipeline.metrics.schema import KEY_COLUMNS, METRIC_COLUMNS

from metrics_pipeline.metrics.retention import RetentionPolicy
from metrics_pipeline.settings import (
    DEFAULT_DAGSTER_WEBSERVER_URL,
    DEFAULT_LOOKBACK_DAYS,
    DEFAULT_START_DATE,
    DEFAULT_TIME_ZONE,
)


def metric_columns() -> Sequence[tuple[str, str, str]]:
    """Name, SQL type and meaning of each column of agent_performance_metrics."""
    return [(column.name, column.sql_type, column.description) for column in KEY_COLUMNS + METRIC_COLUMNS]


def variables() -> Sequence[tuple[str, str, object]]:
    """Name, meaning and default of each environment variable. An empty default is told by the meaning."""
    kept = RetentionPolicy()
    return [
        (
            "METRICS_DATABASE_URL",
            "The PostgreSQL that holds the logs and the metrics. Unset: the embedded server.",
            "",
        ),
        (
            "METRICS_PIPELINE_HOME",
            "The folder of the embedded server and of the Dagster instance. Unset: one in the user's data directory.",
            "",
        ),
        ("METRICS_TIME_ZONE", "The IANA time zone whose calendar days are aggregated.", DEFAULT_TIME_ZONE),
        ("METRICS_START_DATE", "The first day that is aggregated.", DEFAULT_START_DATE),
        (
            "METRICS_LOOKBACK_DAYS",
            "How many days back schedule, sensor and checks look for missing days and for late or corrected logs.",
            DEFAULT_LOOKBACK_DAYS,
        ),
        ("METRICS_RETENTION_RAW_LOG_DAYS", "For how many days raw logs are kept.", kept.raw_log_days),
        ("METRICS_RETENTION_METRIC_DAYS", "For how many days metrics and restatements are kept.", kept.metric_days),
        ("METRICS_RETENTION_ALERT_DAYS", "For how many days resolved alerts are kept.", kept.alert_days),
        ("METRICS_OWNERS", "The owners that the Dagster UI shows: email addresses and team:NAME, with commas.", ""),
        (
            "METRICS_API_TOKENS",
            "Who may use the API: name:role:token, with commas. Unset: every user of this machine, and nobody else.",
            "",
        ),
        (
            "METRICS_API_DATABASE_URL",
            "The API's own login to the same database, for a role that can only read. Unset: METRICS_DATABASE_URL.",
            "",
        ),
        ("DAGSTER_HOME", "A Dagster instance of your own. Unset: one under METRICS_PIPELINE_HOME.", ""),
        (
            "DAGSTER_WEBSERVER_URL",
            "The Dagster UI, through which the API starts runs.",
            DEFAULT_DAGSTER_WEBSERVER_URL,
        ),
    ]
