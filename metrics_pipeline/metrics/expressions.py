"""The arithmetic of metrics as Polars expressions: exact quotients, decimals, and PostgreSQL's percentiles."""

from decimal import Decimal

import polars as pl

#: One entry of a list of pairs: a latency, and how many executions had it.
LATENCY_COUNT = pl.Struct({"latency_ms": pl.Int32, "executions": pl.Int64})


def rounded_quotient(numerator: pl.Expr, denominator: pl.Expr) -> pl.Expr:
    """Numerator / denominator in whole numbers, rounded half away from zero; the denominator is positive."""
    magnitude = (2 * numerator.abs() + denominator) // (2 * denominator)
    # Polars 2.1 has no unary minus for Int128.
    return pl.when(numerator < 0).then(0 - magnitude).otherwise(magnitude)


def decimal(scaled: pl.Expr, unit: Decimal) -> pl.Expr:
    """A whole number of units as a decimal number, with the unit's places."""
    return scaled.cast(pl.Decimal(38, 0), strict=False) * pl.lit(unit)


def weighted_percentile(counts: pl.Expr, q: float) -> pl.Expr:
    """PostgreSQL's percentile_cont(q)::int of each list of pairs, as Int64; NULL for an empty list.

    counts: List(LATENCY_COUNT), sorted by latency; a pair counts once per execution. The same operations in double
    precision: position = q * (n - 1), value = low + (position - floor(position)) * (high - low), rounded half to even
    (src/backend/utils/adt/orderedsetaggs.c, float8_lerp).
    """
    # The difference of two 32-bit numbers needs more bits.
    latencies = pl.element().struct.field("latency_ms").cast(pl.Float64)
    executions = pl.element().struct.field("executions")
    position = q * (executions.sum() - 1)
    up_to = executions.cum_sum()
    low, high = (latencies.filter(up_to > place).first() for place in (position.floor(), position.ceil()))
    value = low + (position - position.floor()) * (high - low)
    return counts.list.agg(value.round(0, mode="half_to_even").cast(pl.Int64))
