"""Agents, and alerts about them, the fleet and the pipeline."""

from datetime import date, datetime
from typing import Any, Literal

from pydantic import BaseModel, Field

from metrics_pipeline.api.models.metrics import ExactNumber
from metrics_pipeline.metrics.alerts import Scope, Severity


class Agent(BaseModel):
    """An agent that the registry or the stored metrics know."""

    agent_id: str = Field(examples=["support-triage"])
    name: str | None = Field(description="The name in the registry; null for an agent that is no longer registered.")
    status: str | None = Field(description="The status in the registry, 'active' or another.", examples=["active"])
    last_active_date: date | None = Field(description="The newest aggregated day with executions.")
    acknowledged_at: datetime | None = Field(
        description="Since when the checks leave the agent out, because it was retired on purpose; null: they do not."
    )
    acknowledged_reason: str | None = Field(description="Why, as `metrics-pipeline agents acknowledge` was told.")


class Alert(BaseModel):
    """Something unusual of an agent, of the fleet or of the pipeline, and the newest day on which it was unusual."""

    state: Literal["open", "resolved", "withdrawn"]
    rule: str = Field(description="The rule that found it.", examples=["unusual_success_rate"])
    scope: Scope = Field(description="What it is about.", examples=["agent"])
    agent_id: str | None = Field(description="The agent; null unless scope is agent.", examples=["support-triage"])
    severity: Severity = Field(description="That of its worst day.", examples=["critical"])
    opened_on: date = Field(description="The first unusual day.", examples=["2025-07-10"])
    last_seen_on: date | None = Field(
        description="The newest unusual day; null if it was withdrawn.", examples=["2025-07-11"]
    )
    days: int | None = Field(description="How many days were unusual; null if it was withdrawn.", examples=[2])
    resolved_on: date | None = Field(description="The day that resolved it.")
    withdrawn_at: datetime | None = Field(
        description="When a day was restated or cleared and the alert did not follow from the metrics any more."
    )
    metric: str | None = Field(
        description="What was unusual on the newest unusual day; null if the rule is not about a number.",
        examples=["success_rate"],
    )
    value: ExactNumber | None = Field(description="Its value.", examples=[0.871])
    usual_low: ExactNumber | None = Field(
        description="The smallest value that is usual, or that the rule allows; null: there is none.",
        examples=[0.9315],
    )
    usual_high: ExactNumber | None = Field(
        description="The largest value that is usual, or that the rule allows; null: there is none.",
        examples=[1],
    )
    executions: int | None = Field(
        description="The executions of that day; for a rule about logs, the logs.", examples=[500]
    )
    details: dict[str, Any] = Field(
        description="What else the rule found, for example the error type or the projected end of the month. "
        "Money is text."
    )
