"""Dagster's runs and backfills, and the answers to those who start them."""

from datetime import date, datetime
from typing import Literal

from pydantic import BaseModel, Field


class Run(BaseModel):
    """A Dagster run of this code location."""

    run_id: str
    job: str = Field(examples=["daily_metrics_job"])
    status: str = Field(description="Dagster's status of the run.", examples=["success"])
    is_finished: bool
    start_date: date | None = Field(description="The first of its days.")
    end_date: date | None = Field(description="The last of its days.")
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    error: str | None = Field(description="Why it failed, and what to do about it.")
    ui_url: str = Field(description="The run in the Dagster UI.")


class Backfill(BaseModel):
    """A Dagster backfill over a range of days."""

    backfill_id: str
    status: str = Field(description="Dagster's status of the backfill.", examples=["completed_success"])
    is_finished: bool
    start_date: date | None
    end_date: date | None
    created_at: datetime
    ended_at: datetime | None
    run_ids: list[str] = Field(description="Its runs; each has its own status.")
    error: str | None
    ui_url: str


StartedStatus = Literal["started", "already_running", "not_visible_yet"]


class Started(BaseModel):
    """A run that was started, or one that is already under way for the same day."""

    status: StartedStatus = Field(
        description="not_visible_yet: the run has succeeded, but the API's database, a replica, does not show it yet."
    )
    run_id: str
    status_url: str = Field(description="Where to read its state.")
    ui_url: str = Field(description="The run in the Dagster UI.")


class Completed(BaseModel):
    """A run that has ended while the request waited."""

    status: Literal["completed"]
    agents_processed: int = Field(description="Agents with a row of that day.")
    run_id: str
    ui_url: str


class StartedBackfill(BaseModel):
    """A backfill that was started."""

    status: Literal["started"]
    backfill_id: str
    status_url: str
    ui_url: str
