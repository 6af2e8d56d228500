"""Whether a stored day still adds up to its ledger row: no execution, error or dollar was lost or invented."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import date

from metrics_pipeline.metrics.costs import fingerprint_cost
from metrics_pipeline.metrics.reconciliation import LedgerRow


@dataclass(frozen=True)
class StoredTotals:
    """A day's row in the ledger, and the sums over its stored rows of metrics.

    contradictory_agents: agents whose row contradicts itself, such as errors that do not sum to its failed executions.
    digest, breakdown_digest: as in LedgerRow, of the rows as they are; None if the rows by value were not read.
    """

    ledger: LedgerRow
    rows: int
    executions: int
    successful: int
    failed: int
    errors: int
    tokens: int
    cost_nano_usd: int
    contradictory_agents: tuple[str, ...]
    digest: str
    breakdown_digest: str | None = None

    @property
    def is_altered(self) -> bool:
        """Whether the rows of agents are not those that were published."""
        return _differ(self.ledger.rows_digest, self.digest)

    @property
    def is_breakdown_altered(self) -> bool:
        """Whether the rows by value are not those that were published."""
        return _differ(self.ledger.breakdown_digest, self.breakdown_digest)

    @property
    def has_ledger_cost(self) -> bool:
        """Whether the ledger alone confirms the stored cost.

        It does not if logs were skipped (its total includes them), or if costs were finer than a nano-dollar (its total
        excludes them).
        """
        ledger = self.ledger
        return ledger.skipped_logs == 0 and self.cost_nano_usd == ledger.source_fingerprint.cost_nano_usd


def _differ(published: str | None, present: str | None) -> bool:
    """Whether two digests of rows differ. False if one is unknown, or if they are of other columns."""
    if published is None or present is None:
        return False
    before, now = published.partition(":"), present.partition(":")
    return before[0] == now[0] and before != now


@dataclass(frozen=True)
class AgentLogs:
    """The number and the cost of an agent's present logs of a day.

    regular_cost_nano_usd: the fingerprint_cost() of the sum of the costs that are whole nano-dollars.
    cost_nano_usd: the exact sum, rounded as it is stored.
    """

    metric_date: date
    agent_id: str | None
    logs: int
    regular_cost_nano_usd: int
    cost_nano_usd: int


@dataclass(frozen=True)
class LogCosts:
    """The number and the cost of a day's present logs.

    cost_nano_usd: over all logs, computed as in the ledger's fingerprint. aggregated_cost_nano_usd: the sum over the
    agents that have a row, each agent's exact cost rounded as it is stored.
    """

    logs: int
    cost_nano_usd: int
    aggregated_cost_nano_usd: int


@dataclass(frozen=True)
class SkippedAgent:
    """An agent that has logs in no metric: how many logs, on how many days."""

    agent_id: str | None
    logs: int
    days: int


def log_costs(logs: Sequence[AgentLogs], with_rows: Mapping[date, Collection[str]]) -> dict[date, LogCosts]:
    """The costs of each day that has logs. `with_rows` are the agents that have a row of the day."""
    days: dict[date, list[AgentLogs]] = {}
    for each in logs:
        days.setdefault(each.metric_date, []).append(each)
    return {
        day: LogCosts(
            logs=sum(each.logs for each in agents),
            cost_nano_usd=fingerprint_cost(sum(each.regular_cost_nano_usd for each in agents)),
            aggregated_cost_nano_usd=sum(
                each.cost_nano_usd for each in agents if each.agent_id in with_rows.get(day, ())
            ),
        )
        for day, agents in days.items()
    }


def skipped_agents(logs: Sequence[AgentLogs], with_rows: Mapping[date, Collection[str]]) -> list[SkippedAgent]:
    """The agents that have logs but no row on some day, most such logs first."""
    skipped: dict[str | None, list[int]] = {}
    for each in logs:
        if each.agent_id not in with_rows.get(each.metric_date, ()):
            skipped.setdefault(each.agent_id, []).append(each.logs)
    agents = [SkippedAgent(agent, sum(counts), len(counts)) for agent, counts in skipped.items()]
    return sorted(agents, key=lambda agent: (-agent.logs, agent.agent_id is None, agent.agent_id or ""))


def impossible_pruning(ledger: LedgerRow) -> list[str]:
    """What the ledger says of the day's pruning that cannot be; empty for a day of which it can."""
    if (ledger.raw_pruned_logs or 0) <= ledger.source_logs:
        return []
    return [f"pruned logs {ledger.raw_pruned_logs}, but source logs {ledger.source_logs}"]


def is_cost_compared(day: StoredTotals, costs: LogCosts | None) -> bool:
    """Whether the day's stored cost can be compared: with the ledger, or with its logs if they are unchanged."""
    logs = day.ledger.source_fingerprint
    return day.has_ledger_cost or (
        costs is not None and (costs.logs, costs.cost_nano_usd) == (logs.logs, logs.cost_nano_usd)
    )


def contradictions(day: StoredTotals, costs: LogCosts | None) -> list[str]:
    """What does not add up, a few words each; empty for a day that is as it was stored.

    `costs` are needed if the ledger alone does not confirm the cost. Logs that have changed since the day was stored
    cannot confirm its rows, so they are ignored.
    """
    ledger, logs = day.ledger, day.ledger.source_fingerprint
    compared = [
        ("source logs", ledger.source_logs, "aggregated and skipped", ledger.aggregated_logs + ledger.skipped_logs),
        ("source logs", ledger.source_logs, "fingerprint", logs.logs),
        ("executions", day.executions, "aggregated logs", ledger.aggregated_logs),
        ("rows", day.rows, "agents in the ledger", ledger.agents),
        ("errors", day.errors, "failed executions", day.failed),
    ]
    if ledger.skipped_logs == 0:
        compared += [
            ("successful executions", day.successful, "ledger", logs.successful),
            ("failed executions", day.failed, "ledger", logs.failed),
            ("tokens", day.tokens, "ledger", logs.tokens),
        ]
    if not day.has_ledger_cost and costs is not None and is_cost_compared(day, costs):
        compared.append(("cost in nano-dollars", day.cost_nano_usd, "logs", costs.aggregated_cost_nano_usd))
    broken = [f"{name} {stored}, but {source} {other}" for name, stored, source, other in compared if stored != other]
    broken += impossible_pruning(ledger)
    if ledger.skipped_logs > 0:
        # Executions that are not in the rows must be among the skipped logs.
        skipped = ledger.skipped_logs
        broken += [
            f"{name} executions {stored}, which {total} in the ledger and {skipped} skipped logs do not allow"
            for name, stored, total in (
                ("successful", day.successful, logs.successful),
                ("failed", day.failed, logs.failed),
            )
            if not 0 <= total - stored <= ledger.skipped_logs
        ]
    if day.contradictory_agents:
        broken.append(f"rows that contradict themselves: {', '.join(map(repr, day.contradictory_agents))}")
    if day.is_altered and not broken:
        broken.append("its rows were altered after they were stored")
    if day.is_breakdown_altered:
        broken.append("its rows by value were altered after they were stored")
    return broken
