"""What operators and their tools ask: information, health and readiness."""

from datetime import date
from typing import Literal

from pydantic import BaseModel, Field


class Info(BaseModel):
    """What a client needs to know of this pipeline to ask for the right days."""

    version: str
    definition_version: str = Field(description="The version of the metrics' definitions.")
    time_zone: str = Field(description="The zone of every day: METRICS_TIME_ZONE.", examples=["UTC"])
    start_date: date = Field(description="The first day that is aggregated.")
    newest_whole_day: date = Field(description="Yesterday in that zone.")
    newest_stored_day: date | None = Field(description="The newest aggregated day.")
    stored_version: str = Field(
        description="Changes whenever a day is stored, sealed, cleared or expired. While it is the same, so are the "
        "answers of activity, metrics, latencies and restatements."
    )
    dimensions: list[str] = Field(description="By what stored days are broken down.", examples=[["model", "version"]])
    lookback_days: int = Field(description="For how many days late logs are looked for.")
    dagster_url: str = Field(
        description="The Dagster UI; it shows a run at /runs/ and its id.", examples=["http://127.0.0.1:3000"]
    )
    raw_log_days: int | None = Field(description="For how many days raw logs are kept; null: forever.")
    metric_days: int | None = Field(description="For how many days metrics are kept; null: forever.")
    alert_days: int | None = Field(description="For how many days resolved alerts are kept; null: forever.")


class Health(BaseModel):
    """The process answers."""

    status: Literal["ok"]


class Readiness(BaseModel):
    """Whether this server can answer questions, and how old its answers are."""

    status: Literal["ready", "not ready"]
    database: Literal["ok", "busy", "unavailable"]
    schema_revision: Literal["current", "not current", "unknown"]
    daemon: Literal["ok", "silent", "unknown"] = Field(
        description="Dagster's daemon, looked at every minute: silent if it gave no sign for ten minutes; unknown for "
        "a minute after the start, and while the Dagster UI does not answer. A silent daemon makes no server unready."
    )
    newest_day: date | None = Field(description="The newest aggregated day.")
    coverage_age_days: int | None = Field(description="How many whole days have ended since; 0 is up to date.")
