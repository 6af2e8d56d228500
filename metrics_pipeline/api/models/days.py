"""The state of days, and the logs that are in no metric."""

from datetime import date, datetime
from typing import Literal

from pydantic import BaseModel, Field

from metrics_pipeline.metrics.reconciliation import STATE_MEANINGS, DayState
from metrics_pipeline.metrics.verification import EVIDENCE_MEANINGS, JudgedBy

#: The states that the database can tell. Only Dagster knows whether a run is about to write a day.
COVERAGE_STATES = tuple(state for state in DayState if state is not DayState.RUNNING)


class DayCoverage(BaseModel):
    """A day's state, and the logs in its metrics; the counts are null for a day that was never aggregated."""

    metric_date: date
    state: DayState = Field(
        description=" ".join(f"{state}: {STATE_MEANINGS[state]}." for state in COVERAGE_STATES),
        json_schema_extra={"enum": [*COVERAGE_STATES]},
    )
    reason: str = Field(description="The state in words.", examples=["equal to its logs"])
    is_outdated: bool = Field(description="Whether it was stored under an older definition of the metrics.")
    source_logs: int | None = Field(description="Logs read.")
    aggregated_logs: int | None = Field(description="Logs that are in the metrics.")
    skipped_logs: int | None = Field(description="Logs of inactive or unregistered agents.")
    agents: int | None = Field(description="Agents with a row.")
    aggregated_at: datetime | None
    run_id: str | None = Field(description="The run that stored the day.")
    definition_version: str | None = Field(examples=["1"])
    verified_at: datetime | None = Field(
        description="When all its logs were last read; null for a day whose logs were not read since it was stored."
    )
    confirmed_at: datetime | None = Field(description="When that was last known to be still true.")
    judged_by: JudgedBy | None = Field(
        description=" ".join(f"{evidence}: {meaning}." for evidence, meaning in EVIDENCE_MEANINGS.items())
    )


class SkippedAgent(BaseModel):
    """An agent whose logs of a day are in no metric, because it was not active or not registered."""

    kind: Literal["agent", "none", "others"] = Field(
        description="none: logs without an agent. others: all agents but the 50 with the most skipped logs; on a day "
        "that was stored before revision 0011 of the tables, all."
    )
    agent_id: str | None = Field(
        description="Of more than 200 characters the first 199 and …", examples=["retired-bot"]
    )
    status: str | None = Field(description="Its status in agent_registry now; null if it is not registered.")
    logs: int
