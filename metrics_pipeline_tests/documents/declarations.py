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


def variables() -> Sequence[tuple[str, str, str, object]]:
    """Name, meaning, accepted values and default of each variable. The meaning tells what no default can."""
    kept = RetentionPolicy()
    days = "a whole number of days from 1 to 36,600"
    url = "a URL such as postgresql://user:password@host:5432/database?sslmode=require"
    return [
        ("METRICS_DATABASE_URL", "The PostgreSQL with the logs and the metrics. Unset: the embedded server.", url, ""),
        (
            "METRICS_PIPELINE_HOME",
            "The folder of the embedded server and of the Dagster instance. Unset: one in the user's data directory.",
            "the path of a folder of your own",
            "",
        ),
        (
            "METRICS_TIME_ZONE",
            "The time zone whose calendar days are aggregated.",
            "a name of the IANA database, such as Europe/Berlin",
            DEFAULT_TIME_ZONE,
        ),
        (
            "METRICS_START_DATE",
            "The first day that is aggregated.",
            "a date from 1900-01-01 to 9998-12-31",
            DEFAULT_START_DATE,
        ),
        (
            "METRICS_LOOKBACK_DAYS",
            "How many days back schedule, sensor and checks look for missing days and for late or corrected logs.",
            "a whole number of days from 1 to 366",
            DEFAULT_LOOKBACK_DAYS,
        ),
        ("METRICS_RETENTION_RAW_LOG_DAYS", "For how many days raw logs are kept.", days, kept.raw_log_days),
        (
            "METRICS_RETENTION_METRIC_DAYS",
            "For how many days metrics and restatements are kept.",
            days,
            kept.metric_days,
        ),
        ("METRICS_RETENTION_ALERT_DAYS", "For how many days resolved alerts are kept.", days, kept.alert_days),
        (
            "METRICS_OWNERS",
            "The owners that the Dagster UI shows. Unset: none.",
            "email addresses and team:NAME, separated by commas",
            "",
        ),
        (
            "METRICS_API_TOKENS",
            "Who may use the API. Unset: every user of this machine, and nobody else.",
            "name:role:token, separated by commas; role read or trigger, tokens of 32 characters or more",
            "",
        ),
        (
            "METRICS_API_DATABASE_URL",
            "The API's own login to the same database, for a role that can only read. Unset: METRICS_DATABASE_URL.",
            url,
            "",
        ),
        (
            "DAGSTER_HOME",
            "A Dagster instance of your own. Unset: one under METRICS_PIPELINE_HOME.",
            "the path of a folder with a dagster.yaml",
            "",
        ),
        (
            "DAGSTER_WEBSERVER_URL",
            "The Dagster UI, through which the API starts runs.",
            "the address that the UI has in a browser",
            DEFAULT_DAGSTER_WEBSERVER_URL,
        ),
    ]
