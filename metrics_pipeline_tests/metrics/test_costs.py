"""Costs by hand, each alone and all in one batch."""

import polars as pl
import pytest

from metrics_pipeline.metrics.costs import fingerprint_cost, nano_usd

NANO_USD = 1_000_000_000

#: The text of a sum, as numeric has it, and its nano-dollars.
COSTS = {
    None: None,
    "0": 0,
    "0.000": 0,
    "1.5": 1_500_000_000,
    "-0.000000001": -1,
    "0.123456789": 123_456_789,
    "0.1234567891": None,
    "0.1234567890": None,
    "-12345678901.123456789": -12_345_678_901_123_456_789,
    "12345678901": 12_345_678_901 * NANO_USD,
    "9999999999999999999.999999999": 10**28 - 1,
    "-9999999999999999999.999999999": 1 - 10**28,
    "1" + "0" * 19: None,
    "-1" + "0" * 19: None,
    "1" + "0" * 28: None,
    "1" + "0" * 100: None,
    "NaN": None,
    "Infinity": None,
    "-Infinity": None,
}


def nano_usd_of(*texts: str | None) -> pl.Series:
    return pl.select(nano_usd(pl.lit(pl.Series(texts, dtype=pl.String)))).to_series()


@pytest.mark.parametrize(("text", "expected"), COSTS.items(), ids=str)
def test_a_cost_alone_is_read(text: str | None, expected: int | None) -> None:
    assert nano_usd_of(text).to_list() == [expected]
    assert nano_usd_of(text).dtype == pl.Int128


def test_costs_together_are_read_as_each_alone() -> None:
    assert nano_usd_of(*COSTS).to_list() == list(COSTS.values())


def test_no_costs_are_no_numbers() -> None:
    assert nano_usd_of().to_list() == []


def test_a_fingerprint_keeps_a_cost_of_any_day_and_of_larger_ones_what_fits() -> None:
    half = 10**37 // 2
    assert [fingerprint_cost(cost) for cost in (0, -7, half - 1, -half)] == [0, -7, half - 1, -half]
    assert [fingerprint_cost(cost) for cost in (half, -half - 1, 10**37 + 3, -(10**40) - 3)] == [-half, half - 1, 3, -3]
