"""Whether two groups of executions differ: intervals of the differences of success rates and of percentiles.

Both combine an interval of each side by the square-and-add method of Newcombe (1998, method 10), also called MOVER: the
distance of a limit from the difference is the root of the sum of the squared distances of the sides' limits.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, floor, lgamma, log, sqrt
from statistics import NormalDist

CONFIDENCE = 0.95

#: Below these, the words are "too few" and no interval is given. With fewer latencies than 73, no two of them enclose
#: the 95th percentile with a probability of 95 %.
MIN_EXECUTIONS = 30
MIN_LATENCIES = 100

_TAIL = (1 - CONFIDENCE) / 2
_Z = NormalDist().inv_cdf(1 - _TAIL)


@dataclass(frozen=True)
class Interval:
    """An interval that encloses the true value with a probability of about CONFIDENCE."""

    low: float
    high: float


def difference_of_rates(successes: tuple[int, int], executions: tuple[int, int]) -> Interval:
    """The interval of the second rate minus the first: Newcombe's, from the sides' score intervals of Wilson."""
    rates = [number / of for number, of in zip(successes, executions, strict=True)]
    return _combined(rates, [_wilson(rate, of) for rate, of in zip(rates, executions, strict=True)])


def difference_of_percentiles(
    sides: tuple[Sequence[tuple[int, int]], Sequence[tuple[int, int]]], percentiles: tuple[float, float], q: float
) -> Interval:
    """The interval of the second percentile minus the first.

    sides: of each, the latencies with their executions, sorted by latency. The interval of a side is the latencies at
    the ranks between which its percentile lies by the binomial distribution: no shape of the latencies is assumed.
    """
    return _combined(percentiles, [_order_statistics(side, q) for side in sides])


def _combined(values: Sequence[float], intervals: Sequence[Interval]) -> Interval:
    (first, second), (of_first, of_second) = values, intervals
    difference = second - first
    return Interval(
        difference - sqrt((second - of_second.low) ** 2 + (of_first.high - first) ** 2),
        difference + sqrt((of_second.high - second) ** 2 + (first - of_first.low) ** 2),
    )


def _wilson(rate: float, n: int) -> Interval:
    square = _Z**2 / n
    center = (rate + square / 2) / (1 + square)
    half = _Z * sqrt(rate * (1 - rate) / n + square / (4 * n)) / (1 + square)
    return Interval(center - half, center + half)


def _order_statistics(pairs: Sequence[tuple[int, int]], q: float) -> Interval:
    n = sum(executions for _, executions in pairs)
    # The percentile is below the latency of rank r (from 1) if fewer than r latencies are below it.
    low = _binomial_quantile(n, q, _TAIL)
    high = _binomial_quantile(n, q, 1 - _TAIL) + 1
    return Interval(_of_rank(pairs, max(low, 1)), _of_rank(pairs, min(high, n)))


def _of_rank(pairs: Sequence[tuple[int, int]], rank: int) -> int:
    for latency, executions in pairs:
        rank -= executions
        if rank <= 0:
            return latency
    return pairs[-1][0]


def _binomial_quantile(n: int, q: float, probability: float) -> int:
    """The smallest k of which a binomial number of n trials is not larger with at least this probability."""
    # Twelve standard deviations below the mean nothing is left that a float could tell from 0.
    k = max(floor(n * q - 12 * sqrt(n * q * (1 - q))), 0)
    total = 0.0
    while True:
        total += exp(lgamma(n + 1) - lgamma(k + 1) - lgamma(n - k + 1) + k * log(q) + (n - k) * log(1 - q))
        if total >= probability or k >= n:
            return k
        k += 1
