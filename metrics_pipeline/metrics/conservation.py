"""Whether a stored day still adds up to its row in the ledger: no execution, error or dollar lost or invented."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

from metrics_pipeline.metrics.fingerprint import SourceFingerprint


@dataclass(frozen=True)
class StoredTotals:
    """A day's row in the ledger, and the sums over its stored rows of metrics.

    contradictory_agents: those whose row contradicts itself, such as errors that do not sum to its failed executions.
    """

    metric_date: date
    source_logs: int
    aggregated_logs: int
    skipped_logs: int
    agents: int
    fingerprint: SourceFingerprint
    is_sealed: bool
    rows: int
    executions: int
    successful: int
    failed: int
    errors: int
    tokens: int
    cost_nano_usd: int
    contradictory_agents: tuple[str, ...]

    @property
    def has_ledger_cost(self) -> bool:
        """Whether the ledger alone confirms the stored cost.

        It cannot where logs were skipped, or had costs finer than a nano-dollar: its total has the former and not the
        latter.
        """
        return self.skipped_logs == 0 and self.cost_nano_usd == self.fingerprint.cost_nano_usd


@dataclass(frozen=True)
class LogCosts:
    """What the logs of a day, as they stand now, say of its cost.

    cost_nano_usd: the total of the ledger's fingerprint, over all logs. aggregated_cost_nano_usd: the sum over the
    agents that have a row, each agent's exact cost rounded as it is stored.
    """

    logs: int
    cost_nano_usd: int
    aggregated_cost_nano_usd: int


def expired_days(days: Sequence[StoredTotals], cutoff: date) -> set[date]:
    """Those of `days`, which are all of the ledger and oldest first, whose rows retention deleted.

    It seals a day and deletes all of its rows, oldest days first, so such a day lies before `cutoff`, or before every
    day that has rows: the policy may have kept less then. A day without rows elsewhere was not deleted by retention.
    """
    first_with_rows = next((day.metric_date for day in days if day.rows > 0), date.max)
    return {
        day.metric_date
        for day in days
        if day.is_sealed and day.rows == 0 and day.metric_date < max(cutoff, first_with_rows)
    }


def is_cost_compared(day: StoredTotals, costs: LogCosts | None) -> bool:
    """Whether anything is left to compare the day's stored cost with: the ledger, or the logs that it was made of."""
    return day.has_ledger_cost or (
        costs is not None and (costs.logs, costs.cost_nano_usd) == (day.fingerprint.logs, day.fingerprint.cost_nano_usd)
    )


def contradictions(day: StoredTotals, costs: LogCosts | None) -> list[str]:
    """What does not add up, a few words each; empty for a day that is as it was stored.

    `costs` are needed where the ledger alone does not confirm the cost. Logs that have changed since the day was
    stored say nothing of its rows, so they are left aside.
    """
    logs = day.fingerprint
    compared = [
        ("source logs", day.source_logs, "aggregated and skipped", day.aggregated_logs + day.skipped_logs),
        ("source logs", day.source_logs, "fingerprint", logs.logs),
        ("executions", day.executions, "aggregated logs", day.aggregated_logs),
        ("rows", day.rows, "agents in the ledger", day.agents),
        ("errors", day.errors, "failed executions", day.failed),
    ]
    if day.skipped_logs == 0:
        compared += [
            ("successful executions", day.successful, "ledger", logs.successful),
            ("failed executions", day.failed, "ledger", logs.failed),
            ("tokens", day.tokens, "ledger", logs.tokens),
        ]
    if not day.has_ledger_cost and costs is not None and is_cost_compared(day, costs):
        compared.append(("cost in nano-dollars", day.cost_nano_usd, "logs", costs.aggregated_cost_nano_usd))
    broken = [f"{name} {stored}, but {source} {other}" for name, stored, source, other in compared if stored != other]
    if day.skipped_logs > 0:
        # What is not in the rows must be among the skipped logs.
        broken += [
            f"{name} executions {stored}, which {total} in the ledger and {day.skipped_logs} skipped logs do not allow"
            for name, stored, total in (
                ("successful", day.successful, logs.successful),
                ("failed", day.failed, logs.failed),
            )
            if not 0 <= total - stored <= day.skipped_logs
        ]
    if day.contradictory_agents:
        broken.append(f"rows that contradict themselves: {', '.join(map(repr, day.contradictory_agents))}")
    return broken
