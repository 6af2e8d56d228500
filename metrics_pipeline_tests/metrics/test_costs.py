"""Costs by hand, each alone and all in one batch."""

import polars as pl
import pytest

from metrics_pipeline.metrics.costs import parse_costs

NANO_USD = 1_000_000_000

#: The text, its nano-dollars, whether it is irregular, and whether it is no number.
COSTS = {
    None: (None, False, False),
    "0": (0, False, False),
    "1.5": (1_500_000_000, False, False),
    "-0.000000001": (-1, False, False),
    "0.123456789": (123_456_789, False, False),
    "0.1234567891": (None, True, False),
    "-12345678901.123456789": (-12_345_678_901_123_456_789, False, False),
    "12345678901": (12_345_678_901 * NANO_USD, False, False),
    "9999999999999999999.999999999": (10**28 - 1, False, False),
    "1" + "0" * 19: (None, True, False),
    "1" + "0" * 100: (None, True, False),
    "NaN": (None, False, True),
    "Infinity": (None, False, True),
    "-Infinity": (None, False, True),
}


@pytest.mark.parametrize(("text", "expected"), COSTS.items(), ids=str)
def test_a_cost_alone_is_parsed(text: str | None, expected: tuple[int | None, bool, bool]) -> None:
    costs = parse_costs(pl.Series([text], dtype=pl.String))
    assert costs.rows() == [expected]
    assert costs.schema == {
        "cost_nano_usd": pl.Int128,
        "is_cost_irregular": pl.Boolean,
        "is_cost_not_finite": pl.Boolean,
    }


def test_costs_together_are_parsed_as_each_alone() -> None:
    assert parse_costs(pl.Series(COSTS.keys(), dtype=pl.String)).rows() == list(COSTS.values())


def test_no_costs_are_no_rows() -> None:
    assert parse_costs(pl.Series([], dtype=pl.String)).rows() == []
