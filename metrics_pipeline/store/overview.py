"""Each agent's newest day, 7 and 28 days, for the overview in the Dagster UI."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal

from sqlalchemy import Connection, text

from metrics_pipeline.store.unlogged import ROWS_AND_DAYS

#: How many days, up to the newest, each sum is over. The 7 days before the last 7 are what a change is from.
_PERIODS = {"day": (0, 0), "week": (6, 0), "month": (27, 0), "week_before": (13, 7)}
_OLDEST = max(first for first, _ in _PERIODS.values())

_SUMS = ",\n       ".join(
    f"coalesce(sum({column}) FILTER (WHERE age BETWEEN {last} AND {first}), 0) AS {period}_{name}"
    for period, (first, last) in _PERIODS.items()
    for name, column in (
        ("executions", "total_executions"),
        ("failures", "failed_executions"),
        ("cost", "total_cost_usd"),
    )
)
# A row that another program stored has a cost, and may have no day in the ledger.
_LACKS = "coalesce('cost_usd' = ANY(unlogged), false)"
_LACKS_COST = ", ".join(
    f"bool_and({_LACKS}) FILTER (WHERE age BETWEEN {last} AND {first}) AS {period}_lacks_cost"
    for period, (first, last) in _PERIODS.items()
)
_AGENTS = text(f"""
SELECT agent_id, count(*) OVER () AS agents,
       {_SUMS},
       {_LACKS_COST}
FROM (SELECT metrics.*, unlogged, :day - metric_date AS age FROM {ROWS_AND_DAYS}
      WHERE metric_date BETWEEN :first AND :day) AS days
GROUP BY agent_id
ORDER BY month_executions DESC, agent_id
LIMIT :limit""")
_STORED = text("""
SELECT :day - metric_date FROM metric_day_ledger
WHERE metric_date BETWEEN :first AND :day AND metrics_expired_at IS NULL""")


@dataclass(frozen=True)
class Activity:
    """What an agent did in a period; its cost in USD, None if the logs of none of its days had a cost."""

    executions: int
    failures: int
    cost_usd: Decimal | None


@dataclass(frozen=True)
class AgentOverview:
    """An agent's newest day, the 7 and 28 days up to it, and the 7 days before these 7."""

    agent_id: str
    day: Activity
    week: Activity
    month: Activity
    week_before: Activity


@dataclass(frozen=True)
class Overview:
    """The busiest agents first, how many there are in all, and how many of each period's days are stored."""

    agents: Sequence[AgentOverview]
    number_of_agents: int
    days_stored: dict[str, int]

    def is_complete(self, period: str) -> bool:
        """Whether all days of the period are stored, so that its sums can be compared."""
        first, last = _PERIODS[period]
        return self.days_stored[period] == first - last + 1


def agents_overview(connection: Connection, day: date, *, limit: int) -> Overview:
    """What at most `limit` agents did in the days up to `day`. Days that are not stored add nothing."""
    span = {"day": day, "first": day - timedelta(days=_OLDEST)}
    rows = connection.execute(_AGENTS, span | {"limit": limit}).mappings().all()
    ages = connection.scalars(_STORED, span).all()
    agents = [
        AgentOverview(
            row["agent_id"],
            **{
                period: Activity(
                    int(row[f"{period}_executions"]),
                    int(row[f"{period}_failures"]),
                    None if row[f"{period}_lacks_cost"] else Decimal(row[f"{period}_cost"]),
                )
                for period in _PERIODS
            },
        )
        for row in rows
    ]
    return Overview(
        agents,
        rows[0]["agents"] if rows else 0,
        {period: sum(last <= age <= first for age in ages) for period, (first, last) in _PERIODS.items()},
    )
