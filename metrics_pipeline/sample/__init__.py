"""Realistic execution logs for the demo, for tests and for benchmarks."""
