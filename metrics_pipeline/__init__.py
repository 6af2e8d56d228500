"""Daily metrics of AI agents: a Dagster code location on PostgreSQL and Polars."""

__version__ = "0.1.0"
