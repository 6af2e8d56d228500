"""Measurements. Each contender runs in turn, several times, on the same data, and its result is compared first."""
