"""The exact costs of agents that have irregular ones, from the texts of their costs: see EXACT_COSTS_SCHEMA."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from decimal import Decimal
from fractions import Fraction

import polars as pl

from metrics_pipeline.metrics.catalog import EXACT_COSTS_SCHEMA, NANO_USD_PER_USD
from metrics_pipeline.metrics.costs import fingerprint_cost
from metrics_pipeline.metrics.dimensions import OTHER, SPELLED, VALUE_COSTS_SCHEMA

# From here on EXACT_COSTS_SCHEMA holds NULL.
_LARGEST_INT128 = 17 * 10**37

#: The sum of the finite costs of a group of logs in nano-dollars, and the number of its logs.
GroupCosts = dict[tuple[str | None, str], tuple[Fraction, int]]


def exact_costs(counted: pl.DataFrame) -> dict[str | None, tuple[int, int, int, int]]:
    """The numbers of EXACT_COSTS_SCHEMA of each agent, as integers of any length. Raises ValueError.

    counted: agent_id, cost_usd (String), and the number of logs, in this order.
    """
    by_agent: dict[str | None, list[tuple[str | None, int]]] = defaultdict(list)
    for agent, cost, executions in counted.iter_rows():
        by_agent[agent].append((cost, executions))
    return {agent: _exact(costs) for agent, costs in by_agent.items()}


def exact_costs_frame(exact: Mapping[str | None, tuple[int, int, int, int]]) -> pl.DataFrame:
    """EXACT_COSTS_SCHEMA of the numbers that exact_costs() returns."""
    rows = [(agent, *map(_of_128_bits, numbers)) for agent, numbers in exact.items()]
    return pl.DataFrame(rows, schema=EXACT_COSTS_SCHEMA, orient="row")


def group_costs(counted: pl.DataFrame) -> GroupCosts:
    """By agent and value of a dimension. counted: agent_id, value, cost_usd (String), and the number of logs."""
    found: GroupCosts = {}
    for agent, value, cost, executions in counted.iter_rows():
        number = decimal_cost(cost) if cost is not None else Decimal()
        nano_usd = Fraction(number) * NANO_USD_PER_USD if number.is_finite() else Fraction()
        total, logs = found.get((agent, value), (Fraction(), 0))
        found[agent, value] = (total + nano_usd * executions, logs + executions)
    return found


def value_costs(groups: GroupCosts, keys: pl.DataFrame, dimension: str) -> pl.DataFrame:
    """VALUE_COSTS_SCHEMA of the values of a dimension that ExtractedValues.keys has.

    A value's cost is what its rounded sum adds to that of the values before it, so that the values of an agent add up
    to the agent's rounded sum. Sums of whole nano-dollars come first and stay as they are, because a value with regular
    costs only is stored with its own sum. The others are wrong by a nano-dollar at most.
    """
    own = keys.filter(pl.col("found").is_not_null(), pl.col("dimension") == dimension)
    kept = {
        (agent, found): (kind, value)
        for agent, found, kind, value in own.select("agent_id", "found", "value_kind", "value").iter_rows()
    }
    merged: dict[str | None, dict[tuple[str, str], tuple[Fraction, int]]] = defaultdict(dict)
    for (agent, found), (total, logs) in sorted(groups.items(), key=lambda item: item[0][1].encode()):
        key = kept.get((agent, found), (OTHER, SPELLED[OTHER]))
        before, logs_before = merged[agent].get(key, (Fraction(), 0))
        merged[agent][key] = (before + total, logs_before + logs)
    rows = []
    for agent, by_key in merged.items():
        up_to = Fraction()
        for (kind, value), (total, logs) in sorted(by_key.items(), key=_has_parts_of_nano_usd):
            cost = rounded(up_to + total) - rounded(up_to)
            up_to += total
            rows.append((agent, dimension, kind, value, _of_128_bits(cost), _of_128_bits(rounded(total / logs))))
    return pl.DataFrame(rows, schema=VALUE_COSTS_SCHEMA, orient="row")


def decimal_cost(text: str) -> Decimal:
    """The cost that a text denotes. Raises ValueError."""
    try:
        return Decimal(text.strip())
    except ArithmeticError as error:
        raise ValueError(f"the cost {text[:40]!r} is not a number") from error


def rounded(number: Fraction) -> int:
    """Half away from zero."""
    magnitude = (2 * abs(number.numerator) + number.denominator) // (2 * number.denominator)
    return magnitude if number >= 0 else -magnitude


def _has_parts_of_nano_usd(item: tuple[object, tuple[Fraction, int]]) -> bool:
    return item[1][0].denominator != 1


def _exact(costs: Sequence[tuple[str | None, int]]) -> tuple[int, int, int, int]:
    """Total, mean and regular total in nano-dollars, and the number of costs that are not finite."""
    decimals = [(decimal_cost(cost), executions) for cost, executions in costs if cost is not None]
    finite = [(Fraction(cost) * NANO_USD_PER_USD, executions) for cost, executions in decimals if cost.is_finite()]
    total = sum((cost * executions for cost, executions in finite), Fraction())
    regular = sum(int(cost) * executions for cost, executions in finite if cost.denominator == 1)
    return (
        rounded(total),
        rounded(total / sum(executions for _, executions in costs)),
        fingerprint_cost(regular),
        sum(executions for cost, executions in decimals if not cost.is_finite()),
    )


def _of_128_bits(number: int) -> int | None:
    return number if abs(number) < _LARGEST_INT128 else None
