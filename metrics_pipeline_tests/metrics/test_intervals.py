"""Intervals of differences: published examples, counts by hand, and a thousand comparisons of equal groups."""

import random
from collections import Counter

import pytest

from metrics_pipeline.metrics.intervals import difference_of_percentiles, difference_of_rates


# R. G. Newcombe, Statistics in Medicine 17 (1998), table II, method 10. There the first proportion minus the second.
@pytest.mark.parametrize(
    ("first", "second", "low", "high"),
    [
        ((56, 70), (48, 80), 0.0524, 0.3339),
        ((9, 10), (3, 10), 0.1705, 0.8090),
        ((5, 56), (0, 29), -0.0381, 0.1926),
        ((0, 10), (0, 20), -0.1611, 0.2775),
        ((10, 10), (0, 10), 0.6075, 1.0),
    ],
)
def test_the_interval_of_a_difference_of_rates_is_newcombes(
    first: tuple[int, int], second: tuple[int, int], low: float, high: float
) -> None:
    found = difference_of_rates((second[0], first[0]), (second[1], first[1]))
    assert (round(found.low, 4), round(found.high, 4)) == (low, high)


def test_of_a_thousand_pairs_of_equal_rates_at_most_five_and_a_half_percent_are_called_different() -> None:
    draw = random.Random(7)
    different = 0
    for _ in range(1_000):
        a, b = (sum(draw.random() < 0.95 for _ in range(400)) for _ in range(2))
        found = difference_of_rates((a, b), (400, 400))
        different += not found.low <= 0 <= found.high
    assert different <= 55


def test_the_ranks_of_a_percentile_are_those_of_the_binomial_distribution() -> None:
    # Latencies of 1 to 100 ms. Of 100 trials with 0.95, P(B <= 89) = 0.0115, P(B <= 90) = 0.0282, P(B <= 98) = 0.9629
    # and P(B <= 99) = 0.9941, so the limits are the latencies of the ranks 90 and 99 + 1.
    hundred = [(latency, 1) for latency in range(1, 101)]
    found = difference_of_percentiles((hundred, [(50, 100)]), (95, 50), 0.95)
    # The second side is certain, so the limits are 50 - 100 and 50 - 90.
    assert (found.low, found.high) == (-50, -40)


def test_of_equal_latencies_few_percentiles_are_called_different() -> None:
    draw = random.Random(11)
    different = 0
    for _ in range(400):
        sides = [sorted(Counter(int(draw.lognormvariate(6, 0.8)) for _ in range(300)).items()) for _ in range(2)]
        p95 = [sorted(value for value, count in side for _ in range(count))[284] for side in sides]
        found = difference_of_percentiles((sides[0], sides[1]), (p95[0], p95[1]), 0.95)
        different += not found.low <= 0 <= found.high
    assert different <= 22
